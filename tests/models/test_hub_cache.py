"""A Hub id through a cache folder laid out as huggingface_hub does, in a process that is told to stay offline."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("huggingface_hub")

from raggedrt.models import factories

pytestmark = pytest.mark.ort_cpu
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SCRIPT = """
import sys
from raggedrt.errors import InputError
from raggedrt.models.resolve import resolve
for revision in (None, "main", sys.argv[1], "v9"):
    try:
        print(resolve("some-org/tiny.bert", revision=revision).task)
    except InputError as error:
        print("refused:", error)
"""


def test_cached_hub_id(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--some-org--tiny.bert"
    factories.save_tiny_directory(repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    env = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    env.pop("HF_HUB_CACHE", None)
    done = subprocess.run([sys.executable, "-c", SCRIPT, COMMIT], env=env, capture_output=True, text=True, check=True)
    *found, refused = done.stdout.splitlines()
    assert found == ["feature-extraction"] * 3
    assert "`hf download some-org/tiny.bert --revision v9`" in refused
