#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: set up, build the kernels for it, run the CUDA tests and the GPU benchmarks, and leave
# records (JSON and Markdown) in scripts/benchmarks/. One command, no questions; without a GPU it says so and exits 5.
#
#   ./scripts/gpu_check.sh                     everything
#   ./scripts/gpu_check.sh tests               set-up and tests (or: setup, benchmarks; several may be named)
#
# Exit: 0 all passed and every promised ratio was met, 1 something failed (all the rest still ran), 5 no GPU.
# Settings (environment):
#   RAGGEDRT_GPU_VENV    environment folder, default build/gpu-venv; it inherits the packages of python3, so a PyTorch
#                        that is there (in a container, for example) is used
#   RAGGEDRT_PYTHON      interpreter to make it from, default python3
#   PIP_FIND_LINKS       folder with wheels, and PIP_NO_INDEX=1 where no index can be reached; see --wheels
#   RAGGEDRT_GPU_OUTPUT  folder of the records, default scripts/benchmarks
#   RAGGEDRT_GPU_QUICK   1: the smallest size of every benchmark
#
#   ./scripts/gpu_check.sh --wheels FOLDER     on a machine with a network: download what the check installs into FOLDER
set -uo pipefail
cd "$(dirname "$0")/.."
venv="${RAGGEDRT_GPU_VENV:-build/gpu-venv}"
base="${RAGGEDRT_PYTHON:-python3}"
output="${RAGGEDRT_GPU_OUTPUT:-scripts/benchmarks}"
python="$venv/bin/python"
gpu_packages=(onnxruntime-gpu cuda-core nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cuda-crt nvidia-cuda-cccl)
# ONNX Runtime's CUDA provider opens these; they are there where PyTorch's CUDA build is.
provider_packages=(nvidia-cublas nvidia-cudnn-cu13 nvidia-cufft nvidia-curand)
failed=()

step() { printf '\n==> %s\n' "$*"; }
note() { printf '    %s\n' "$*"; }
die() { local code=$1; shift; printf 'gpu_check: %s\n' "$*" >&2; exit "$code"; }
pip() { "$python" -m pip --disable-pip-version-check "$@"; }

download_wheels() {
  step "Wheels for the check into $1"
  "$base" -m pip --disable-pip-version-check download -q -d "$1" "setuptools>=77" wheel '.[hf,dev,cuda,cuda-build]' \
    "${gpu_packages[@]}" "${provider_packages[@]}" || die 1 "the wheels cannot be downloaded (reason above)."
  note "copy the folder to the machine with the GPU, and run there:"
  note "PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER ./scripts/gpu_check.sh"
}

require_gpu() {
  command -v nvidia-smi >/dev/null || die 5 "no CUDA device: nvidia-smi is not here. Run this on a machine with an NVIDIA GPU."
  nvidia-smi -L >/dev/null 2>&1 || die 5 "no CUDA device: nvidia-smi lists none. Run this on a machine with an NVIDIA GPU."
  nvidia-smi -L | sed 's/ (UUID.*//;s/^/    /'
}

