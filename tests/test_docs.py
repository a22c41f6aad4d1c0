"""Documents say what is true: links resolve, and the commands they name exist."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from helpers.project import ROOT
from raggedrt import errors
from raggedrt.cli.app import app
from raggedrt.graph_passes.impose import check_imposable
from raggedrt.graph_passes.masks.short_spec import parse_mask
from raggedrt.plugins.contract.abi import Feature
from raggedrt.plugins.contract.capability import CAPABILITIES

pytestmark = pytest.mark.none

DOCUMENTS = sorted(p for p in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("plugins/**/*.md")))
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
COMMAND = re.compile(r"(?<![\w/'\"-])raggedrt ([a-z]+)\b((?: +[^\s`|]+)*)")
SCRIPT = re.compile(r"(?:\./)?(scripts/[\w./-]+\.(?:sh|py)|\.ci/run)")


def anchors(text: str) -> set[str]:
    """Heading anchors as code hosts make them."""
    heads = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_resolve(document: Path) -> None:
    broken = []
    for target in LINK.findall(document.read_text()):
        if "://" in target or target.startswith("mailto:"):
            continue
        file, _, anchor = target.partition("#")
        linked = document if not file else (document.parent / file).resolve()
        if not linked.exists() or (anchor and linked.suffix == ".md" and anchor not in anchors(linked.read_text())):
            broken.append(target)
    assert not broken, f"{document.relative_to(ROOT)}: {broken}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_scripts_exist(document: Path) -> None:
    missing = sorted({name for name in SCRIPT.findall(document.read_text()) if not (ROOT / name).exists()})
    assert not missing, f"{document.relative_to(ROOT)}: {missing}"


def code_of(text: str) -> str:
    """Code blocks and inline code of a Markdown text, one piece per line."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    return "\n".join([*blocks, *inline])


@cache
def help_text(*verb: str) -> str:
    """`raggedrt VERB --help`, empty when there is no such verb."""
    done = subprocess.run(
        [sys.executable, "-m", "raggedrt", *verb, "--help"], capture_output=True, text=True, check=False, env=_wide()
    )
    return done.stdout if done.returncode == 0 else ""


def _wide() -> dict[str, str]:
    return {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_commands_and_options_exist(document: Path) -> None:
    wrong = []
    for verb, rest in COMMAND.findall(code_of(document.read_text())):
        text = help_text(verb)
        options = re.findall(r"(?<!\S)(--[a-z][a-z-]*|-[a-z])\b", rest)
        wrong += [f"raggedrt {verb} {name}" for name in options if name not in text] if text else [f"raggedrt {verb}"]
    assert not wrong, f"{document.relative_to(ROOT)}: {sorted(set(wrong))}"


def test_readme_lists_every_verb_once() -> None:
    registered = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    table = (ROOT / "README.md").read_text().partition("| verb |")[2].partition("\n\n")[0]
    listed = re.findall(r"^\| `([a-z]+)[ `]", table, re.MULTILINE)
    assert sorted(listed) == sorted(registered)


def test_readme_states_the_exit_code_of_every_error() -> None:
    stated = dict(re.findall(r"`(\w+Error)` \((\d)\)", (ROOT / "README.md").read_text()))
    classes = {n: str(c.exit_code) for n, c in inspect.getmembers(errors, inspect.isclass)}
    assert stated == classes


def test_readme_lists_what_the_kernels_take() -> None:
    """Bits that say how packed tokens are passed are no feature of a mask or of the scores."""
    plumbing = (
        Feature.GROUPED_QUERY | Feature.LSE | Feature.POSITIONS | Feature.VALUE_HEAD_SIZE | Feature.CROSS_LENGTHS
        | Feature.KEEP_SLOTS | Feature.KEEP_MASK | Feature.CAPACITY | Feature.WORK_LIST
    )  # fmt: skip
    text = (ROOT / "README.md").read_text()
    table = text[text.index("| feature |") : text.index("`raggedrt inspect MODEL`")]
    listed = re.findall(r"^\| `(\w+)`", table, re.MULTILINE)
    assert sorted(listed) == sorted(
        str(feature.name).lower() for feature in CAPABILITIES["ort-cpu"].features & ~plumbing
    )


def test_masks_of_the_readme_parse() -> None:
    text = (ROOT / "README.md").read_text()
    table = text[text.index("| mask |") : text.index("`&` and `|` join them")]
    masks = [
        mask for row in re.findall(r"^\| (`[^|]+`) \|", table, re.MULTILINE) for mask in re.findall(r"`([^`]+)`", row)
    ]
    assert "window(256)" in masks
    for mask in masks:
        if "layout.npz" not in mask:
            check_imposable(parse_mask(mask))
