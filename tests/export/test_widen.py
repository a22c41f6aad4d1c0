"""A bfloat16 graph in float32: same structure, same weights, nothing narrow left."""

from __future__ import annotations

import pathlib

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from raggedrt.export.widen import is_narrow, wide_feeds, wide_file

ort = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.ort_cpu

NARROW = """<ir_version: 10, opset_import: ["" : 20, "local" : 1]>
g (bfloat16[N,4] x, bool[N,1] keep, bool flag) => (bfloat16[N,4] y, float[N,4] z) {
  low = Constant <value = float {-3.0e38}> ()
  hidden = Cast <to = 16> (low)
  kept = Where (keep, x, hidden)
  wide = Cast <to = 1> (kept)
  narrow = Cast <to = 16> (wide)
  scaled = Mul (narrow, weight)
  chosen = If (flag) <
    then_branch = yes () => (bfloat16[N,4] a) { a = Cast <to = 16> (wide) },
    else_branch = no () => (bfloat16[N,4] b) { b = Identity (narrow) }
  >
  twice = local.Twice (scaled)
  y = Add (twice, chosen)
  z = Cast <to = 1> (y)
}
<domain: "local", opset_import: ["" : 20]>
Twice (a) => (b) { one = Constant <value_int = 2> () two = Cast <to = 16> (one) b = Mul (a, two) }"""


def _narrow_file(folder: pathlib.Path) -> pathlib.Path:
    proto = onnx.parser.parse_model(NARROW)
    weight = np.array([0.1, -2.5, 3.25, 1e-3], ml_dtypes.bfloat16)
    proto.graph.initializer.append(ir.to_proto(ir.tensor(weight, name="weight")))
    constant = next(node for node in proto.graph.node if node.output[0] == "low")
    constant.attribute[0].t.CopyFrom(ir.to_proto(ir.tensor(np.array(-3e38, ml_dtypes.bfloat16), name="low")))
    next(node for node in proto.graph.node if node.output[0] == "hidden").attribute[0].i = onnx.TensorProto.BFLOAT16
    onnx.save(proto, folder / "narrow.onnx")
    return folder / "narrow.onnx"


def test_the_wide_graph_runs_on_the_cpu_with_the_narrow_weights(tmp_path: pathlib.Path) -> None:
    with wide_file(_narrow_file(tmp_path)) as (path, wide):
        assert wide
        assert not is_narrow(ir.load(path))
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(ml_dtypes.bfloat16)
    feeds = wide_feeds({"x": x, "keep": np.ones((3, 1), bool), "flag": np.array(True)})
    y, z = session.run(None, feeds)
    weight = np.array([0.1, -2.5, 3.25, 1e-3], ml_dtypes.bfloat16).astype(np.float32)
    expected = 2 * x.astype(np.float32) * weight + x.astype(np.float32)
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    np.testing.assert_array_equal(y, z)


def test_other_files_stay_where_they_are(tmp_path: pathlib.Path) -> None:
    plain = tmp_path / "plain.onnx"
    onnx.save(
        onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 20]> g (float x) => (float y) { y = Neg (x) }'),
        plain,
    )
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing")
    for path in (plain, broken):
        with wide_file(path) as found:
            assert found == (path, False)


SCORES = """<ir_version: 10, opset_import: ["" : 20]>
g ({type}[N,4] x, {type}[4,N] k) => (float[N,N] y, {type}[N,N] z) {{
  product = MatMul (x, k)
  y = Cast <to = 1> (product)
  z = MatMul (x, k)
}}"""


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_scores_in_float16_are_rounded_as_a_gpu_rounds_them(dtype: str, tmp_path: pathlib.Path) -> None:
    """A wide graph stays exact: it is compared with an exact one."""
    path = tmp_path / "scores.onnx"
    onnx.save(onnx.parser.parse_model(SCORES.format(type=dtype)), path)
    with wide_file(path) as (runnable, wide):
        assert runnable != path
        assert wide == (dtype == "bfloat16")
        session = ort.InferenceSession(runnable, providers=["CPUExecutionProvider"])
    narrow = np.dtype(getattr(ml_dtypes, dtype, dtype))
    x, k = (20 * np.random.default_rng(seed).standard_normal((4, 4)) for seed in (0, 1))
    x, k = x.astype(narrow), k.astype(narrow)
    exact = x.astype(np.float32) @ k.astype(np.float32)
    y, _ = session.run(None, wide_feeds({"x": x, "k": k}))
    if wide:
        np.testing.assert_allclose(y, exact, 1e-6)
    else:
        np.testing.assert_array_equal(y, exact.astype(narrow).astype(np.float32))
        assert np.abs(y - exact).max() > 1e-2
