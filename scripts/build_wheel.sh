#!/usr/bin/env bash
# Build a platform wheel with the op library inside, and check what its tag and the README claim about glibc.
# Usage: scripts/build_wheel.sh [FOLDER, default dist]
# Needs a C++ compiler and ONNX Runtime's headers (ORT_INCLUDE_DIR, the system's, or `raggedrt doctor --build-ops` once).
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-${RAGGEDRT_VENV:-.venv}/bin/python}"
out="${1:-dist}"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# A copy without old build folders: what lies there would end in the wheel.
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$scratch"
"$python" -m pip --disable-pip-version-check wheel "$scratch" --no-deps --no-build-isolation -qq -w "$scratch/dist"
wheel=$(echo "$scratch"/dist/raggedrt-*.whl)
"$python" scripts/check_wheel.py "$wheel" README.md
mkdir -p "$out"
mv "$wheel" "$out/"
echo "wrote $out/$(basename "$wheel")"
