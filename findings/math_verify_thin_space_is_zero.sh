#!/bin/sh
# math-verify: thousands set apart by a thin space, as LaTeX texts write them.
#
# Expected: \boxed{1\,000} is 1000, as \boxed{1,000} is.
# Happens:  it is read as 1 times 000, so it equals 0, and is wrong where 1000 is asked for. A plain blank does the same.
. "$(dirname "$0")/lib.sh"
environment 'math-verify[antlr4_13_2]==0.9.0'
"$python" - <<'END'
from math_verify import parse, verify

def equal(gold, answer):
    return verify(parse(rf"\boxed{{{gold}}}"), parse(rf"\boxed{{{answer}}}"))

for answer in (r"1\,000", "1 000", r"25\,000"):
    whole = answer.replace(r"\,", "").replace(" ", "")
    print(f"{answer} for {whole}: {equal(whole, answer)}; for 0: {equal('0', answer)}")
    assert not equal(whole, answer) and equal("0", answer)
print("1,000 for 1000:", equal("1000", "1,000"))
assert equal("1000", "1,000")
END
