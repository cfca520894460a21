# What the scripts of this folder share; sourced, not run.
#
# A script names the packages it needs with `environment`, which makes an environment of them in a temporary folder, and
# then runs Python on real input with "$python". It ends with 0 where the behaviour is the one described at its top, with
# 1 where it is another, with 3 where the packages cannot be installed.
#
#   PYTHON            the interpreter that makes the environment (default python3)
#   VERSIONS=newest   the newest releases in place of the pinned ones; torch stays, as its newest build may not fit a CPU
#   FINDINGS_FOLDER   a folder for environments that several scripts share; whoever names it removes it

set -eu
here=$(cd "$(dirname "$0")" && pwd)
constraints=$here/../constraints.txt
folder=$(mktemp -d)
trap '[ $? -eq 0 ] || tail -n 4 "$folder/said" 2>/dev/null; rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 HF_HOME="$folder/hub" TOKENIZERS_PARALLELISM=false TMPDIR="$folder"

# environment package==version ...: of pinned packages; `python` is its interpreter from here on.
environment() {
  key=$(printf '%s %s' "${VERSIONS:-pinned}" "$*" | cksum | cut -d' ' -f1)
  place=${FINDINGS_FOLDER:-$folder}/$key
  python=$place/bin/python
  [ -e "$place/.complete" ] || { _install "$@" >"$folder/log" 2>&1 && touch "$place/.complete"; } || {
    tail -n 5 "$folder/log"
    echo "the packages cannot be installed: $*"
    exit 3
  }
  _versions "$@"
}

# without_dependencies package==version: one more package, none of what it asks for.
without_dependencies() {
  [ -e "$place/.$1" ] || { "$python" -m pip install --quiet --no-deps "$(_wanted "$1")" >"$folder/log" 2>&1 &&
    touch "$place/.$1"; } || {
    echo "the package cannot be installed: $1"
    exit 3
  }
  _versions "$1"
}

_wanted() {
  case ${VERSIONS:-pinned}:$1 in
    newest:torch==*) echo "$1" ;;
    newest:*) echo "${1%%==*}" ;;
    *) echo "$1" ;;
  esac
}

_install() {
  wanted=
  torch=
  for package in "$@"; do
    case $package in torch==*) torch=$package ;; *) wanted="$wanted $(_wanted "$package")" ;; esac
  done
  if [ "${VERSIONS:-pinned}" = newest ]; then
    held=$folder/held
    grep '^torch==' "$constraints" >"$held"
  else
    held=$constraints
  fi
  "${PYTHON:-python3}" -m venv "$place"
  # torch alone first, and held to its version afterwards, as the Makefile does it.
  [ -z "$torch" ] || "$python" -m pip install --quiet -c "$constraints" "$torch"
  # shellcheck disable=SC2086
  "$python" -m pip install --quiet -c "$held" $wanted
}

_versions() {
  "$python" -c 'import sys; from importlib.metadata import version
print("with", ", ".join(f"{name} {version(name)}" for name in (word.split("==")[0].split("[")[0] for word in sys.argv[1:])))' "$@"
}
