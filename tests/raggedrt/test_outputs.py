"""Outputs appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from raggedrt.errors import InputError
from raggedrt.outputs import refuse_existing, refuse_input, staged, write_json

pytestmark = pytest.mark.none


def test_a_file_appears_whole_with_its_companion(tmp_path: Path) -> None:
    output = tmp_path / "new" / "folder" / "out.bin"
    with staged(output) as path:
        path.write_text("model")
        path.with_name("out.bin.data").write_text("weights")
        assert not output.parent.exists()
    assert output.read_text() == "model"
    assert {entry.name for entry in output.parent.iterdir()} == {"out.bin", "out.bin.data"}
    assert {entry.name for entry in tmp_path.iterdir()} == {"new"}


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, MemoryError])
def test_a_failure_leaves_the_old_file(failure: type[BaseException], tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    write_json(output, {"old": 1})

    def fail() -> None:
        with staged(output) as path:
            path.write_text("half")
            raise failure

    with pytest.raises(failure):
        fail()
    assert '"old"' in output.read_text()
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.json"]


def test_what_may_not_be_written_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    refuse_existing(file, force=True)
    refuse_existing(tmp_path / "other", force=False)
    for path, force in ((file, False), (tmp_path, True), (file / "below", False)):
        with pytest.raises(InputError, match=r"exists|directory"):
            refuse_existing(path, force=force)
    (tmp_path / "link").symlink_to(file)
    with pytest.raises(InputError, match="overwritten"):
        refuse_input(tmp_path / "link", file)
