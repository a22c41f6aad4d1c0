"""The attention body needs no more memory than padded attention, inputs included, also where nothing is padded."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.ort_cpu

PROGRAM = """
import re, sys
import numpy as np, onnx, onnxruntime as ort
from raggedrt.plugins.ops.ragged_attention.cases import Problem
from helpers.op_models import case_model
from raggedrt.plugins.ops.case import Case, Group

form, full = sys.argv[1], sys.argv[2] == "full"
batch, width, heads, size = 16, 256, 12, 64
lengths = (width,) * batch if full else tuple(range(width, 0, -width // batch))

def peak():
    # kilobytes; unlike ru_maxrss, which a process inherits from the one that started it
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])

def arrays():
    inputs = Problem(lengths=lengths, heads=heads, kv_heads=heads, head_size=size)(rng, np.dtype(np.float32))
    if form == "body":
        return inputs
    mask = np.arange(width) < np.array(lengths)[:, None]
    shape = (batch, width, heads * size)
    return {n: np.ones(shape, np.float32) for n in ("query", "key", "value")} | {"mask": mask}

PADDED = '''<ir_version: 10, opset_import: ["": 20]>
padded (float[B,S,768] query, float[B,S,768] key, float[B,S,768] value, bool[B,S] mask) => (float[B,S,768] output) {
  shape = Constant <value_ints=[0, 0, 12, 64]> ()
  wide = Constant <value_ints=[0, 0, 768]> ()
  axes = Constant <value_ints=[1, 2]> ()
  zero = Constant <value_float=0.0> ()
  low = Constant <value_float=-3.4e38> ()
  scale = Constant <value_float=0.125> ()
  q3 = Reshape(query, shape)
  k3 = Reshape(key, shape)
  v3 = Reshape(value, shape)
  q4 = Transpose <perm=[0, 2, 1, 3]> (q3)
  k4 = Transpose <perm=[0, 2, 3, 1]> (k3)
  v4 = Transpose <perm=[0, 2, 1, 3]> (v3)
  scaled = Mul(q4, scale)
  scores = MatMul(scaled, k4)
  bias2 = Where(mask, zero, low)
  bias = Unsqueeze(bias2, axes)
  masked = Add(scores, bias)
  weights = Softmax <axis=-1> (masked)
  mixed = MatMul(weights, v4)
  back = Transpose <perm=[0, 2, 1, 3]> (mixed)
  output = Reshape(back, wide)
}'''

rng = np.random.default_rng(0)
if form == "body":
    small = Problem(lengths=(2, 1), heads=heads, kv_heads=heads, head_size=size)
    case = Case("memory", Group.PERFORMANCE, small, {"num_heads": heads})
    model = case_model("RaggedAttention", case, case.inputs(np.dtype(np.float32)), 20)
else:
    model = onnx.parser.parse_model(PADDED)
options = ort.SessionOptions()
options.intra_op_num_threads = 1
options.enable_cpu_mem_arena = options.enable_mem_pattern = False
session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
before = peak()
feed = arrays()
session.run(None, {value.name: feed[value.name] for value in session.get_inputs()})
print(peak() - before)
"""


def peak_kilobytes(form: str, fill: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, form, fill], capture_output=True, text=True, check=False, env=_environment()
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def _environment() -> dict[str, str]:
    """A fixed mmap threshold gives freed tensors back at once, so that the peak is that of live tensors."""
    path = os.pathsep.join(path for path in sys.path if path)
    return {**os.environ, "PYTHONPATH": path, "MALLOC_MMAP_THRESHOLD_": "65536"}


@pytest.mark.parametrize("fill", ["full", "half"])
def test_body_peaks_below_padded_attention(fill: str) -> None:
    padded, body = peak_kilobytes("padded", fill), peak_kilobytes("body", fill)
    assert padded > 100_000, "the measurement missed the scores"
    assert body <= 1.02 * padded
