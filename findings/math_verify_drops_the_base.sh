#!/bin/sh
# math-verify: numbers in another base, as competition problems ask for them.
#
# Expected: 101_2 is five, or is not understood; 101_2 and 101_3 differ.
# Happens:  the base is dropped: 101_2 equals 101 and 101_3, and is wrong where 5 is asked for.
. "$(dirname "$0")/lib.sh"
environment 'math-verify[antlr4_13_2]==0.9.0'
"$python" - <<'END'
from math_verify import parse, verify

def equal(gold, answer):
    return verify(parse(rf"\boxed{{{gold}}}"), parse(rf"\boxed{{{answer}}}"))

found = {(gold, answer): equal(gold, answer) for gold, answer in (("101_2", "101"), ("101_2", "101_3"), ("5", "101_2"))}
for (gold, answer), same in found.items():
    print(f"{answer} for {gold}: {same}")
assert list(found.values()) == [True, True, False]
END
