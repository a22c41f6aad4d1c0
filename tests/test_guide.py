"""The user guide is run: every command and block of Python of each page, in order, in an empty folder."""

from __future__ import annotations

import importlib.util
import logging
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.project import ROOT
from raggedrt.cli import main

pytest.importorskip("onnxruntime")
pytest.importorskip("transformers")
pytestmark = [pytest.mark.ort_cpu, pytest.mark.filterwarnings("ignore")]
PAGES = ("convert.md", "sparse-attention.md", "deployment.md", "extending.md")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NEEDS = re.compile(r"#\s*needs (\w+)\s*$")
EXIT = re.compile(r"#\s*exit code (\d)\s*$")
NOT_RUN = ("cpp",)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """The guide adds transfer rules."""
    from raggedrt.graph_passes.axes.rules import RULES

    before = dict(RULES)
    logging.disable(logging.INFO)  # pytest would keep what torch traces
    yield
    logging.disable(logging.NOTSET)
    RULES.clear()
    RULES.update(before)


def run_command(line: str) -> None:
    """Run one line of a shell block; only `raggedrt` stands there, and the exit code where it is not 0."""
    needs = NEEDS.search(line)
    if needs is not None and importlib.util.find_spec(needs.group(1)) is None:
        return
    words = shlex.split(line, comments=True)
    assert words[0] == "raggedrt", f"the guide runs nothing but raggedrt: {line}"
    quiet = [] if words[1] in ("list", "doctor") else ["-q"]
    stated = EXIT.search(line)
    assert main([*words[1:], *quiet]) == int(stated.group(1) if stated else 0), line


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
@pytest.mark.usefixtures("op_library", "capsys")
def test_page(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names: dict[str, Any] = {"__name__": f"guide_{Path(page).stem}"}
    blocks = BLOCK.findall((ROOT / "docs" / page).read_text())
    assert blocks
    for language, text in blocks:
        if language == "python":
            exec(compile(text, page, "exec"), names)
        elif language == "bash":
            for line in text.replace("\\\n", " ").splitlines():
                if line.strip():
                    run_command(line)
        else:
            assert language in NOT_RUN, f"a block of {language or 'no language'} is not run"
    for name in [name for name in sys.modules if name in ("my_models", "averaged")]:
        del sys.modules[name]


def test_every_page_is_run_or_generated() -> None:
    generated = {"README.md", "model-matrix.md", "transfer-rules.md"}
    assert {path.name for path in (ROOT / "docs").glob("*.md")} == {*PAGES, *generated}


def test_the_table_of_rules_is_generated() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "transfer_rules.py"), run_name="transfer_rules")
    assert (ROOT / "docs" / "transfer-rules.md").read_text() == script["document"](), "run scripts/transfer_rules.py"
