"""What `inspect` says of the compiled parts of a model that ONNX Runtime wrote (EPContext nodes)."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import onnx

from raggedrt.errors import TargetError
from raggedrt.plugins.bundle.ep_context import EpContext, context_problem, ep_contexts
from raggedrt.plugins.bundle.model_facts import load_proto
from raggedrt.plugins.bundle.reader import Bundle
from raggedrt.plugins.runtime.tensorrt_provider import require_context, require_tensorrt
from raggedrt.plugins.tensorrt.libraries import load_tensorrt


def context_facts(model: onnx.ModelProto, folder: pathlib.Path) -> list[dict[str, Any]]:
    """One dictionary per compiled part: which provider made it, for what, where it lies, and what is wrong with that.

    A place outside `folder` is not looked at.
    """
    return [_facts(context, folder) for context in ep_contexts(model)]


def bundle_contexts(bundle: Bundle) -> list[dict[str, Any]]:
    """The same of the compiled model that a bundle carries, and whether it runs here; empty where it has none."""
    record = bundle.manifest.ep_context
    if record is None:
        return []
    reason = None
    try:
        major, state = require_tensorrt(str(bundle.path))
        capability = state.devices[0].capability
        require_context(record, str(bundle.path), version=load_tensorrt(major), capability=capability)
    except TargetError as error:
        reason = str(error)
    place = bundle.path / record.file
    versions = {"sdk_version": record.sdk_version, "hardware": str(record.compute_capability)}
    found = context_facts(load_proto(place), place.parent)
    return [{**facts, **versions, "runs_here": reason is None, "why_not": reason} for facts in found]


def _facts(context: EpContext, folder: pathlib.Path) -> dict[str, Any]:
    problem = context_problem(context, folder)
    embedded = context.file is None and context.main
    size = None
    if problem is None:
        size = context.embedded_bytes if context.file is None else (folder / context.file).stat().st_size
    return {
        "node": context.node,
        "provider": context.provider,
        "partition": context.partition,
        "sdk_version": context.sdk_version,
        "hardware": context.hardware,
        "original": context.original,
        "main": context.main,
        "embed_mode": int(embedded),
        "file": context.file,
        "bytes": size,
        "present": problem is None,
        "problem": problem,
    }


def context_text(part: Mapping[str, Any]) -> str:
    """One line about one part."""
    made = " ".join(text for text in (part["provider"] or "an unnamed provider", part["sdk_version"]) if text)
    place = "embedded" if part["file"] is None else f"engine in {part['file']}"
    if not part["main"]:
        place = "shares the content of another node"
    details = [
        "" if part["hardware"] is None else f"for compute capability {part['hardware']}",
        "" if part["original"] is None else f"from {part['original']}",
        place if not part["bytes"] else f"{place} ({part['bytes'] / 2**20:.1f} MiB)",
        part["problem"] or "",
    ]
    line = f"compiled by {made}: {part['partition']}, " + ", ".join(text for text in details if text)
    if "runs_here" not in part:
        return line
    return f"{line}\n" + ("runs here" if part["runs_here"] else f"does not run here: {part['why_not']}")
