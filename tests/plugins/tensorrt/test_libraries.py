"""Which TensorRT ONNX Runtime's provider wants, and which plugins serve it."""

from __future__ import annotations

import pathlib

import pytest

from helpers.plugin_folders import plugins_in
from raggedrt.errors import TargetError
from raggedrt.plugins.contract.abi import ABI_VERSION
from raggedrt.plugins.native.plugin_library import PLUGIN_LIBRARY_NAME
from raggedrt.plugins.native.plugin_registrar import REGISTRAR_NAME
from raggedrt.plugins.tensorrt import libraries

pytestmark = pytest.mark.none


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(libraries.PLUGINS_VARIABLE, raising=False)


@pytest.mark.parametrize(("content", "major"), [(b"\0libnvinfer.so.10\0libcudart.so.13", 10), (b"nothing", None)])
def test_the_provider_tells_its_tensorrt(tmp_path: pathlib.Path, content: bytes, major: int | None) -> None:
    assert libraries.provider_major(tmp_path) is None
    (tmp_path / libraries.PROVIDER_LIBRARY).write_bytes(content)
    assert libraries.provider_major(tmp_path) == major


def test_a_tensorrt_that_is_missing_is_named() -> None:
    with pytest.raises(TargetError, match=r"needs TensorRT 99, .*libnvinfer\.so\.99.*pip install 'tensorrt-cu13<100'"):
        libraries.load_tensorrt(99)


def test_the_folder_that_is_named_comes_before_the_cache(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = plugins_in(tmp_path / "named")
    monkeypatch.setenv(libraries.PLUGINS_VARIABLE, str(named))
    assert libraries.find_plugins(10).registrar == named / REGISTRAR_NAME
    own = plugins_in(tmp_path / "bundle" / "lib")
    assert libraries.find_plugins(10, own).registrar == own / REGISTRAR_NAME


def test_plugins_of_another_abi_or_tensorrt_do_not_serve(tmp_path: pathlib.Path) -> None:
    folders = [plugins_in(tmp_path / "a", abi=ABI_VERSION + 1), plugins_in(tmp_path / "b", tensorrt="11.0")]
    with pytest.raises(TargetError) as caught:
        libraries.find_plugins(10, *folders)
    assert f"{folders[0]} has plugins of ABI {ABI_VERSION + 1} for TensorRT 10.9" in str(caught.value)
    assert f"{folders[1]} has plugins of ABI {ABI_VERSION} for TensorRT 11.0" in str(caught.value)
    assert "doctor --build-plugins" in str(caught.value)


def test_without_any_plugins_the_error_says_how_to_build_them() -> None:
    with pytest.raises(TargetError, match=r"none at all.*doctor --build-plugins"):
        libraries.find_plugins(10)


def test_what_is_no_plugin_library_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / REGISTRAR_NAME).write_bytes(b"")
    (tmp_path / PLUGIN_LIBRARY_NAME).write_bytes(b"no library")
    with pytest.raises(TargetError, match="no TensorRT plugin library that this machine can load"):
        libraries.find_plugins(10, tmp_path)


def test_a_registration_that_fails_is_an_error(tmp_path: pathlib.Path) -> None:
    found = libraries.find_plugins(10, plugins_in(tmp_path / "a"))
    with pytest.raises(TargetError, match=r"the bundle: TensorRT does not take the plugins .*\(no registry\)"):
        libraries.register(found, "the bundle")
