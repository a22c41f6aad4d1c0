#!/usr/bin/env bash
# Prepare a checkout for use: Python environment, project with extras, op library. Safe to run again; quick the second time.
#
# Needs: python3 (3.11 or newer) and, for the op library, a C++ compiler (installed by apt where that is possible).
# Settings (environment):
#   RAGGEDRT_VENV         environment folder, default .venv
#   RAGGEDRT_TORCH_INDEX  package index to take PyTorch from, where pip's own settings offer no CPU build
#   RAGGEDRT_TENSORRT     1: also install TensorRT for RTX and Polygraphy (about 100 MB, 230 MB on disk), which build engines without a GPU
set -euo pipefail
cd "$(dirname "$0")/.."
venv="${RAGGEDRT_VENV:-.venv}"
python="$venv/bin/python"
extras='.[cpu,hf,dev,cuda-build]'

step() { printf '\n==> %s\n' "$*"; }
note() { printf '    %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }
pip() { "$python" -m pip --disable-pip-version-check "$@"; }

# Runs a command as root: directly, by sudo, or not at all (status 1).
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then sudo "$@"
  else return 1; fi
}

apt_install() {
  command -v apt-get >/dev/null || return 1
  as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 "$@" >/dev/null
}

compiler() {
  if [ -n "${CXX:-}" ]; then command -v "$CXX"; else command -v c++ || command -v g++ || command -v clang++; fi
}

make_environment() {
  step "Python environment in $venv"
  command -v python3 >/dev/null || die "python3 was not found; install Python 3.11 or newer."
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "Python 3.11 or newer is needed, found $(python3 --version)."
  if [ -x "$python" ] && "$python" -m pip --version >/dev/null 2>&1; then note "already there"; return; fi
  if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    apt_install python3-venv || die "the venv module is missing; install it (Debian and Ubuntu: apt-get install python3-venv)."
  fi
  rm -rf "$venv"
  python3 -m venv "$venv"
}

install_torch() {
  step "PyTorch"
  if "$python" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)'; then note "already there"; return; fi
  if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
    note "an NVIDIA GPU is present: the default build"
    pip install -qq torch
    return
  fi
  local cpu_build
  cpu_build=$({ pip index versions torch 2>/dev/null || true; } | grep -oE '[0-9.]+\+cpu' | head -n 1 || true)
  if [ -n "$cpu_build" ]; then
    note "CPU build $cpu_build, offered by pip's own settings"
    pip install -qq "torch==$cpu_build"
  elif [ -n "${RAGGEDRT_TORCH_INDEX:-}" ]; then
    note "from the index in RAGGEDRT_TORCH_INDEX"
    pip install -qq torch --index-url "$RAGGEDRT_TORCH_INDEX"
  else
    note "pip's settings offer no CPU build: the default build follows, which on Linux brings CUDA libraries (several GB)."
    note "To avoid that, stop here and set RAGGEDRT_TORCH_INDEX to PyTorch's CPU package index."
    pip install -qq torch
  fi
}

install_compiler() {
  step "C++ compiler, for the op library"
  if compiler >/dev/null; then note "$(compiler)"; return; fi
  if [ -n "${CXX:-}" ]; then note "CXX=$CXX was not found"; return; fi
  note "none found; trying to install g++"
  apt_install g++ libc6-dev || note "not possible here (no apt-get, or neither root nor sudo)"
}

install_project() {
  step "RaggedRT with its extras (cpu, hf, dev; cuda-build, which is NVRTC, 75 MB)"
  local stamp="$venv/.raggedrt-installed" now
  now=$({ cat pyproject.toml; pwd; } | sha256sum)
  if [ "$(cat "$stamp" 2>/dev/null)" = "$now" ]; then note "already there"; return; fi
  pip install -qq -e "$extras"
  printf '%s\n' "$now" >"$stamp"
}

# TensorRT for RTX exists for some platforms only, and nothing but the tests of the marker tensorrt needs it here.
install_tensorrt() {
  [ "${RAGGEDRT_TENSORRT:-0}" = 1 ] || return 0
  step "TensorRT for RTX, to build engines"
  if "$python" -c 'import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ("tensorrt_rtx", "polygraphy"))))'; then
    note "already there"
    return
  fi
  pip install -qq -e '.[tensorrt-rtx]' 2>/dev/null || note "not to be had here: tests that need it are skipped"
}

build_ops() {
  step "Op library (raggedrt doctor --build-ops)"
  if ! compiler >/dev/null; then
    note "no C++ compiler: the function bodies inside each model serve, which is correct but slow."
    note "Install g++ and run this script again to get the native kernels."
    return
  fi
  "$venv/bin/raggedrt" doctor --build-ops || note "the op library was not built (reason above): the function bodies serve, correct but slow."
}

make_environment
install_torch
install_compiler
install_project
install_tensorrt
build_ops
