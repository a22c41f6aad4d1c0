#!/usr/bin/env bash
# Static checks: ruff (lint and format) and mypy --strict over every package.
# mypy cannot follow the folder mapping of pyproject.toml, so it is given a link tree with the folders in place.
set -uo pipefail
cd "$(dirname "$0")/.."
bin="${RAGGEDRT_VENV:-.venv}/bin"
tree=build/typing
status=0

link_tree() {
  rm -rf "$tree"
  mkdir -p "$tree/raggedrt"
  local entry
  for entry in raggedrt/*; do ln -s "../../../$entry" "$tree/raggedrt/"; done
  for entry in export graph_passes models plugins; do ln -s "../../../$entry" "$tree/raggedrt/$entry"; done
}

run() {
  printf '\n==> %s\n' "$*"
  "$@" || status=1
}

run "$bin/ruff" check .
run "$bin/ruff" format --check .
link_tree
run env MYPYPATH="$tree" "$bin/mypy" --cache-dir build/mypy -p raggedrt
exit "$status"
