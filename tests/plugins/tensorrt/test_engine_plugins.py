"""The plugins of an engine: which it calls, whether a library has them, and what is said where it does not."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import pytest

from helpers.engine_bundles import VERSION, engine_bundle, engine_record, plugin_record
from helpers.plugin_folders import CREATORS, plugins_in
from raggedrt.errors import TargetError
from raggedrt.plugins.contract.abi import ABI_VERSION
from raggedrt.plugins.kernel_packs.lookup import FOLDERS_VARIABLE
from raggedrt.plugins.kernel_packs.pack_file import pack_name
from raggedrt.plugins.native.plugin_library import PLUGIN_LIBRARY_NAME
from raggedrt.plugins.tensorrt.engine_plugins import (
    check_creators,
    check_engine_demand,
    load_engine_plugins,
    plugins_for,
    used_creators,
)
from raggedrt.plugins.tensorrt.libraries import PLUGINS_VARIABLE, plugin_library
from raggedrt.plugins.tensorrt.plugin_model import PLUGIN_MODEL_NAME

pytestmark = pytest.mark.none


@pytest.fixture(autouse=True)
def alone(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """No plugins, packs or headers but those of the test; returns a folder for plugins, which the user names."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(PLUGINS_VARIABLE, str(tmp_path / "plugins"))
    monkeypatch.setenv("TENSORRT_ROOT", str(tmp_path / "nothing"))
    monkeypatch.delenv(FOLDERS_VARIABLE, raising=False)
    return tmp_path / "plugins"


def test_what_a_graph_calls_is_read_from_its_plugin_form(tmp_path: pathlib.Path) -> None:
    bundle = engine_bundle(tmp_path / "padded", "padded")
    used = used_creators(bundle.path / PLUGIN_MODEL_NAME)
    assert used.keys() == {"PackingPlan", "PackTokens", "RaggedAttention", "UnpackTokens"}
    assert used_creators(bundle.model_path) == {}


def test_every_plugin_that_is_lacking_is_listed(alone: pathlib.Path) -> None:
    folder = plugins_in(alone, creators={"RaggedAttention": 0b0101, "PackTokens": 0})
    found = plugin_library(folder / PLUGIN_LIBRARY_NAME)
    check_creators(found, {"RaggedAttention": 0b0100, "PackTokens": 0}, "the model")
    with pytest.raises(TargetError) as refused:
        check_creators(found, {"RaggedAttention": 0b1100, "BlockMask": 0, "PackTokens": 0}, "the model")
    message = str(refused.value)
    assert "the model calls BlockMask, RaggedAttention (feature bits 0x8), which" in message
    assert "raggedrt doctor --build-plugins" in message


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (None, r"no TensorRT plugins for TensorRT 10 were found \(none at all\)"),
        ({"tensorrt": "11.1"}, r"for TensorRT 10 were found \(.* for TensorRT 11\.1\)"),
        ({"creators": {}}, "the model calls RaggedAttention, which .*--build-plugins"),
        ({}, r"no kernel pack for compute capability 9\.0 .*--build-kernels"),
    ],
)
def test_what_is_missing_is_told_before_a_build(
    facts: dict[str, Any] | None, message: str, alone: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    graph = engine_bundle(tmp_path / "bundle").path / PLUGIN_MODEL_NAME
    if facts is not None:
        plugins_in(alone, **facts)
    with pytest.raises(TargetError, match=message):
        check_engine_demand(graph, VERSION, 90, "the model")


def test_with_library_and_pack_a_build_may_start(alone: pathlib.Path, tmp_path: pathlib.Path) -> None:
    graph = engine_bundle(tmp_path / "bundle").path / PLUGIN_MODEL_NAME
    plugins_in(alone)
    (alone / pack_name(90)).touch()
    found = check_engine_demand(graph, VERSION, 90, "the model")
    assert found is not None
    assert found.library == alone / PLUGIN_LIBRARY_NAME
    assert found.creators == CREATORS


def test_a_graph_without_our_ops_needs_no_library(tmp_path: pathlib.Path) -> None:
    assert check_engine_demand(engine_bundle(tmp_path / "bundle").model_path, VERSION, 90, "the model") is None


def test_plugins_of_a_trusted_bundle_come_first(alone: pathlib.Path, tmp_path: pathlib.Path) -> None:
    plugins_in(alone)
    brought = plugins_in(tmp_path / "lib")
    assert plugins_for(VERSION, [brought]).library == brought / PLUGIN_LIBRARY_NAME
    strange = plugins_in(tmp_path / "strange", abi=ABI_VERSION + 1)
    assert plugins_for(VERSION, [strange]).library == alone / PLUGIN_LIBRARY_NAME


def test_an_engine_whose_plugins_are_missing_is_refused_before_it_is_read(
    alone: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    other = engine_record(plugins=plugin_record(abi=ABI_VERSION + 1, version="9.9"))
    with pytest.raises(TargetError, match=rf"x\.plan calls plugins of ABI {ABI_VERSION + 1} \(version 9\.9\)"):
        load_engine_plugins(other, [], 90, "x.plan")
    with pytest.raises(TargetError, match="no kernel pack"):
        load_engine_plugins(engine_record(), [], 90, "x.plan")
    (tmp_path / pack_name(90)).touch()
    with pytest.raises(TargetError, match="no TensorRT plugins"):
        load_engine_plugins(engine_record(), [tmp_path], 90, "x.plan")
    load_engine_plugins(engine_record(plugins=None), [], 90, "x.plan")


def test_packs_beside_an_engine_with_its_plugins_inside_are_found(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDERS_VARIABLE, "/some/where")
    (tmp_path / pack_name(90)).touch()
    record = engine_record(plugins=plugin_record(serialized=True), version_compatible=True)
    for _ in range(2):
        load_engine_plugins(record, [tmp_path], 90, "x.plan")
    assert os.environ[FOLDERS_VARIABLE] == f"/some/where:{tmp_path}"
