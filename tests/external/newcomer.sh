#!/usr/bin/env bash
# A newcomer's first run: an empty folder, the wheel, 30 rows of one's own, a reward written for TRL, a model folder. What
# `lit-sdpo new` prints is done, line by line, and nothing else; the training has to run at the first try. The wheel is
# installed in an environment of its own beside the dependencies of PYTHON's. Needs no network; about 100 CPU seconds.
#   PYTHON=.venv/bin/python tests/external/newcomer.sh
. "$(dirname "$0")/lib.sh"
(cd "$root" && "$python" -c "
import sys; from pathlib import Path; from tests.tiny_model import save_tiny_model
save_tiny_model(Path(sys.argv[1]))" "$work/model")

cd "$work/empty"
unset PYTHONPATH
export PATH="$work/environment/bin:$PATH" HF_HUB_OFFLINE=1
test "$(command -v lit-sdpo)" = "$work/environment/bin/lit-sdpo"
lit-sdpo new mine --rewards | tee printed.txt

# Their own: rows of a conversation with a column that only the reward reads, and the reward as it stood in a TRL script.
"$work/environment/bin/python" - <<'EOF'
import json
rows = [
    {"prompt": [{"role": "system", "content": "Be short."}, {"role": "user", "content": f"Which letter is number {n}?"}],
     "solution": chr(96 + n % 26 + 1), "level": n}
    for n in range(30)
]
for name, some in (("train", rows[:24]), ("test", rows[24:])):
    with open(f"mine/{name}.jsonl", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in some)
EOF
cat >mine/my_rewards.py <<'EOF'
import re


def correct(prompts, completions, completion_ids, solution, level, trainer_state, log_extra, log_metric, **kwargs):
    texts = [completion[0]["content"] for completion in completions]
    found = [re.search(r"[a-z]", text) for text in texts]
    log_extra("solution", solution)
    log_metric("answered", sum(match is not None for match in found) / len(found))
    return [None if m is None else float(m[0] == s) - len(ids) / 1000 for m, s, ids in zip(found, solution, completion_ids)]
EOF

cd mine
grep -E '^  lit-sdpo' ../printed.txt | sed "s|PATH_OR_HUB_NAME|$work/model|; s|  *#.*||" >../commands.txt
test -s ../commands.txt
while read -r command; do
  echo "\$ $command"
  bash -c "$command" </dev/null >../output.txt 2>../errors.txt || { tail -n 20 ../output.txt ../errors.txt; exit 1; }
  tail -n 4 ../output.txt
done <../commands.txt
test -f runs/mine/version_0/matrix.json
grep -q '"told": {"solution"' runs/mine/version_0/samples.jsonl
echo "a newcomer trains at the first try"