# The packages install with one another: plain onnxruntime and onnxruntime-gpu are the same module, so the plain one goes.
set_up() {
  step "Python environment in $venv"
  if [ ! -x "$python" ]; then
    "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die 1 "Python 3.11 or newer is needed; name one with RAGGEDRT_PYTHON."
    "$base" -m venv --system-site-packages "$venv" || die 1 "the environment cannot be made (reason above)."
  fi
  step "RaggedRT, ONNX Runtime for GPUs, NVRTC"
  pip install -q 'setuptools>=77' wheel || die 1 "pip cannot install (reason above); offline, set PIP_NO_INDEX=1 and PIP_FIND_LINKS."
  pip install -q --no-build-isolation -e '.[hf,dev]' || die 1 "RaggedRT cannot be installed (reason above)."
  pip uninstall -q -y onnxruntime >/dev/null 2>&1
  pip install -q --no-deps --force-reinstall onnxruntime-gpu || die 1 "onnxruntime-gpu cannot be installed (reason above)."
  pip install -q "${gpu_packages[@]}" || note "NVRTC is not complete here: kernel packs that are found are used"
  if ! "$python" -c 'import torch, sys; sys.exit(not torch.version.cuda)' 2>/dev/null; then
    note "this PyTorch has no CUDA: benchmarks against it cannot run"
  fi
  pip install -q "${provider_packages[@]}" || note "libraries of the CUDA provider are not all from wheels: the system's are used"
  provider_starts || note "the CUDA provider does not start (reason above): the tests will say so"
  step "Versions"
  pip list 2>/dev/null | grep -iE '^(torch|onnx|cuda|nvidia|triton|transformers)' | sed 's/^/    /'
}

provider_starts() {
  "$python" - <<'PROBE'
import onnx
import onnxruntime as ort

if hasattr(ort, "preload_dlls"):
    ort.preload_dlls()
model = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 20]> g (float[N] x) => (float[N] y) { y = Add (x, x) }')
session = ort.InferenceSession(model.SerializeToString(), providers=["CUDAExecutionProvider"])
raise SystemExit("CUDAExecutionProvider" not in session.get_providers())
PROBE
}

build() {
  step "Op library and kernels for this GPU"
  "$venv/bin/raggedrt" doctor --build-ops || failed+=("op library")
  "$venv/bin/raggedrt" doctor --build-kernels || failed+=("kernels")
}

run_tests() {
  step "CUDA tests"
  "$python" -m pytest -m cuda -q -p no:cacheprovider || failed+=("tests")
  if ! "$python" -c 'import tensorrt' 2>/dev/null; then
    note "TensorRT is not installed: its engines are not tested (pip install tensorrt-cu13; TENSORRT_ROOT for its headers)"
    return
  fi
  step "TensorRT tests"
  pip install -q polygraphy || note "Polygraphy is missing: the tests will say so"
  "$venv/bin/raggedrt" doctor --build-plugins || failed+=("TensorRT plugins")
  "$python" -m pytest -m tensorrt -q -p no:cacheprovider tests/raggedrt/test_tensorrt_device.py \
    tests/raggedrt/test_ort_trt_device.py tests/plugins/native/tensorrt || failed+=("TensorRT tests")
}

run_benchmarks() {
  local quick=() name
  [ "${RAGGEDRT_GPU_QUICK:-0}" = 1 ] && quick=(--quick)
  mkdir -p "$output"
  nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit,ecc.mode.current --format=csv
  for name in attention model tensorrt; do
    step "Benchmark: $name"
    [ "$name" = tensorrt ] && ! "$python" -c 'import tensorrt' 2>/dev/null && { note "TensorRT is not installed"; continue; }
    "$python" "scripts/bench_gpu_$name.py" "${quick[@]}" --output "$output/gpu_$name" || failed+=("benchmark $name")
  done
}

if [ "${1:-}" = --wheels ]; then
  [ -n "${2:-}" ] || die 2 "--wheels needs a folder."
  download_wheels "$2"
  exit 0
fi
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(setup tests benchmarks)
for part in "${parts[@]}"; do
  case "$part" in setup|tests|benchmarks) ;; *) die 2 "unknown part '$part'; choose of: setup, tests, benchmarks." ;; esac
done
require_gpu
if [[ " ${parts[*]} " == *" setup "* ]] || [ ! -x "$python" ]; then set_up; fi
build
[[ " ${parts[*]} " == *" tests "* ]] && run_tests
[[ " ${parts[*]} " == *" benchmarks "* ]] && run_benchmarks
if [ ${#failed[@]} -gt 0 ]; then die 1 "failed: $(IFS=,; echo "${failed[*]}")"; fi
step "All passed; records are in $output"
