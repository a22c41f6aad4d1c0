#!/usr/bin/env bash
# Record the benchmarks that the README quotes, in scripts/benchmarks/. Run scripts/demo.sh first, and nothing beside it.
set -euo pipefail
cd "$(dirname "$0")/.."
bin="${RAGGEDRT_VENV:-.venv}/bin"
out=scripts/benchmarks
mkdir -p "$out"
for order in arrival sorted; do
  "$bin/raggedrt" bench build/demo/minilm --lengths-from build/demo/texts.txt --max-length 256 --batches 8 \
    --order "$order" --report "$out/minilm_$order.json"
done
"$bin/python" scripts/bench_attention.py --output "$out/attention_cpu"
"$bin/python" scripts/bench_sparse_attention.py --threads 2 --output "$out/sparse_attention_cpu"
"$bin/python" scripts/bench_bigbird.py --output "$out/bigbird_cpu"
"$bin/python" scripts/bench_families.py --output "$out/families_cpu"
"$bin/python" scripts/bench_engines.py --work build/engines --output "$out/engines"
