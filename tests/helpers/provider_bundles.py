"""The toy encoder as a bundle of target ort-trt: plugin form, a profile, and where wanted what was compiled from it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import onnx_ir as ir

from helpers.context_models import context_model, context_node
from helpers.toy_bundles import toy_draft, toy_model
from raggedrt.plugins.bundle.manifest import ContextRecord, ShapeProfile
from raggedrt.plugins.bundle.reader import Bundle
from raggedrt.plugins.bundle.writer import Content, write_bundle
from raggedrt.plugins.contract.op_definition import ORT_PLUGIN_DOMAIN
from raggedrt.plugins.tensorrt.plugin_model import PLUGIN_MODEL_NAME, write_plugin_model
from raggedrt.plugins.tensorrt.profiles import SizeRange, Sizes, profile_of

CONTEXT = "engines/model_ctx.onnx"
ENGINE = "part.engine"


def toy_profile(io: str, **changes: Any) -> ShapeProfile:
    """1 to 4 sequences of 1 to 8 tokens."""
    sizes = SizeRange(Sizes(1, 1, 1), Sizes(2, 8, 4), Sizes(4, 32, 8))
    roles = [record.tensor_role for record in toy_draft(io).inputs]
    return profile_of(roles, dataclasses.replace(sizes, **changes))


def provider_bundle(
    folder: pathlib.Path, io: str = "padded", *, engine: str | None = None, sdk: str = "10.9.0", **changes: Any
) -> Bundle:
    """Write the bundle; with `engine`, the place that its EPContext model names."""
    scratch = folder.with_name(f"{folder.name}-scratch")
    scratch.mkdir()
    ir.save(
        ir.from_proto(toy_model(io)), scratch / "model.onnx", external_data="model.onnx.data", size_threshold_bytes=256
    )
    write_plugin_model(scratch / "model.onnx", scratch / PLUGIN_MODEL_NAME, ORT_PLUGIN_DOMAIN)
    contents: dict[str, Content] = {path.name: path.read_bytes() for path in scratch.iterdir()}
    contents["report.json"] = json.dumps({"passes": [], "attention": []}).encode()
    facts: dict[str, Any] = {
        "target": "ort-trt",
        "plugin_model": PLUGIN_MODEL_NAME,
        "profiles": (toy_profile(io),),
    }
    if engine is not None:
        node = context_node(embed_mode=0, ep_cache_context=engine, hardware_architecture="89")
        contents[CONTEXT] = context_model(scratch / "ctx.onnx", [node]).read_bytes()
        contents[f"engines/{ENGINE}"] = b"ftrt"
        facts["ep_context"] = ContextRecord(
            file=CONTEXT,
            provider="TensorrtExecutionProvider",
            runtime_version="1.31.1",
            sdk_version=sdk,
            compute_capability=89,
            graph_sha256=hashlib.sha256((scratch / PLUGIN_MODEL_NAME).read_bytes()).hexdigest(),
        )
    return write_bundle(folder, toy_draft(io, **{**facts, **changes}), contents)
