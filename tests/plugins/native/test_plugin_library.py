"""Finding headers for the TensorRT plugins, and what is said where they are missing or too old."""

from __future__ import annotations

import pathlib

import pytest

from raggedrt.errors import TargetError
from raggedrt.plugins.native import plugin_library
from raggedrt.plugins.native.build import SOURCE_FOLDER

pytestmark = pytest.mark.none


def sdk(folder: pathlib.Path, version: str) -> pathlib.Path:
    """A folder that looks like the headers of a TensorRT."""
    include = folder / "include"
    include.mkdir()
    (include / "NvInfer.h").touch()
    (include / "NvInferVersion.h").write_text(version)
    return folder


def test_the_version_is_read_through_other_names(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "#define MAJOR_ENTERPRISE 11\n#define NV_TENSORRT_MAJOR MAJOR_ENTERPRISE //!< x\n#define NV_TENSORRT_MINOR 1\n"
    )
    monkeypatch.setenv("TENSORRT_ROOT", str(sdk(tmp_path, text)))
    headers = plugin_library.find_tensorrt_headers()
    assert headers == tmp_path / "include"
    assert plugin_library.tensorrt_version(headers) == (11, 1)


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("#define NV_TENSORRT_MAJOR 8\n#define NV_TENSORRT_MINOR 6\n", r"headers of TensorRT 8\.6; .* 10\.7 or later"),
        ("nothing", "does not tell NV_TENSORRT_MAJOR"),
    ],
)
def test_headers_that_do_not_serve(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, version: str, message: str
) -> None:
    monkeypatch.setenv("TENSORRT_ROOT", str(sdk(tmp_path, version)))
    with pytest.raises(TargetError, match=message):
        plugin_library.build_plugin_library()


def test_without_headers_the_error_says_what_to_set(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORRT_ROOT", str(tmp_path))
    with pytest.raises(TargetError, match="set TENSORRT_ROOT to the folder of a TensorRT 10 or 11 SDK"):
        plugin_library.build_plugin_library()


def test_every_source_of_the_plugins_is_compiled() -> None:
    own = {f"tensorrt/{path.name}" for path in (SOURCE_FOLDER / "tensorrt").glob("*.cc")}
    assert own == set(plugin_library.PLUGIN_SOURCES)
    assert all((SOURCE_FOLDER / name).is_file() for name in plugin_library.sources())
