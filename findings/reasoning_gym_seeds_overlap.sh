#!/bin/sh
# reasoning-gym: seed 0 to train on and seed 1 to evaluate on.
#
# Expected: other seeds, other puzzles.
# Happens:  puzzle i of seed s is puzzle i - 1 of seed s + 1, for nearly all generators: of 500 puzzles with seed 1 all but
#           one are among those of seed 0. Seeds have to be further apart than sets are long.
. "$(dirname "$0")/lib.sh"
environment reasoning-gym==0.1.25
"$python" - <<'END'
import reasoning_gym

for name in ("chain_sum", "basic_arithmetic", "word_sorting", "leg_counting", "base_conversion", "syllogism"):
    training, evaluation = (reasoning_gym.create_dataset(name, seed=seed, size=500) for seed in (0, 1))
    shifted = sum(training[k + 1]["question"] == evaluation[k]["question"] for k in range(499))
    print(f"{name}: {shifted} of the first 499 puzzles of seed 1 are those of seed 0, one place on")
    assert shifted == 499
END
