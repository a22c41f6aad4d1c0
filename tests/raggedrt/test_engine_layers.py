"""What TensorRT for RTX makes of our attention: one kernel from queries to outputs, and no padded row beside it."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import onnx
import onnx_ir as ir
import pytest

import raggedrt
from helpers.encoder_graphs import EncoderSpec, build_encoder
from helpers.encoder_runs import rewritten
from raggedrt import engine_check
from raggedrt.export.numerics import Tolerance
from raggedrt.plugins.bodies import attach_function_bodies
from raggedrt.plugins.tensorrt.prepare import prepare

pytestmark = pytest.mark.tensorrt
LAYERS = 2
FUSED = "mha"
"""In the name of the kernel that multiplies, masks, normalises and multiplies again."""
HALF: dict[str, Any] = {"dtype": ir.DataType.FLOAT16, "head_size": 32, "layers": LAYERS}
SPECS: dict[str, dict[str, Any]] = {
    "padding": {},
    "causal": {"mask": "causal_padding"},
    "window": {"mask": "window"},
    "grouped query, rotary": {"kv_heads": 1, "attention": "sdpa", "rope": True, "positions": "none"},
    "disentangled": {"attention": "disentangled"},
    "bfloat16": {"dtype": ir.DataType.BFLOAT16},
}


def _graph(folder: pathlib.Path, **changes: Any) -> pathlib.Path:
    pair = rewritten(build_encoder(EncoderSpec(**{**HALF, **changes})), target="tensorrt-rtx", io="ragged")
    ir.save(pair.model, folder / "ragged.onnx")
    return folder / "ragged.onnx"


def _engine_layers(graph: pathlib.Path) -> list[dict[str, Any]]:
    output = graph.with_suffix(".plan")
    shapes = {"min_shapes": "input_ids:1x1", "opt_shapes": "input_ids:4x64", "max_shapes": "input_ids:8x128"}
    built = raggedrt.build(graph, output, compute_capability="89", **shapes)
    assert built.facts.inspected
    layers: list[dict[str, Any]] = json.loads(output.with_name(str(built.record.layers)).read_text())["Layers"]
    return layers


@pytest.mark.parametrize("name", SPECS)
def test_attention_in_half_precision_is_one_kernel(name: str, tmp_path: pathlib.Path) -> None:
    layers = _engine_layers(_graph(tmp_path, **SPECS[name]))
    fused = [layer for layer in layers if FUSED in layer["Name"]]
    assert len(fused) == LAYERS
    for layer in fused:
        assert {tensor["Format/Datatype"] for tensor in layer["Outputs"]} <= {"Half", "BFloat16"}
    products = [layer for layer in layers if layer["LayerType"] == "gemm"]
    assert products
    for layer in products:  # [tokens, features]: batch and longest are no axes of a linear layer
        assert len(layer["Inputs"][0]["Dimensions"]) == 2 or name == "disentangled", layer["Name"]


def test_float32_is_built_without_it(tmp_path: pathlib.Path) -> None:
    layers = _engine_layers(_graph(tmp_path, dtype=ir.DataType.FLOAT))
    assert not any(FUSED in layer["Name"] for layer in layers)


@pytest.mark.parametrize("name", SPECS)
def test_every_product_has_the_element_type_of_the_model(name: str, tmp_path: pathlib.Path) -> None:
    changes = {**HALF, **SPECS[name]}
    model = ir.load(_graph(tmp_path, **changes))
    prepare(model, "the model")
    typed = onnx.shape_inference.infer_shapes(ir.to_proto(model), strict_mode=True)
    known = {value.name: value.type.tensor_type.elem_type for value in (*typed.graph.value_info, *typed.graph.output)}
    products = [node.output[0] for node in typed.graph.node if node.op_type in ("MatMul", "Gemm")]
    normalised = [node.output[0] for node in typed.graph.node if node.op_type == "Softmax"]
    assert len(products) >= 8 * LAYERS
    assert {known[name] for name in products} == {int(changes["dtype"])}
    assert [known[name] for name in normalised] == [onnx.TensorProto.FLOAT] * LAYERS


@pytest.mark.parametrize(("scale", "exact"), [(0.2, False), (30.0, True)])
def test_scores_too_large_for_16_bits_are_multiplied_in_float32(
    scale: float,
    exact: bool,
    tmp_path: pathlib.Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The check on the CPU rounds scores as a GPU would, sees the error, and float32 products follow."""
    monkeypatch.setattr(engine_check, "DEFAULT_TOLERANCES", {"float16": Tolerance(6e-3, 0)})
    graph = _graph(tmp_path)
    model = ir.load(graph)
    for node in model.graph:
        if node.op_type == "RaggedAttention":
            node.attributes["scale"] = ir.AttrFloat32("scale", scale)
    attach_function_bodies(model)
    ir.save(model, graph)
    layers = _engine_layers(graph)
    assert ("scores are too large" in caplog.text) == exact
    assert any(FUSED in layer["Name"] for layer in layers) != exact
