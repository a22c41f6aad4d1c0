"""A bundle appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
import resource
import signal
from collections.abc import Iterator

import pytest

from helpers.toy_bundles import toy_bundle, toy_draft, toy_model
from raggedrt.errors import InputError, RaggedRTError
from raggedrt.plugins.bundle.reader import open_bundle
from raggedrt.plugins.bundle.writer import BundleWriter, write_bundle

pytestmark = pytest.mark.none

MODEL = toy_model("padded").SerializeToString()


def tree(folder: pathlib.Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def test_what_is_written_can_be_opened_and_holds_what_was_said(tmp_path: pathlib.Path) -> None:
    written = toy_bundle(tmp_path / "deep" / "out", position_limit=12)
    opened = open_bundle(tmp_path / "deep" / "out")
    assert opened.manifest == written.manifest
    assert opened.manifest.position_limit == 12
    assert set(opened.manifest.files) == {"model.onnx", "model.onnx.data", "report.json", "tokenizer/vocabulary.txt"}
    assert tree(tmp_path / "deep") == [
        "out", "out/manifest.json", "out/model.onnx", "out/model.onnx.data", "out/report.json", "out/tokenizer",
        "out/tokenizer/vocabulary.txt",
    ]  # fmt: skip


def test_the_directory_has_the_usual_permissions(tmp_path: pathlib.Path) -> None:
    (tmp_path / "usual").mkdir()
    toy_bundle(tmp_path / "out")
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_contents_are_bytes_files_folders_or_functions(tmp_path: pathlib.Path) -> None:
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / "a.txt").write_text("a")
    (tmp_path / "link.json").symlink_to(tmp_path / "r.json")
    (tmp_path / "r.json").write_text("{}")
    bundle = write_bundle(
        tmp_path / "out",
        toy_draft("padded", tokenizer="tokenizer"),
        {
            "model.onnx": lambda place: place.write_bytes(MODEL),
            "report.json": tmp_path / "link.json",
            "tokenizer": tmp_path / "tokens",
        },
    )
    assert bundle.report == {}
    assert (bundle.path / "tokenizer" / "a.txt").read_text() == "a"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_after_an_exception(tmp_path: pathlib.Path, error: type[BaseException]) -> None:
    def work() -> None:
        with BundleWriter(tmp_path / "made" / "too" / "out") as writer:
            (writer.directory / "model.onnx").write_bytes(b"half")
            raise error

    with pytest.raises(error):
        work()
    assert tree(tmp_path) == []


def test_nothing_is_left_when_the_result_is_no_bundle(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="not an ONNX model"):
        write_bundle(tmp_path / "out", toy_draft("padded"), {"model.onnx": b"junk"})
    with pytest.raises(InputError, match="does not list its model"):
        write_bundle(tmp_path / "out", toy_draft("padded"), {"report.json": b"{}"})
    with pytest.raises(InputError, match="cannot be put into a bundle"):
        write_bundle(tmp_path / "out", toy_draft("padded"), {"../model.onnx": MODEL})
    with pytest.raises(InputError, match="is a link"):
        write_bundle(
            tmp_path / "out", toy_draft("padded"), {"model.onnx": lambda place: place.symlink_to("/etc/hostname")}
        )
    assert tree(tmp_path) == []


def test_leaving_without_finish_leaves_nothing(tmp_path: pathlib.Path) -> None:
    with BundleWriter(tmp_path / "out") as writer:
        (writer.directory / "model.onnx").write_bytes(MODEL)
    assert tree(tmp_path) == []


def test_existing_output_is_refused_and_untouched(tmp_path: pathlib.Path) -> None:
    toy_bundle(tmp_path / "out")
    before = tree(tmp_path)
    with pytest.raises(InputError, match=r"already exists.*--force"), BundleWriter(tmp_path / "out"):
        pytest.fail("the work must not begin")
    assert tree(tmp_path) == before


def test_force_replaces_a_bundle(tmp_path: pathlib.Path) -> None:
    toy_bundle(tmp_path / "out")
    bundle = write_bundle(tmp_path / "out", toy_draft("padded"), {"model.onnx": MODEL}, force=True)
    assert tree(tmp_path) == ["out", "out/manifest.json", "out/model.onnx"]
    assert open_bundle(tmp_path / "out").manifest == bundle.manifest


def test_a_failed_force_leaves_the_old_bundle(tmp_path: pathlib.Path) -> None:
    toy_bundle(tmp_path / "out")
    before = tree(tmp_path)
    with pytest.raises(InputError):
        write_bundle(tmp_path / "out", toy_draft("padded"), {"model.onnx": b"junk"}, force=True)
    assert tree(tmp_path) == before
    assert open_bundle(tmp_path / "out").report == {"passes": []}


def test_force_takes_an_empty_directory_but_nothing_precious(tmp_path: pathlib.Path) -> None:
    (tmp_path / "empty").mkdir()
    write_bundle(tmp_path / "empty", toy_draft("padded"), {"model.onnx": MODEL}, force=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "empty", target_is_directory=True)
    for name, message in {"home": "neither a bundle nor empty", "file": "not a directory", "link": "not a dir"}.items():
        with pytest.raises(InputError, match=message):
            write_bundle(tmp_path / name, toy_draft("padded"), {"model.onnx": MODEL}, force=True)
    assert (tmp_path / "home" / "thesis.txt").read_text() == "years of work"


def test_output_that_appears_meanwhile_is_kept(tmp_path: pathlib.Path) -> None:
    def save(place: pathlib.Path) -> None:
        place.write_bytes(MODEL)
        (tmp_path / "out").mkdir()

    with pytest.raises(InputError, match="already exists"):
        write_bundle(tmp_path / "out", toy_draft("padded"), {"model.onnx": save})
    assert tree(tmp_path) == ["out"]


def test_the_root_directory_is_refused() -> None:
    with pytest.raises(InputError, match="cannot become a bundle"):
        BundleWriter("/", force=True)


def test_a_parent_that_is_a_file_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"), BundleWriter(tmp_path / "file" / "out"):
        pytest.fail("the work must not begin")


@contextlib.contextmanager
def small_files() -> Iterator[None]:
    """The system refuses to let files grow beyond a kilobyte, as it does on a full disk or quota.

    No fixture: that would still hold while pytest reports the test, and its output may be a longer file.
    """
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_no_fault_of_the_input_and_leaves_nothing(tmp_path: pathlib.Path) -> None:
    with small_files(), pytest.raises(RaggedRTError, match="Nothing was left there; make room") as caught:
        write_bundle(tmp_path / "out", toy_draft("padded"), {"model.onnx": os.urandom(10_000)})
    assert caught.value.exit_code == 1
    assert tree(tmp_path) == []
