"""The file for TensorRT's parser: the same graph and weights as the native one, in the form of plugins."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import onnx
import onnx_ir as ir
import pytest

from helpers.encoder_graphs import EncoderSpec, build_encoder
from helpers.encoder_runs import (
    Rewritten,
    assert_same_padded,
    assert_same_ragged,
    padded_feed,
    rewritten,
)
from helpers.provider_bundles import toy_profile
from helpers.toy_bundles import toy_draft, toy_model
from raggedrt.errors import InputError
from raggedrt.plugins.bodies import attach_function_bodies
from raggedrt.plugins.bundle.reader import open_bundle
from raggedrt.plugins.bundle.writer import BundleWriter
from raggedrt.plugins.contract.op_definition import DOMAIN
from raggedrt.plugins.runtime.ort import Native, ort_session
from raggedrt.plugins.tensorrt.form import ORT_PLUGIN_DOMAIN, to_native
from raggedrt.plugins.tensorrt.plugin_model import PLUGIN_MODEL_NAME, plan_without_mask, write_plugin_model

pytestmark = pytest.mark.ort_cpu

DATA_NAME = "model.onnx.data"
SPECS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "two heads": ({"head": "two"}, ("pooled",)),
    "causal": ({"mask": "causal_padding"}, ()),
    "window": ({"mask": "window"}, ()),
    "grouped query, rotary": ({"kv_heads": 1, "attention": "sdpa", "rope": True, "positions": "none"}, ()),
    "disentangled": ({"attention": "disentangled"}, ()),
    "float16": ({"dtype": ir.DataType.FLOAT16}, ()),
}


def described(model: ir.Model) -> list[tuple[object, ...]]:
    """Every node, and every weight with the place of its bytes."""
    nodes: list[tuple[object, ...]] = []
    for node in model.graph:
        inputs = [value.name if value is not None else None for value in node.inputs]
        while inputs and inputs[-1] is None:
            inputs.pop()
        attributes = {attribute.name: str(attribute.value) for attribute in node.attributes.values()}
        nodes.append((node.domain, node.op_type, node.name, inputs, attributes, [value.name for value in node.outputs]))
    for name, value in sorted(model.graph.initializers.items()):
        tensor = value.const_value
        place = (tensor.location, tensor.offset, tensor.length) if isinstance(tensor, ir.ExternalTensor) else tensor
        nodes.append((name, str(place)))
    return nodes


def written(pair: Rewritten, folder: pathlib.Path, domain: str) -> tuple[ir.Model, ir.Model]:
    """The native and the plugin form as they stand in their files."""
    native, plugins = folder / "model.onnx", folder / PLUGIN_MODEL_NAME
    ir.save(pair.model, native, external_data=DATA_NAME)
    data = (folder / DATA_NAME).read_bytes()
    write_plugin_model(native, plugins, domain)
    assert (folder / DATA_NAME).read_bytes() == data
    assert sorted(path.name for path in folder.iterdir()) == sorted([native.name, DATA_NAME, plugins.name])
    return ir.load(native), ir.load(plugins)


@pytest.mark.parametrize("domain", [DOMAIN, ORT_PLUGIN_DOMAIN])
@pytest.mark.parametrize("io", ["padded", "ragged"])
@pytest.mark.parametrize("name", SPECS)
def test_back_in_native_form_it_is_the_same_graph_with_the_same_values(
    name: str, io: str, domain: str, tmp_path: pathlib.Path
) -> None:
    changes, per_sequence = SPECS[name]
    spec = EncoderSpec(**changes)
    pair = rewritten(build_encoder(spec), target="tensorrt", io=io)
    native, plugins = written(pair, tmp_path, domain)
    ours = [node for node in plugins.graph if "present" in node.attributes]
    assert {node.domain for node in ours} == {domain}
    assert not plugins.functions
    to_native(plugins)
    assert described(plugins) == described(native)
    attach_function_bodies(plugins)
    back = dataclasses.replace(pair, model=plugins)
    if io == "padded":
        assert_same_padded(back, padded_feed(spec), per_sequence=per_sequence)
    else:
        assert_same_ragged(back, spec, per_sequence=per_sequence)


def test_every_value_has_a_type_and_a_rank(tmp_path: pathlib.Path) -> None:
    """Nothing infers them behind a node of `trt.plugins`."""
    pair = rewritten(build_encoder(EncoderSpec()), target="tensorrt", io="ragged")
    written(pair, tmp_path, ORT_PLUGIN_DOMAIN)
    graph = onnx.load(tmp_path / PLUGIN_MODEL_NAME, load_external_data=False).graph
    known = {value.name for value in (*graph.value_info, *graph.output) if value.type.tensor_type.HasField("shape")}
    assert {name for node in graph.node for name in node.output if name} <= known


def test_a_ragged_model_for_another_target_loses_its_data_dependent_size() -> None:
    spec = EncoderSpec(head="two")
    pair = rewritten(build_encoder(spec), target="ort-cpu", io="ragged")
    assert "PackingPlan" in pair.ops
    assert plan_without_mask(pair.model)
    assert "PackingPlan" not in pair.ops
    assert not [name for _, name, _ in pair.model.functions if name == "LengthsPlan"]
    assert_same_ragged(pair, spec, per_sequence=("pooled",))
    assert not plan_without_mask(pair.model)


@pytest.mark.parametrize("native", [False, "auto"])
def test_onnx_runtime_does_not_take_it_for_the_native_model(native: Native, tmp_path: pathlib.Path) -> None:
    """Inputs that are absent are left out, so every later one would be taken for another."""
    written(rewritten(build_encoder(EncoderSpec()), target="tensorrt", io="ragged"), tmp_path, DOMAIN)
    with pytest.raises(InputError, match=r"is in the form of TensorRT's plugins.*model\.onnx"):
        ort_session(tmp_path / PLUGIN_MODEL_NAME, native=native)


def test_a_bundle_vouches_for_it(tmp_path: pathlib.Path) -> None:
    def bundle(name: str, foreign: bool) -> None:
        with BundleWriter(tmp_path / name) as writer:
            place = writer.directory / "model.onnx"
            ir.save(ir.from_proto(toy_model("padded")), place, external_data=DATA_NAME)
            write_plugin_model(place, writer.directory / PLUGIN_MODEL_NAME)
            if foreign:
                other = onnx.load(writer.directory / PLUGIN_MODEL_NAME, load_external_data=False)
                places = {entry.key: entry for entry in other.graph.initializer[0].external_data}
                places["location"].value, places["offset"].value = "report.json", "0"
                (writer.directory / "report.json").write_text("{}".ljust(int(places["length"].value)))
                onnx.save(other, writer.directory / PLUGIN_MODEL_NAME)
            writer.finish(toy_draft("padded", plugin_model=PLUGIN_MODEL_NAME, profiles=(toy_profile("padded"),)))

    bundle("good", foreign=False)
    assert open_bundle(tmp_path / "good").manifest.plugin_model == PLUGIN_MODEL_NAME
    with pytest.raises(InputError, match=r"model\.trt\.onnx reads 'report\.json', and the model itself does not"):
        bundle("bad", foreign=True)
    (tmp_path / "good" / PLUGIN_MODEL_NAME).write_bytes(b"x")
    with pytest.raises(InputError, match=r"model\.trt\.onnx has 1 bytes"):
        open_bundle(tmp_path / "good")
