"""The platform wheel carries its op library: it serves where neither a compiler nor ONNX Runtime's headers are."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from helpers.project import ROOT, compiler
from helpers.tolerances import Tolerance, assert_close
from raggedrt.plugins.native.build import find_ort_headers

pytestmark = [pytest.mark.ort_cpu, pytest.mark.slow]

BATCH, LENGTH, HIDDEN = 3, 9, 32
SERVE = """
import pathlib, sys
import numpy as np
import raggedrt
here = pathlib.Path(raggedrt.__file__).resolve().parent
assert here.is_relative_to(pathlib.Path(sys.prefix).resolve()), f"{here} is not the installed wheel"
session = raggedrt.ort_session(f"{sys.argv[1]}/model.onnx", native=True)
names = [o.name for o in session.get_outputs()]
with np.load(sys.argv[2], allow_pickle=False) as feeds:
    np.savez(sys.argv[3], **dict(zip(names, session.run(None, dict(feeds)))))
print(raggedrt.op_library_path())
"""


@pytest.fixture(scope="module")
def wheel(op_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if compiler() is None:
        pytest.skip("no C++ compiler was found (install g++)")
    if find_ort_headers() is None:
        pytest.skip("no ONNX Runtime headers (raggedrt doctor --build-ops obtains them)")
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [ROOT / "scripts" / "build_wheel.sh", folder],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def clean_environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Python of an environment with the wheel, and variables that hide compiler, headers and the user's cache."""
    folder = tmp_path_factory.mktemp("clean")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, capture_output=True)
    # The dependencies come from this environment; a plain path line reads no .pth files, so not its RaggedRT.
    site = next((folder / "venv" / "lib").glob("python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    variables = {"PATH": str(folder / "venv" / "bin"), "HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}
    return python, variables


@pytest.fixture(scope="module")
def feeds() -> dict[str, np.ndarray]:
    """Right-, left- and hole-padded rows."""
    rng = np.random.default_rng(0)
    mask = np.ones((BATCH, LENGTH), np.int64)
    mask[0, 4:] = mask[1, :5] = mask[2, 3:6] = 0
    ids = rng.integers(1, 90, (BATCH, LENGTH), dtype=np.int64)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def test_installed_wheel_serves_natively(
    clean_environment: tuple[Path, dict[str, str]], feeds: dict[str, np.ndarray], tmp_path: Path
) -> None:
    import torch
    from transformers import BertConfig, BertModel

    import raggedrt

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=99, hidden_size=HIDDEN, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    model = BertModel(config).eval()
    model.save_pretrained(tmp_path / "source")
    raggedrt.convert(tmp_path / "source", tmp_path / "bundle")
    np.savez(tmp_path / "feeds.npz", **feeds)

    python, variables = clean_environment
    command = [python, "-c", SERVE, tmp_path / "bundle", tmp_path / "feeds.npz", tmp_path / "outputs.npz"]
    done = subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert str(python.parent.parent) in done.stdout, "the op library is not the wheel's"

    with torch.inference_mode():
        expected = model(**{name: torch.from_numpy(value) for name, value in feeds.items()}).last_hidden_state.numpy()
    with np.load(tmp_path / "outputs.npz", allow_pickle=False) as outputs:
        actual = outputs["last_hidden_state"]
    valid = feeds["attention_mask"].astype(bool)
    assert_close(actual[valid], expected[valid], Tolerance(atol=1e-5, rtol=1e-4))
    assert not actual[~valid].any()
