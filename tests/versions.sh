#!/usr/bin/env bash
# The smoke preset on every interpreter, with the pinned and with the newest versions allowed:
#
#   tests/versions.sh python3.11 python3.12 python3.13
#
# Each run has a virtual environment of its own. Ends with 1 where one of them failed, and keeps the
# logs then.
set -uo pipefail
sources=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mktemp -d)
cd "$folder" || exit 1 # so that what was installed is imported
unset PYTHONPATH
failed=0

smoke() { # INTERPRETER FOLDER [OPTION OF PIP ...]
  "$1" -m venv "$2" &&
    "$2/bin/python" -m pip install --quiet "$sources" "${@:3}" &&
    "$2/bin/python" -m benchmarks.run --preset smoke --out "$2/results"
}

installed() { # FOLDER PACKAGE
  "$1/bin/python" -c "from importlib.metadata import version; print(version('$2'))" || echo none
}

printf '%-12s %-8s %-8s %-8s %s\n' python versions jax mujoco smoke
for python; do
  for versions in pinned newest; do
    options=()
    [ "$versions" = newest ] || options=(--constraint "$sources/constraints.txt")
    here=$folder/$(basename "$python")-$versions
    if smoke "$python" "$here" "${options[@]}" >"$here.log" 2>&1; then
      outcome=passed
    else
      outcome="failed with $?: $here.log" failed=1
    fi
    printf '%-12s %-8s %-8s %-8s %s\n' "$(basename "$python")" "$versions" \
      "$(installed "$here" jax 2>>"$here.log")" "$(installed "$here" mujoco 2>>"$here.log")" \
      "$outcome"
    rm -rf "$here"
  done
done
[ "$failed" = 1 ] || rm -rf "$folder"
exit "$failed"
