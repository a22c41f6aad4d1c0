"""Directories and factories, loaded for real with tiny random models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from raggedrt.errors import InputError  # noqa: E402
from raggedrt.models import factories  # noqa: E402
from raggedrt.models.contract import ModelSource  # noqa: E402
from raggedrt.models.resolve import resolve  # noqa: E402

pytestmark = pytest.mark.ort_cpu
BERT_INPUTS = ["input_ids", "attention_mask", "token_type_ids"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return factories.save_tiny_directory(tmp_path_factory.mktemp("bert"), sentence_transformers=True)


@pytest.fixture(scope="module")
def roberta_mlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return factories.save_tiny_directory(tmp_path_factory.mktemp("roberta"), "roberta", task="fill-mask")


def copy_with(source: Path, folder: Path, **config: object) -> Path:
    folder.mkdir()
    for file in source.iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, **config}))
    return folder


@pytest.mark.parametrize(
    ("family", "inputs", "outputs", "attention"),
    [
        ("bert", BERT_INPUTS, ["last_hidden_state", "pooler_output"], "sdpa"),
        ("roberta", BERT_INPUTS[:2], ["last_hidden_state", "pooler_output"], "sdpa"),
        ("distilbert", BERT_INPUTS[:2], ["last_hidden_state"], "sdpa"),
        ("albert", BERT_INPUTS, ["last_hidden_state", "pooler_output"], "sdpa"),
        ("mpnet", BERT_INPUTS[:2], ["last_hidden_state", "pooler_output"], "eager"),
        ("electra", BERT_INPUTS, ["last_hidden_state"], "sdpa"),
    ],
)
def test_families(tmp_path: Path, family: str, inputs: list[str], outputs: list[str], attention: str) -> None:
    resolved = resolve(factories.save_tiny_directory(tmp_path, family))
    assert resolved.model is not None
    assert list(resolved.model.example_inputs) == inputs
    assert list(resolved.model.output_names) == outputs
    assert resolved.position_limit == 80
    assert resolved.tokenizer_dir == tmp_path
    assert resolved.model.module.model.config._attn_implementation == attention
    assert ("generic" in resolved.description) is (family == "electra")


@pytest.mark.parametrize(
    ("task", "outputs"),
    [
        ("text-classification", ["logits"]),
        ("token-classification", ["logits"]),
        ("question-answering", ["start_logits", "end_logits"]),
        ("fill-mask", ["logits"]),
    ],
)
def test_auto_finds_the_head_and_its_weights(tmp_path: Path, task: str, outputs: list[str]) -> None:
    resolved = resolve(factories.save_tiny_directory(tmp_path, "bert", task=task))
    assert resolved.model is not None
    assert (resolved.task, list(resolved.model.output_names)) == (task, outputs)
    original = factories.tiny_model("bert", task=task)
    examples = resolved.model.example_inputs
    with torch.no_grad():
        for name, value in zip(outputs, resolved.model.module(**examples), strict=True):
            torch.testing.assert_close(value, original(**examples)[name])


def test_plain_facts(bert: Path) -> None:
    resolved = resolve(bert)
    assert resolved.task == "feature-extraction"
    assert resolved.input_defaults == {"attention_mask": 1, "token_type_ids": 0}
    assert resolved.truncate_to == 64
    assert len(resolved.digest) == 64
    assert resolve(str(bert)).digest == resolved.digest


def test_sentence_embedding_is_the_normalised_mean(bert: Path) -> None:
    resolved = resolve(bert, task="sentence-embedding")
    assert resolved.model is not None
    generator = torch.Generator().manual_seed(1)
    feeds = {name: torch.randint(0, 2, (3, 7), generator=generator) for name in BERT_INPUTS}
    feeds["attention_mask"] = torch.tensor([[1] * 7, [1] * 3 + [0] * 4, [0] * 5 + [1] * 2])
    with torch.no_grad():
        (embedding,) = resolved.model.module(**feeds)
        hidden = factories.tiny_bert()(**feeds).last_hidden_state.numpy()
    for row, keep in enumerate(feeds["attention_mask"].numpy().astype(bool)):
        mean = hidden[row][keep].mean(0)
        np.testing.assert_allclose(embedding[row].numpy(), mean / np.linalg.norm(mean), rtol=1e-5, atol=1e-6)


def test_missing_pooler_weights_leave_the_output_out(roberta_mlm: Path) -> None:
    resolved = resolve(roberta_mlm, task="feature-extraction")
    assert resolved.model is not None
    assert list(resolved.model.output_names) == ["last_hidden_state"]


def test_missing_head_is_named(bert: Path) -> None:
    with pytest.raises(InputError, match=r"no weights for classifier\.bias, classifier\.weight.*never used"):
        resolve(bert, task="text-classification")


def test_encoder_cannot_generate(bert: Path) -> None:
    with pytest.raises(InputError, match="is an encoder and cannot generate"):
        resolve(bert, task="text-generation")


def test_encoder_decoder_serves_its_encoder_only(tmp_path: Path) -> None:
    config = transformers.T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="encoder-decoder"):
        resolve(tmp_path, task="text-generation")
    resolved = resolve(tmp_path, task="feature-extraction")
    assert resolved.model is not None
    assert list(resolved.model.output_names) == ["last_hidden_state"]
    assert resolved.position_limit is None


def test_task_without_a_form(tmp_path: Path) -> None:
    folder = factories.save_tiny_directory(tmp_path, "llama", task="text-generation")
    assert resolve(folder).task == "text-generation"
    with pytest.raises(InputError, match="has no form for the task fill-mask"):
        resolve(folder, task="fill-mask")


def test_sentence_embedding_needs_modules_json(roberta_mlm: Path) -> None:
    with pytest.raises(InputError, match="needs a sentence-transformers directory"):
        resolve(roberta_mlm, task="sentence-embedding")


@pytest.mark.parametrize("extra", [{}, {"auto_map": {"AutoModel": "code.Model"}}])
def test_unknown_model_type_never_runs_code(bert: Path, tmp_path: Path, extra: dict[str, object]) -> None:
    folder = copy_with(bert, tmp_path / "m", model_type="own-thing", **extra)
    (folder / "code.py").write_text("raise SystemExit('ran')")
    with pytest.raises(InputError, match="model_type 'own-thing'") as caught:
        resolve(folder)
    assert ("never run" in str(caught.value)) is bool(extra)


def test_weights_of_another_size(bert: Path, tmp_path: Path) -> None:
    folder = copy_with(bert, tmp_path / "m", intermediate_size=48)
    with pytest.raises(InputError, match="weights"):
        resolve(folder)


def test_pickled_checkpoint(bert: Path, tmp_path: Path) -> None:
    folder = copy_with(bert, tmp_path / "m")
    (folder / "model.safetensors").unlink()
    torch.save(factories.tiny_bert().state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="--allow-pickle"):
        resolve(folder)
    assert resolve(folder, allow_pickle=True).task == "feature-extraction"


def test_unreachable_hub_id_names_the_download_command() -> None:
    with pytest.raises(InputError, match=r"`hf download no-such-org/no-such-model --revision v1`"):
        resolve("no-such-org/no-such-model", revision="v1")


@pytest.mark.parametrize(("dtype", "expected"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_dtype(bert: Path, dtype: str, expected: torch.dtype) -> None:
    resolved = resolve(bert, dtype=dtype)
    assert resolved.model is not None
    assert {parameter.dtype for parameter in resolved.model.module.parameters()} == {expected}


def test_factory_of_a_transformers_model() -> None:
    resolved = resolve("raggedrt.models.factories:tiny_roberta")
    assert resolved.task == "feature-extraction"
    assert resolved.digest == resolve("raggedrt.models.factories:tiny_roberta").digest
    assert resolved.digest != resolve("raggedrt.models.factories:tiny_camembert").digest


class Plain(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(50, 8)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"hidden": self.table(input_ids) * attention_mask.unsqueeze(-1)}


def test_plain_module() -> None:
    model = resolve(Plain()).model
    assert model is not None
    assert list(model.output_names) == ["hidden"]
    assert int(model.example_inputs["input_ids"].max()) == 49
    with pytest.raises(InputError, match="--task applies to transformers models"):
        resolve(Plain(), task="fill-mask")


def test_module_of_unknown_inputs() -> None:
    with pytest.raises(InputError, match=r"Return raggedrt\.ModelSource"):
        resolve(torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match=r"expected an nn\.Module or a raggedrt\.ModelSource, found int"):
        resolve(7)  # type: ignore[arg-type]


def test_model_source_refuses_one_tensor_for_two_inputs() -> None:
    ones = torch.ones(2, 4, dtype=torch.long)
    with pytest.raises(InputError, match="'input_ids' and 'attention_mask' are the same tensor object"):
        ModelSource(Plain(), {"input_ids": ones, "attention_mask": ones}, {}, ["hidden"])
    with pytest.raises(InputError, match="dynamic_axes names 'ids'"):
        ModelSource(Plain(), {"input_ids": ones}, {"ids": {0: "batch"}}, ["hidden"])


def test_random_weights_are_distinct() -> None:
    model = factories.tiny_bert()
    for name, parameter in model.named_parameters():
        assert parameter.std() > 0.02, name
    other = factories.tiny_model("bert", seed=1)
    assert not torch.equal(model.embeddings.word_embeddings.weight, other.embeddings.word_embeddings.weight)


def test_the_callers_module_is_not_converted_in_place() -> None:
    module = factories.tiny_bert()
    resolved = resolve(module, dtype="fp16")
    assert resolved.model is not None
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in resolved.model.module.parameters()} == {torch.float16}
    examples = {"x": torch.randn(2, 3)}
    source = resolve(ModelSource(torch.nn.Linear(3, 4), examples, {"x": {0: "batch"}}, ["y"]), dtype="fp16").model
    assert source is not None
    assert source.example_inputs["x"].dtype == torch.float16
    assert source.mask_input is None


def test_onnx_file_beside_a_tokenizer(bert: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor_value_info("x", 1, [2])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [value], [value])
    folder = copy_with(bert, tmp_path / "m", pad_token_id=3)
    onnx.save(onnx.helper.make_model(graph), str(folder / "model.onnx"))
    resolved = resolve(folder / "model.onnx")
    assert (resolved.tokenizer_dir, resolved.pad_token_id) == (folder, 3)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"To use model\.onnx, give that file itself"):
        resolve(folder)


def test_own_code_of_a_known_model_type_is_announced(
    bert: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    resolve(copy_with(bert, tmp_path / "m", auto_map={"AutoModel": "code.Model"}))
    assert "never run" in caplog.text
