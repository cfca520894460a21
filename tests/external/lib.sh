# Sourced by the scripts beside it: builds the wheel and installs it in an environment of its own, beside the dependencies
# of PYTHON's. Leaves `python`, `root`, `work` (removed at the end; `work/environment`, `work/empty`) and `site`.
set -euo pipefail
python=$(realpath -s "${PYTHON:-.venv/bin/python}")
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mkdir "$work/source" "$work/empty"
cp -r "$root"/{pyproject.toml,setup.py,MANIFEST.in,README.md,LICENSE,configs,lit_sdpo} "$work/source"
(cd "$work/source" && "$python" -c 'from setuptools import build_meta; build_meta.build_wheel("..")' >/dev/null 2>&1)
"$python" -m venv "$work/environment"
site=$(echo "$work"/environment/lib/python3.*/site-packages)
"$work/environment/bin/pip" install --quiet --no-index --no-deps "$work"/lit_sdpo-*.whl 2>/dev/null
"$python" -c 'import sys; print(*(x for x in sys.path if x.endswith("site-packages")), sep="\n")' >"$site/dependencies.pth"
