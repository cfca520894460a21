#!/bin/sh
# Run the scripts of this folder, or those that are named, and say of each whether its behaviour has held.
# One line each; ends with 0 if all hold. Environments of the same packages are made once and removed at the end.
set -u
cd "$(dirname "$0")" || exit 3
FINDINGS_FOLDER=$(mktemp -d)
export FINDINGS_FOLDER
trap 'rm -rf "$FINDINGS_FOLDER"' EXIT
trap 'exit 130' INT TERM
[ $# -gt 0 ] || set -- *.sh
worst=0
for script in "$@"; do
  script=$(basename "$script" .sh)
  case $script in lib | run) continue ;; esac
  log=$FINDINGS_FOLDER/$script.log
  sh "./$script.sh" >"$log" 2>&1
  code=$?
  case $code in
    0) said=held ;;
    1) said=changed ;;
    *) said="not run" ;;
  esac
  printf '%-8s %-40s %s\n' "$said" "$script" "$(grep '^with ' "$log" | sed 's/^with //' | paste -sd' ' -)"
  [ $code -eq 0 ] || { worst=1; grep -v '^with ' "$log" | tail -n 8 | sed 's/^/           /'; }
done
exit $worst
