"""The ABI guard: ONNX Runtime ignores attributes and versions it does not know, so nodes are checked first."""

from __future__ import annotations

import collections
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

from raggedrt.errors import InputError, TargetError
from raggedrt.plugins.bundle.model_facts import ModelFacts, OpNode
from raggedrt.plugins.contract.abi import Feature

if TYPE_CHECKING:
    from raggedrt.plugins.runtime.library import LibraryInfo


def check_library(facts: ModelFacts, info: LibraryInfo, where: str, *, cuda: bool = False) -> None:
    """Check that the op library serves every node of the model; `where` names the model.

    `cuda`: by its kernels for the CUDA provider.

    Raises:
        TargetError: a node has an ABI version, an op or a feature bit that the library does not know.
        InputError: a node lacks the attributes that say so.
    """
    _refuse_plugin_form(facts, where)
    features = info.cuda_features if cuda else info.features
    for node in facts.nodes:
        _check_node(node, info, features, where)


def check_bodies(facts: ModelFacts, where: str) -> None:
    """Check that the model runs without an op library: every node of ours has a function body.

    Raises:
        InputError: a node has none.
    """
    _refuse_plugin_form(facts, where)
    for node in facts.nodes:
        if not node.has_body:
            raise InputError(
                f"{where}: node {node.name!r} ({node.op_type}) has no function body, so only an op library runs it; "
                "build the library with `raggedrt doctor --build-ops`, or rewrite the model again."
            )


def warn_if_inlined(facts: ModelFacts, where: str) -> None:
    """Warn where another tool has inlined bodies since the rewrite: no library can speed those ops up any more."""
    present = collections.Counter(node.op_type for node in facts.nodes)
    for op, promised in facts.promised.items():
        if present[op] < promised:
            warnings.warn(
                f"{where}: the metadata promises {promised} {op} nodes and the graph has {present[op]}; a tool inlined "
                "their function bodies, which run slower. Rewrite the model as the last step.",
                stacklevel=4,
            )


def _refuse_plugin_form(facts: ModelFacts, where: str) -> None:
    """Its inputs stand in other places than the op library expects, which would give wrong values without an error."""
    node = next((node for node in facts.nodes if node.plugin_form), None)
    if node is not None:
        raise InputError(
            f"{where}: node {node.name!r} ({node.op_type}) is in the form of TensorRT's plugins, which ONNX Runtime "
            "does not read; use the model that this one was made from (model.onnx of its bundle)."
        )


def _check_node(node: OpNode, info: LibraryInfo, features: Mapping[str, Feature], where: str) -> None:
    named = f"{where}: node {node.name!r} ({node.op_type})"
    if node.abi is None or node.features is None or node.features < 0:
        raise InputError(f"{named} lacks the attributes abi and features; rewrite the model.")
    library = f"the op library {info.version}"
    remedy = "install a RaggedRT that knows it, or run on function bodies with native=False."
    if not 1 <= node.abi <= info.abi:
        raise TargetError(f"{named} needs op ABI {node.abi}, and {library} has {info.abi}; {remedy}")
    if node.op_type not in features and node.has_body:
        return  # ONNX Runtime runs the body of an op that the library does not register
    if node.op_type not in features:
        raise TargetError(f"{named}: {library} has no such op; {remedy}")
    if unknown := node.features & ~int(features[node.op_type]):
        raise TargetError(f"{named} uses {feature_names(unknown)}, which {library} does not know; {remedy}")


def feature_names(features: int) -> str:
    """Feature bits in words, e.g. `CAUSAL (bit 0), bit 40`."""
    bits = [bit for bit in range(features.bit_length()) if features >> bit & 1]
    known = {f.value.bit_length() - 1: f.name for f in Feature}
    return ", ".join(f"{known[bit]} (bit {bit})" if bit in known else f"bit {bit}" for bit in bits)
