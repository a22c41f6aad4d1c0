"""`inspect`: what is in a model, what could be done with it, and why not."""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
from typing import Any

import onnx_ir as ir

from raggedrt.drawing import draw_mask, file_name
from raggedrt.errors import InputError
from raggedrt.onnx_files import read_onnx
from raggedrt.plugins.bundle.model_facts import load_proto, model_facts
from raggedrt.plugins.bundle.reader import open_bundle
from raggedrt.plugins.contract.op_definition import DOMAIN
from raggedrt.rewriting import make_config, run_passes
from raggedrt.sparse_facts import mask_facts


def inspect(
    model: str | os.PathLike[str],
    *,
    io: str | None = "padded",
    length: int | None = None,
    draw: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Facts about an ONNX file or a bundle; the model is not run, and nothing but drawings is written.

    A model without RaggedRT ops is rewritten in memory to tell what would be lowered and packed, and why not.

    Args:
        model: ONNX file or bundle directory.
        io: inputs and outputs of the rewrite that is tried.
        length: tokens at which masks are looked at; None: a static length, or one that shows what they do.
        draw: folder to draw each distinct mask in, as PNG; needs Pillow (the extra `draw`).

    Returns:
        A dictionary of plain values: `path`, `nodes`, `opset`, `ops` (live RaggedRT nodes by op), `report` (as
        `report.json`, None where there is none), `masks` (one dictionary per distinct mask, as `mask_facts` of
        `raggedrt.sparse_facts` says, with `image` where it was drawn), `region` (tensors at which padding would be
        removed and restored), `bundle` (the manifest without its file list, None for a file), `warnings`.

    Raises:
        InputError: the file or bundle is unusable.
    """
    path = pathlib.Path(model)
    facts = _bundle_facts(path) if path.is_dir() else _file_facts(path)
    if not path.is_dir() and not facts["ops"]:
        facts |= _trial(path, io, length)
    masks = [] if facts["report"] is None else mask_facts(facts["report"], length)
    if draw is not None:
        _draw(masks, pathlib.Path(draw))
    return {**facts, "masks": masks}


def _bundle_facts(path: pathlib.Path) -> dict[str, Any]:
    bundle = open_bundle(path)
    return {
        **_file_facts(bundle.model_path),
        "path": str(path),
        "report": bundle.report,
        "bundle": bundle.manifest.model_dump(mode="json", exclude={"files"}),
    }


def _draw(masks: list[dict[str, Any]], folder: pathlib.Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--draw {folder}: is a file; name a folder for the drawings")
    folder.mkdir(parents=True, exist_ok=True)
    for number, facts in enumerate(masks, 1):
        if facts["tiles"] is not None:
            image = folder / file_name(number, facts)
            draw_mask(facts, image)
            facts["image"] = str(image)


def _file_facts(path: pathlib.Path) -> dict[str, Any]:
    proto = load_proto(path)
    facts = model_facts(proto)
    ops = dict(collections.Counter(node.op_type for node in facts.nodes))
    return {
        "path": str(path),
        "nodes": len(proto.graph.node),
        "opset": next((item.version for item in proto.opset_import if item.domain in ("", "ai.onnx")), None),
        "ops": ops,
        "report": None,
        "region": None,
        "bundle": None,
        "warnings": [
            f"the metadata promises {count} {name} nodes and the graph has {ops.get(name, 0)}: another tool inlined "
            "their function bodies; rewrite the original model again and use the result as it is"
            for name, count in facts.promised.items()
            if ops.get(name, 0) < count
        ],
    }


def _trial(path: pathlib.Path, io: str | None, length: int | None) -> dict[str, Any]:
    model = read_onnx(path).model
    config = dataclasses.replace(make_config(io=io, allow_partial=True), opt_length=length)
    report = run_passes(model, config, str(path))
    return {
        "report": report.to_json(),
        "region": {
            "inputs": _tensors(model, "PackTokens", lambda node: node.inputs[0]),
            "outputs": _tensors(model, "UnpackTokens", lambda node: node.outputs[0]),
        },
    }


def _tensors(model: ir.Model, op_type: str, pick: Any) -> list[str]:
    found = [pick(node) for node in model.graph.all_nodes() if (node.domain, node.op_type) == (DOMAIN, op_type)]
    return list(dict.fromkeys(value.name for value in found if value is not None))
