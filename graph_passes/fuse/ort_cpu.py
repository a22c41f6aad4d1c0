"""Fusions for ONNX Runtime, in order: the packed graph gets what the padded one would get.

ONNX Runtime makes the same ones by itself for half precision on a GPU, where it can choose how they are computed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import onnx_ir as ir
from onnxscript.rewriter.ort_fusions.erfgelu import rules as erf_gelu_rules

from raggedrt.graph_passes.fuse import bias_gelu, skip_normalization

logger = logging.getLogger(__name__)

RULE_SETS = (
    ("erf_gelu", erf_gelu_rules),
    ("skip_layer_normalization", skip_normalization.RULES),
    ("bias_gelu", bias_gelu.RULES),
)


def fuse(model: ir.Model) -> dict[str, int]:
    """Apply every rule set in place; returns how often each matched."""
    counts = {}
    for name, rules in RULE_SETS:
        counts[name] = rules.apply_to_model(model)
        logger.debug("%s: %d", name, counts[name])
    if any(counts.values()):
        model.graph.opset_imports["com.microsoft"] = 1
        model.graph.sort()  # a fused node stands where the last of its parts stood, behind readers of the others
    return counts


def leave(model: ir.Model) -> dict[str, int]:
    """TensorRT fuses by itself and knows none of ONNX Runtime's ops."""
    return {}


FUSIONS: dict[str, Callable[[ir.Model], dict[str, int]]] = {
    "ort-cpu": fuse,
    "ort-cuda": fuse,
    "ort-trt": leave,
    "tensorrt": leave,
    "tensorrt-rtx": leave,
}
"""By target."""
