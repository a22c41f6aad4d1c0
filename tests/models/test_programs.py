"""`torch.export` programs as a source: each form is converted with the right values, or refused in one paragraph."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import raggedrt  # noqa: E402
from raggedrt.errors import InputError  # noqa: E402
from raggedrt.models.contract import ModelSource  # noqa: E402
from raggedrt.models.programs import load_program, program_source  # noqa: E402
from raggedrt.models.resolve import resolve  # noqa: E402

pytestmark = pytest.mark.ort_cpu
Dim = torch.export.Dim
BOTH = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
NAMES = ("input_ids", "attention_mask")


class Attend(torch.nn.Module):
    """One attention over embedded tokens; `form` makes what is returned."""

    def __init__(self, form: Callable[[Any], Any] = lambda hidden: hidden) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.table = torch.nn.Embedding(50, 16)
        self.joined = torch.nn.Linear(16, 48)
        self.last = torch.nn.Linear(16, 16)
        self.dropout = torch.nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(()))
        self.form = form
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
        self.eval()

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        hidden = self.table(input_ids)
        parts = self.joined(hidden).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        keep = (attention_mask != 0)[:, None, None, :]
        context = torch.nn.functional.scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask=keep)
        return self.form(self.dropout(self.last(hidden + context.transpose(1, 2).flatten(2))))


class Renamed(Attend):
    def forward(self, tokens: Any, valid: Any) -> Any:  # type: ignore[override]
        return super().forward(tokens, valid)


class Nested(Attend):
    def forward(self, batch: Any, scale: float) -> Any:  # type: ignore[override]
        return super().forward(batch["input_ids"], batch["attention_mask"]) * scale


class Hidden(Attend):
    """Non-zero hides a slot, as in `torch.nn.TransformerEncoder`."""

    def forward(self, input_ids: Any, padding_mask: Any) -> Any:  # type: ignore[override]
        return super().forward(input_ids, padding_mask == 0)


class Counting(Attend):
    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        self.calls.add_(1)
        return super().forward(input_ids, attention_mask) + self.calls


class Overwriting(Attend):
    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        input_ids.add_(1)
        return super().forward(input_ids, attention_mask)


@dataclasses.dataclass
class Result:
    hidden: Any
    total: Any


torch.export.register_dataclass(Result, serialized_type_name="raggedrt.tests.Result")


def examples(names: tuple[str, ...] = NAMES, dtype: Any = torch.int64) -> dict[str, Any]:
    ids = torch.randint(1, 49, (2, 16), generator=torch.Generator().manual_seed(1))
    return dict(zip(names, (ids.to(dtype), torch.ones(2, 16, dtype=dtype)), strict=True))


def program(module: Any, given: dict[str, Any] | None = None, shapes: Any = "dynamic", **options: Any) -> Any:
    given = examples() if given is None else given
    shapes = dict.fromkeys(given, BOTH) if shapes == "dynamic" else shapes
    return torch.export.export(module, (), given, dynamic_shapes=shapes, **options)


def converted(source: Any, folder: Path) -> Any:
    """`convert` compares with PyTorch over every kind of padding; here padding is removed as well."""
    bundle = raggedrt.convert(source, folder / "bundle", allow_pickle=True)
    assert all(entry["op"] == "RaggedAttention" for entry in bundle.report["attention"])
    return bundle


def saved(exported: Any, folder: Path) -> Path:
    torch.export.save(exported, folder / "m.pt2")
    return folder / "m.pt2"


def outputs(bundle: Any) -> list[str]:
    return [role.name for role in bundle.manifest.outputs]


FORMS: list[tuple[str, Callable[[Any], Any], list[str]]] = [
    ("a tensor", lambda h: h, ["output"]),
    ("a tuple", lambda h: (h, h.sum(-1)), ["output_0", "output_1"]),
    ("a tuple with None", lambda h: (h, None, h.sum(-1)), ["output_0", "output_2"]),
    ("a dictionary", lambda h: {"hidden": h, "total": h.sum(-1)}, ["hidden", "total"]),
    ("a nested dictionary", lambda h: {"h": h, "more": (h.sum(-1), [h + 1])}, ["h", "more_0", "more_1_0"]),
    ("a dataclass", lambda h: Result(h, h.sum(-1)), ["hidden", "total"]),
]


@pytest.mark.parametrize(("form", "names"), [form[1:] for form in FORMS], ids=[form[0] for form in FORMS])
def test_what_a_program_returns(tmp_path: Path, form: Callable[[Any], Any], names: list[str]) -> None:
    assert outputs(converted(saved(program(Attend(form)), tmp_path), tmp_path)) == names


def test_a_program_in_memory(tmp_path: Path) -> None:
    bundle = converted(program(Attend()), tmp_path)
    ids, module = examples()["input_ids"], Attend()
    (row,) = raggedrt.Session(bundle.path).run({"input_ids": [ids[0, :5].numpy()]})["output"]
    with torch.no_grad():
        wanted = module(ids[:1, :5], torch.ones(1, 5, dtype=torch.int64))[0]
    np.testing.assert_allclose(row, wanted.numpy(), atol=1e-5)


def test_compare_with_its_bundle(tmp_path: Path) -> None:
    path = saved(program(Attend()), tmp_path)
    bundle = converted(path, tmp_path)
    assert raggedrt.compare(path, bundle.path, allow_pickle=True).passed
    with pytest.raises(InputError, match="--allow-pickle"):
        raggedrt.compare(path, bundle.path)


def test_int32_inputs(tmp_path: Path) -> None:
    bundle = converted(saved(program(Attend(), examples(dtype=torch.int32)), tmp_path), tmp_path)
    assert {role.dtype for role in bundle.manifest.inputs} == {"int32"}


def test_one_tensor_as_the_example_of_two_inputs(tmp_path: Path) -> None:
    """The program reads one of them where the module reads the other, so that nothing can be told from it later."""
    exported = program(Attend(), dict.fromkeys(NAMES, torch.ones(2, 16, dtype=torch.int64)))
    for source in (exported, saved(exported, tmp_path)):
        with pytest.raises(InputError, match="one tensor was the example of the inputs 'input_ids' and"):
            raggedrt.convert(source, tmp_path / "bundle", allow_pickle=True)


@pytest.mark.parametrize(
    ("shapes", "axes"),
    [
        (None, [2, 16]),
        ({key: {0: Dim.DYNAMIC} for key in NAMES}, ["batch", 16]),
        ({key: {1: Dim.DYNAMIC} for key in NAMES}, [2, "sequence"]),
    ],
    ids=["all static", "static length", "static batch"],
)
def test_static_axes_stay_static(tmp_path: Path, shapes: Any, axes: list[Any]) -> None:
    bundle = converted(saved(program(Attend(), shapes=shapes), tmp_path), tmp_path)
    assert [list(role.shape) for role in bundle.manifest.inputs] == [axes, axes]


def test_lengths_within_the_programs_own_range(tmp_path: Path) -> None:
    length = Dim("length", min=14, max=40)
    shapes = {key: {0: Dim("rows"), 1: length} for key in NAMES}
    source, limit = load_program(saved(program(Attend(), shapes=shapes), tmp_path))
    assert (limit, source.long_length) == (40, 16)
    assert source.dynamic_axes["attention_mask"] == {0: "batch", 1: "sequence"}
    converted(tmp_path / "m.pt2", tmp_path)


def test_nested_inputs_and_numbers_among_them(tmp_path: Path) -> None:
    exported = torch.export.export(
        Nested(), (examples(), 2.5), dynamic_shapes=(dict.fromkeys(NAMES, BOTH), None)
    )  # fmt: skip
    bundle = converted(saved(exported, tmp_path), tmp_path)
    assert [role.name for role in bundle.manifest.inputs] == ["batch_input_ids", "batch_attention_mask"]


def test_a_mask_of_another_name(tmp_path: Path) -> None:
    source, _ = program_source(program(Renamed(), examples(("tokens", "valid"))), "it")
    assert source.mask_input == "valid"
    converted(source, tmp_path)


def test_a_decomposed_program(tmp_path: Path) -> None:
    converted(saved(program(Attend()).run_decompositions(), tmp_path), tmp_path)


def test_inputs_that_the_program_changes(tmp_path: Path) -> None:
    given = examples()
    given["input_ids"] %= 40
    converted(saved(program(Overwriting(), given), tmp_path), tmp_path)


def _training() -> Any:
    return program(Attend().train())


def _multiple() -> Any:
    length = 8 * Dim("eights", max=9)
    return program(Attend(), shapes={key: {0: Dim("rows"), 1: length} for key in NAMES})


def _unread() -> Any:
    class Unread(Attend):
        def forward(self, input_ids: Any, attention_mask: Any, unread: Any) -> Any:  # type: ignore[override]
            return super().forward(input_ids, attention_mask)

    return program(Unread(), {**examples(), "unread": torch.ones(2, 16)})


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (_training, r"draws at random: the program was exported in training mode.*model\.eval\(\)"),
        (lambda: program(Counting()), "changes its buffer 'calls' at every call"),
        (lambda: program(Attend(lambda h: (h, 3))), "output 1 of the program is 3; have forward return tensors only"),
        (_multiple, r"a dynamic axis of the inputs is 8\*.*Dim\.DYNAMIC"),
        (_unread, "'unread' has no effect.*program's inputs"),
        (lambda: program(Hidden(), examples(("input_ids", "padding_mask"))), "hides the tokens where it is non-zero"),
    ],
    ids=["training mode", "changed buffer", "number", "multiple of 8", "input without effect", "inverted mask"],
)
def test_refused(tmp_path: Path, build: Callable[[], Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        raggedrt.convert(build(), tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_options_that_a_program_has_no_use_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    exported = program(Attend())
    path = saved(exported, tmp_path)
    with pytest.raises(InputError, match="dtype is fixed"):
        resolve(path, dtype="fp16", allow_pickle=True)
    with pytest.raises(InputError, match="a program is fixed"):
        resolve(exported, dtype="fp16")
    resolve(path, task="fill-mask", allow_pickle=True)
    assert "--task is left aside" in caplog.text


def changed_archive(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrites the program's JSON inside the archive."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in members if name.endswith(".json") and "/models/" in name)
    facts = json.loads(members[name])
    change(facts)
    members[name] = json.dumps(facts).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)


def _future(facts: dict[str, Any]) -> None:
    facts["schema_version"] = {"major": 999, "minor": 0}
    facts["torch_version"] = "99.1.0"


def _unknown_class(facts: dict[str, Any]) -> None:
    text = json.dumps(facts).replace("raggedrt.tests.Result", "of.another.Process")
    facts.clear()
    facts.update(json.loads(text))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_future, r"written by torch 99\.1\.0, this is torch"),
        (_unknown_class, r"of\.another\.Process.*package\.module:function"),
    ],
    ids=["another torch", "unknown output class"],
)
def test_archives_that_torch_does_not_load(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = saved(program(Attend(lambda h: Result(h, h.sum(-1)))), tmp_path)
    changed_archive(path, change)
    with pytest.raises(InputError, match=says):
        load_program(path)
    assert "Traceback" not in capfd.readouterr().err


def test_other_archives(tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data/aotinductor/model/x.so", b"code")
    with pytest.raises(InputError, match="AOTInductor package"):
        load_program(path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="no archive, or cut off"):
        load_program(path)


@pytest.mark.parametrize("verb", [raggedrt.inspect, raggedrt.rewrite])
def test_verbs_that_take_onnx_files_say_what_it_is(tmp_path: Path, verb: Callable[[Path], Any]) -> None:
    path = saved(program(Attend()), tmp_path)
    with pytest.raises(InputError, match="is an archive, such as torch writes for programs"):
        verb(path)


def test_a_model_source_may_hold_a_program() -> None:
    source, _ = program_source(program(Attend()), "it")
    assert isinstance(source, ModelSource)
    resolved = resolve(source).model
    assert resolved is not None
    assert resolved.module is source.module
    with pytest.raises(InputError, match="keeps its element types"):
        resolve(source, dtype="fp16")
