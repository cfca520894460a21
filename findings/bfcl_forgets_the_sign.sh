#!/bin/sh
# bfcl-eval: arguments that are texts, compared with the reference.
#
# Expected: "-5" is not "5", "1/2" not "12" and "3.14" not "314"; case and spaces may be forgiven.
# Happens:  commas, points, slashes, hyphens, underscores, stars, carets and blanks are removed from both texts before they
#           are compared, so signs, decimal points, fractions and powers do not count. (The table of models, which asks
#           for every provider's client, is left out here.)
. "$(dirname "$0")/lib.sh"
environment requests==2.34.2
without_dependencies bfcl-eval==2026.3.23
"$python" - <<'END'
import sys, types

table = types.ModuleType("bfcl_eval.constants.model_config")
table.MODEL_CONFIG_MAPPING = {"model": types.SimpleNamespace(underscore_to_dot=False)}
sys.modules[table.__name__] = table
from bfcl_eval.constants.enums import Language
from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker

called = [{"name": "note", "description": "", "parameters": {
    "type": "dict", "properties": {"value": {"type": "string"}}, "required": ["value"]}}]

def right(given, wanted):
    call, answer = [{"note": {"value": given}}], [{"note": {"value": [wanted]}}]
    return ast_checker(called, call, answer, Language.PYTHON, "simple_python", "model")["valid"]

for given, wanted in (("-5", "5"), ("1/2", "12"), ("3.14", "314"), ("x^2", "x2"), ("a*b", "ab")):
    print(f"{given!r} where {wanted!r} is asked for: {'right' if right(given, wanted) else 'wrong'}")
    assert right(given, wanted)
assert not right("6", "5") and not right("x+y", "xy")
END
