"""`inspect`: what is in a model, what could be done with it, and why not."""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
import re
from typing import Any

import onnx_ir as ir

from raggedrt.advice import advice_for
from raggedrt.context_facts import bundle_contexts, context_facts
from raggedrt.drawing import draw_mask, file_name
from raggedrt.engine_facts import bundle_engines, engine_file_facts, is_engine
from raggedrt.errors import InputError, RaggedRTError
from raggedrt.explaining import axes_lost
from raggedrt.graph_passes.axes.rule import describe_node
from raggedrt.graph_passes.sites.no_attention import why_no_attention
from raggedrt.model_summary import environment, model_summary
from raggedrt.onnx_files import read_onnx
from raggedrt.plugins.bundle.model_facts import load_proto, model_facts, plugin_nodes
from raggedrt.plugins.bundle.reader import open_bundle
from raggedrt.plugins.contract.op_definition import DOMAIN
from raggedrt.rewriting import make_config, run_passes
from raggedrt.sparse_facts import mask_facts

PLUGIN_FORM = (
    "nodes of RaggedRT are in the form of TensorRT's plugins; inspect the model.onnx that this file was made from to "
    "see what was lowered and packed"
)


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
        model: ONNX file or bundle directory, or an engine, of which less can be said: its `path`, `inputs`, `outputs`
            and `engines`.
        io: inputs and outputs of the rewrite that is tried.
        length: tokens at which masks are looked at; None: a static length, or one that shows what they do.
        draw: folder to draw each distinct mask in, as PNG; needs Pillow (the extra `draw`).

    Returns:
        A dictionary of plain values, fit for a bug report: it holds no weights, and of paths only the model's own name.
        `path` (that name), `nodes`, `opset`, `ops` (live RaggedRT nodes by op), `plugins` (those in
        the form of TensorRT's plugins), `report` (as `report.json`, None where
        there is none; each refusal has `advice`, what to change, where that is known), `problem` (why the passes
        refuse the file, None where they do not), `masks` (one dictionary per distinct mask, as `mask_facts` of
        `raggedrt.sparse_facts` says, with `image` where it was drawn), `axes_lost` (`node`, `reason`: where the meaning
        of axes is lost), `other_softmaxes` (`node`, `reason`: not taken for attention), `region` (tensors at
        which padding would be removed and restored), `model` (as `model_summary`
        of `raggedrt.model_summary` says), `environment` (versions), `bundle` (the manifest without its file list, None
        for a file), `engines` (the manifest's records with `layer_counts`, `runs_here` and `why_not`), `ep_contexts`
        (what ONNX Runtime compiled: `node`, `provider`, `partition`, `sdk_version`, `hardware`, `original`, `main`,
        `embed_mode`, `file`, `bytes`, `present`, `problem`, in a bundle `runs_here` and `why_not`), `warnings`.

    Raises:
        InputError: it is no ONNX file or bundle. What parses and is no valid model is told as its `problem`.
    """
    path = pathlib.Path(model)
    if is_engine(path) and not path.is_dir():
        return engine_file_facts(path)
    facts = _bundle_facts(path) if path.is_dir() else _file_facts(path)
    if not path.is_dir() and not facts["ops"] and not facts["ep_contexts"] and not facts["plugins"]:
        try:
            facts |= _trial(path, io, length)
        except RaggedRTError as error:
            facts["problem"] = str(error)
    masks = [] if facts["report"] is None else mask_facts(facts["report"], length)
    if draw is not None:
        _draw(masks, pathlib.Path(draw))
    return {**facts, "masks": masks}


def _bundle_facts(path: pathlib.Path) -> dict[str, Any]:
    bundle = open_bundle(path)
    manifest = bundle.manifest.model_dump(mode="json", exclude={"files"})
    manifest["source"]["description"] = _without_folders(manifest["source"]["description"])
    return {
        **_file_facts(bundle.model_path),
        "path": path.resolve().name,
        "report": _with_advice(bundle.report),
        "bundle": manifest,
        "engines": bundle_engines(bundle),
        "ep_contexts": bundle_contexts(bundle),
    }


def _without_folders(text: str) -> str:
    """A description of a source with the folders of paths left out."""
    return re.sub(r"(?<![\w.:-])/(?:[^\s/,:]+/)+", "", text)


def _with_advice(report: dict[str, Any]) -> dict[str, Any]:
    """The same report; every refusal says what to change, where that is known."""
    refused = [*(item for entry in report["passes"] for item in entry["refused"]), *report.get("refusals", ())]
    for item in refused:
        item["advice"] = advice_for(item["reason"])
    return {**report, "external_data_dir": None}


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
    plugins = collections.Counter(node.op_type for node in plugin_nodes(proto))
    promised: dict[str, int] = {}
    ops: dict[str, int] = {}
    problem = None
    try:
        facts = model_facts(proto)
        promised, ops = facts.promised, dict(collections.Counter(node.op_type for node in facts.nodes))
    except InputError as error:
        problem = str(error)
    return {
        "path": path.name,
        "nodes": len(proto.graph.node),
        "opset": next((item.version for item in proto.opset_import if item.domain in ("", "ai.onnx")), None),
        "ops": ops,
        "plugins": dict(plugins),
        "report": None,
        "problem": problem,
        "region": None,
        "axes_lost": [],
        "other_softmaxes": [],
        "bundle": None,
        "engines": [],
        "ep_contexts": context_facts(proto, path.parent),
        "model": model_summary(proto),
        "environment": environment(),
        "warnings": [
            *([PLUGIN_FORM] if plugins else []),
            *(_inlined(name, count, found) for name, count in promised.items() if (found := ops.get(name, 0)) < count),
        ],
    }


def _inlined(op: str, promised: int, found: int) -> str:
    return (
        f"the metadata promises {promised} {op} nodes and the graph has {found}: another tool inlined their function "
        "bodies; rewrite the original model again and use the result as it is"
    )


def _trial(path: pathlib.Path, io: str | None, length: int | None) -> dict[str, Any]:
    model = read_onnx(path).model
    config = dataclasses.replace(make_config(io=io, allow_partial=True), opt_length=length)
    report = run_passes(model, config, path.name).to_json()
    sites = {entry["node"] for entry in report["attention"]}
    softmaxes = [node for node in model.graph if node.op_type == "Softmax" and not node.domain]
    return {
        "report": _with_advice(report),
        "region": {
            "inputs": _tensors(model, "PackTokens", lambda node: node.inputs[0]),
            "outputs": _tensors(model, "UnpackTokens", lambda node: node.outputs[0]),
        },
        "axes_lost": axes_lost(model.graph),
        "other_softmaxes": [
            {"node": describe_node(node), "reason": why_no_attention(node)}
            for node in softmaxes
            if describe_node(node) not in sites
        ],
    }


def _tensors(model: ir.Model, op_type: str, pick: Any) -> list[str]:
    found = [pick(node) for node in model.graph.all_nodes() if (node.domain, node.op_type) == (DOMAIN, op_type)]
    return list(dict.fromkeys(value.name for value in found if value is not None))
