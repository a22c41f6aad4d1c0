"""The CUDA provider's ops lie in the same library as the CPU's, and it loads where there is no CUDA."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx
import pytest

from raggedrt.plugins.contract.capability import CAPABILITIES
from raggedrt.plugins.registry import OPS
from raggedrt.plugins.runtime.library import library_info

ort = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.ort_cpu

MODEL = """<ir_version: 10, opset_import: ["" : 20, "raggedrt" : 1]>
g (float[B,S,H] x, bool[B,S] mask) => (float[B,S,H] y, int32[B1] offsets) {
  index, offsets, position, key_position = raggedrt.PackingPlan <abi = 1, features = 0> (mask)
  packed = raggedrt.PackTokens <abi = 1, features = 0> (x, index)
  twice = Add (packed, packed)
  y = raggedrt.UnpackTokens <abi = 1, features = 0> (twice, index, mask)
}"""


def test_every_op_has_a_kernel_for_each_provider(op_library: pathlib.Path) -> None:
    info = library_info(op_library)
    assert set(info.cuda_features) == set(info.features) == {op.name for op in OPS}


def test_passes_hand_over_what_the_cuda_kernels_say_they_serve(op_library: pathlib.Path) -> None:
    served = 0
    for features in library_info(op_library).cuda_features.values():
        served |= int(features)
    assert served == CAPABILITIES["ort-cuda"].features


def test_a_session_without_cuda_takes_the_cpu_kernels(op_library: pathlib.Path) -> None:
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(op_library))
    proto = onnx.parser.parse_model(MODEL)
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((3, 5, 4)).astype(np.float32)
    mask = np.arange(5) < np.array([5, 0, 2])[:, None]
    y, offsets = session.run(None, {"x": x, "mask": mask})
    np.testing.assert_array_equal(y, np.where(mask[:, :, None], 2 * x, 0))
    assert offsets.tolist() == [0, 5, 5, 7]
