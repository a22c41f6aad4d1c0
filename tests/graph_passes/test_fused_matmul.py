from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from helpers.tolerances import Tolerance, assert_close
from raggedrt.graph_passes.fused_matmul import take_fused_products_apart

pytestmark = pytest.mark.ort_cpu


def _model(attributes: dict[str, object]) -> onnx.ModelProto:
    node = onnx.helper.make_node("FusedMatMul", ["a", "b"], ["y"], domain="com.microsoft", **attributes)
    tensors = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 3, "m", "m"]) for name in "aby"]
    graph = onnx.helper.make_graph([node], "product", tensors[:2], tensors[2:])
    imports = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("com.microsoft", 1)]
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("alpha", [1.0, 0.25])
def test_the_parts_give_the_same_product(trans_a: int, trans_b: int, alpha: float) -> None:
    proto = _model({"transA": trans_a, "transB": trans_b, "alpha": alpha})
    model = ir.from_proto(proto)
    assert take_fused_products_apart(model.graph) == 1
    assert {node.op_type for node in model.graph} <= {"Transpose", "MatMul", "Mul"}
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal((2, 3, 5, 5)).astype(np.float32) for name in "ab"}
    got, want = (
        ort.InferenceSession(each.SerializeToString(), providers=["CPUExecutionProvider"]).run(["y"], feeds)[0]
        for each in (ir.to_proto(model), proto)
    )
    assert_close(got, want, Tolerance(atol=1e-6, rtol=1e-5))


def test_transposed_batch_axes_are_left_alone() -> None:
    model = ir.from_proto(_model({"transBatchA": 1}))
    assert take_fused_products_apart(model.graph) == 0
    assert [node.op_type for node in model.graph] == ["FusedMatMul"]
