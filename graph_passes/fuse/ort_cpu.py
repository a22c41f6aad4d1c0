"""Fusions for ONNX Runtime, in order: the packed graph gets what the padded one would get.

ONNX Runtime makes the same ones by itself for half precision on a GPU, where it can choose how they are computed.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import onnx_ir as ir
from onnxscript.rewriter import pattern
from onnxscript.rewriter.ort_fusions.erfgelu import rules as erf_gelu_rules

from raggedrt.graph_passes.fuse import bias_gelu, fast_gelu, skip_normalization

RuleSets = tuple[tuple[str, pattern.RewriteRuleSet], ...]

logger = logging.getLogger(__name__)

_ERF_GELU = ("erf_gelu", erf_gelu_rules)
_BIAS_GELU = ("bias_gelu", bias_gelu.RULES)
CPU_RULES: RuleSets = (_ERF_GELU, ("fast_gelu", fast_gelu.RULES), _BIAS_GELU)
"""Without SkipLayerNormalization: its CPU kernel takes 4 to 5 times as long as Add and LayerNormalization (1576 rows of
768 features, one thread: 6.2 ms against 1.6 ms), and an Add of its own becomes part of the product before it (Gemm)."""
CUDA_RULES: RuleSets = (_ERF_GELU, ("skip_layer_normalization", skip_normalization.RULES), _BIAS_GELU)


def fuse(model: ir.Model, rule_sets: RuleSets = CPU_RULES) -> dict[str, int]:
    """Apply every rule set in place; returns how often each matched."""
    counts = {}
    for name, rules in rule_sets:
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
    "ort-cuda": functools.partial(fuse, rule_sets=CUDA_RULES),
    "ort-trt": leave,
    "tensorrt": leave,
    "tensorrt-rtx": leave,
}
"""By target."""
