"""`inspect`: what is in a file or a bundle, in words and as JSON."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest

import raggedrt
from raggedrt.advice import advice_for
from raggedrt.cli import main
from raggedrt.plugins.contract.op_definition import ORT_PLUGIN_DOMAIN
from raggedrt.plugins.tensorrt.plugin_model import write_plugin_model

pytestmark = pytest.mark.ort_cpu


def test_a_plain_model_shows_sites_and_the_region(tiny_onnx: Path) -> None:
    facts = raggedrt.inspect(tiny_onnx)
    assert len(facts["report"]["attention"]) == 2
    assert "input_ids" in facts["region"]["inputs"]
    assert facts["ops"] == {}
    assert facts["opset"] == 20
    json.dumps(facts)


def test_a_bundle_shows_its_manifest_and_live_ops(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = raggedrt.inspect(tiny_bundle)
    assert facts["bundle"]["target"] == "ort-cpu"
    assert facts["ops"]["RaggedAttention"] == 2
    assert main(["inspect", str(tiny_bundle)]) == 0
    text = capsys.readouterr().out
    assert all(
        word in text for word in ("RaggedAttention", "last_hidden_state", "verified on cpu", "key is not padding")
    )


def test_json_is_json(tiny_onnx: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tiny_onnx), "--json", "-q"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == tiny_onnx.name


def test_ops_that_another_tool_inlined_are_a_warning(tiny_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    path = tmp_path / "bundle" / "model.onnx"
    model = onnx.load(str(path), load_external_data=False)
    node = next(node for node in model.graph.node if node.op_type == "RaggedAttention")
    node.domain, node.op_type = "other", "Inlined"
    onnx.save(model, path)
    (warning,) = raggedrt.inspect(path)["warnings"]
    assert "promises 2 RaggedAttention" in warning
    assert "has 1" in warning


def test_a_graph_in_plugin_form_is_called_that(tiny_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle, tmp_path, dirs_exist_ok=True)
    native = raggedrt.inspect(tmp_path / "model.onnx")
    write_plugin_model(tmp_path / "model.onnx", tmp_path / "model.trt.onnx", ORT_PLUGIN_DOMAIN)
    facts = raggedrt.inspect(tmp_path / "model.trt.onnx")
    assert facts["plugins"] == native["ops"]
    assert facts["report"] is None
    (warning,) = facts["warnings"]
    assert "form of TensorRT's plugins" in warning


def test_what_cannot_be_packed_has_a_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = '<ir_version: 9, opset_import: ["" : 18]> m (float[N,4] x) => (float[N,4] y) { y = Relu (x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "relu.onnx")
    assert main(["inspect", str(tmp_path / "relu.onnx")]) == 0
    assert "no attention" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["nothing.onnx", "."])
def test_what_is_no_model_is_exit_2(name: str, tmp_path: Path) -> None:
    assert main(["inspect", str(tmp_path / name)]) == 2


def test_what_is_pasted_holds_no_path(tiny_onnx: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for model in (tiny_onnx, tiny_bundle):
        for options in ((), ("--json",)):
            assert main(["inspect", str(model), "-q", *options]) == 0
            text = capsys.readouterr().out
            assert model.name in text
            assert str(model.parent) not in text
            assert str(Path.home()) not in text


def test_facts_for_a_bug_report(tiny_onnx: Path) -> None:
    facts = raggedrt.inspect(tiny_onnx)
    model = facts["model"]
    assert model["opsets"] == {"ai.onnx": 20}
    assert model["producer"].startswith("pytorch")
    assert model["op_types"]["Softmax"] == 2
    assert model["without_rule"] == {}
    assert {value["name"]: value["shape"] for value in model["inputs"]}["input_ids"] == ["batch", "sequence"]
    assert model["weights"]["bytes"] > 10_000
    assert {"raggedrt", "python", "onnx", "onnxruntime"} <= facts["environment"].keys()


ATTENTION = """<ir_version: 9, opset_import: ["" : 18]> m (
    int64[b,s] input_ids, int64[b,s] attention_mask, float[b,4,s,8] q, float[b,4,8,s] k, float[b,4,s,8] v
) => (float[b,4,s,8] y) {
    scores = MatMul (q, k)
    scaled = Mul (scores, scores)
    weights = Softmax <axis = -1> (scaled)
    y = MatMul (weights, v)
}"""
ROUTING = """<ir_version: 9, opset_import: ["" : 18]>
m (int64[b,s] attention_mask, float[b,s,8] x) => (float[b,s,8] y)
{ gates = Softmax <axis = -1> (x)  y = Add (gates, x) }"""
UNKNOWN = """<ir_version: 9, opset_import: ["" : 18, "other" : 1]>
m (int64[b,s] input_ids, float[b,s,8] x) => (float[b,s,8] y) { y = other.Thing (x) }"""


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (
            ATTENTION,
            ["closest form MatMul-Softmax-MatMul", "the scores pass through Mul", "to change that: export with"],
        ),
        (ROUTING, ["is not taken for attention because", "its result is read by Add"]),
        (UNKNOWN, ["other.Thing has no transfer rule", "without a transfer rule: other.Thing 1"]),
    ],
)
def test_what_is_not_recognised_is_explained(
    graph: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(onnx.parser.parse_model(graph), tmp_path / "m.onnx")
    assert main(["inspect", str(tmp_path / "m.onnx")]) == 0
    text = capsys.readouterr().out
    missing = [word for word in words if word not in text]
    assert not missing, text


@pytest.mark.parametrize("opset", [6, 30])
def test_what_cannot_be_rewritten_is_inspected_all_the_same(
    opset: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f'<ir_version: 9, opset_import: ["" : {opset}]> m (float[N,4] x) => (float[N,4] y) {{ y = Relu (x) }}'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "relu.onnx")
    facts = raggedrt.inspect(tmp_path / "relu.onnx")
    assert facts["report"] is None
    assert facts["model"]["op_types"] == {"Relu": 1}
    assert facts["problem"]
    assert str(tmp_path) not in facts["problem"]
    assert main(["inspect", str(tmp_path / "relu.onnx")]) == 2
    said = capsys.readouterr()
    assert "cannot be rewritten" in said.out
    assert facts["problem"] in said.err


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Conv has no transfer rule", "graph_passes/axes/rules.py"),
        ("the graph has no attention_mask input, so it has no padding to remove", "named attention_mask"),
        ("ReduceMean reads padded slots of 'x', ...; multiply by attention_mask before it", None),
        ("something else entirely", None),
    ],
)
def test_advice(reason: str, words: str | None) -> None:
    advice = advice_for(reason)
    assert advice is None if words is None else words in str(advice)
