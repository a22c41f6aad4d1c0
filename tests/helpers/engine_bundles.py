"""The toy encoder as a bundle of target tensorrt, around an engine that nobody can run: for what comes before that."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import onnx_ir as ir

from helpers.provider_bundles import toy_profile
from helpers.toy_bundles import toy_draft, toy_model
from raggedrt.plugins.bundle.manifest import EngineRecord, PluginRecord
from raggedrt.plugins.bundle.reader import Bundle
from raggedrt.plugins.bundle.writer import Content, write_bundle
from raggedrt.plugins.contract.abi import ABI_VERSION
from raggedrt.plugins.tensorrt.engine_file import file_digest
from raggedrt.plugins.tensorrt.plugin_model import PLUGIN_MODEL_NAME, write_plugin_model

PLAN = "engines/model.plan"
VERSION = "10.13.2.6"


def plugin_record(**changes: Any) -> PluginRecord:
    """Plugins beside the engine."""
    record = PluginRecord(version="0.1.0", abi=ABI_VERSION, creators=("RaggedAttention",), serialized=False)
    return record.model_copy(update=changes)


def engine_record(io: str = "ragged", **changes: Any) -> EngineRecord:
    """An engine for compute capability 9.0 with one profile."""
    record = EngineRecord(
        file=PLAN,
        target="tensorrt",
        builder="TensorRT",
        builder_version=VERSION,
        compute_capabilities=(90,),
        profiles=(toy_profile(io),),
        graph_sha256="0" * 64,
        plugins=plugin_record(),
    )
    return record.model_copy(update=changes)


def engine_bundle(folder: pathlib.Path, io: str = "ragged", **changes: Any) -> Bundle:
    """Write the bundle; `changes` are those of the engine's record."""
    scratch = folder.with_name(f"{folder.name}-scratch")
    scratch.mkdir()
    model = ir.from_proto(toy_model(io))
    ir.save(model, scratch / "model.onnx", external_data="model.onnx.data", size_threshold_bytes=256)
    write_plugin_model(scratch / "model.onnx", scratch / PLUGIN_MODEL_NAME)
    contents: dict[str, Content] = {path.name: path.read_bytes() for path in scratch.iterdir()}
    contents |= {"report.json": json.dumps({"passes": [], "attention": []}).encode(), PLAN: b"ptrt" + bytes(60)}
    record = engine_record(io, graph_sha256=file_digest(scratch / PLUGIN_MODEL_NAME), **changes)
    facts: dict[str, Any] = {"plugin_model": PLUGIN_MODEL_NAME, "engines": (record,), "profiles": record.profiles}
    draft = toy_draft(io, target="tensorrt", **facts)
    return write_bundle(folder, draft, contents)
