#!/usr/bin/env bash
# The wheel in an empty folder, as someone has it who installed the package: it is built, installed in an environment of
# its own beside the dependencies of PYTHON's, and used. Needs no network; 50 CPU seconds.
#   PYTHON=.venv/bin/python tests/external/wheel.sh
. "$(dirname "$0")/lib.sh"

cd "$work/empty"
unset PYTHONPATH
run() { echo "\$ lit-sdpo $*" && "$work/environment/bin/lit-sdpo" "$@"; }
"$work/environment/bin/python" -c "import lit_sdpo; assert '$site' in lit_sdpo.__file__, lit_sdpo.__file__"
run --version
run new mine
(cd mine && run data check run.yaml)
run new micro --from micro/quickstart
(cd micro && run fit --config run.yaml --print_config >printed.yaml && grep -q MicroDataModule printed.yaml)
run plan micro/sdpo >plan.txt && head -3 plan.txt
run fit --config micro/quickstart --data.steps 1 --data.order '[math]' --data.eval_prompts 2 --trainer.enable_progress_bar false >fit.txt && tail -3 fit.txt
test -f runs/quickstart/version_0/matrix.json
echo "the wheel works in an empty folder"
