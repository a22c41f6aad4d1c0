"""What a site adds to its scores (relative positions, tables) as operands of `RaggedAttention`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from raggedrt.graph_passes.attention_host import AttentionHost
from raggedrt.graph_passes.axes.rule import PackingRefused
from raggedrt.graph_passes.masks.bias import ALIBI, DISTANCE, MaskBias
from raggedrt.graph_passes.masks.pairs import OWN, PADDED
from raggedrt.graph_passes.masks.spec import MaskSpec
from raggedrt.graph_passes.packing.tape import Tape
from raggedrt.graph_passes.sites.site import AttentionSite, MaskTerm

_START = -(1 << 31)


@dataclasses.dataclass(frozen=True)
class SiteBias:
    """A term of a site's mask that is a bias, and what is known of it."""

    term: MaskTerm
    bias: MaskBias


def why_not_passed(biases: Sequence[SiteBias], spec: MaskSpec) -> str | None:
    """The reason why biases cannot be handed to the op beside a mask, or None."""
    for found in biases:
        if found.bias.kind == ALIBI:
            if (reason := _why_no_slopes(found.bias, biases, spec)) is not None:
                return reason
        elif found.term.factor != 1.0:
            return f"{found.bias.describe()} is multiplied by {found.term.factor:g} after it was added"
    kinds = [found.bias.kind for found in biases if found.bias.kind != ALIBI]  # slopes add up
    return None if len(kinds) == len(set(kinds)) else "more than one bias of a kind is added"


def _why_no_slopes(bias: MaskBias, biases: Sequence[SiteBias], spec: MaskSpec) -> str | None:
    """The op takes slopes by distance, and it has one kind of positions for all that compares them."""
    analytic = spec.analytic()
    if not spec.causal:
        return f"it adds {bias.describe()} to keys on both sides of the query, where that is no slope by distance"
    narrow = analytic is None or analytic.narrows
    others = any(found.bias.kind != ALIBI or found.bias.of != bias.of for found in biases)
    if others or (bias.of == OWN and spec.of == PADDED and narrow):
        return f"it adds {bias.describe()}, beside what compares slots ({spec.describe()})"
    if bias.of == PADDED and spec.of == OWN and narrow:
        return f"it adds {bias.describe()}, beside a mask of own tokens ({spec.describe()})"
    return None


def counts_own_tokens(biases: Sequence[SiteBias]) -> bool:
    """Whether a bias compares positions that count a row's own tokens."""
    return any(found.bias.kind == ALIBI and found.bias.of == OWN for found in biases)


def bias_operands(site: AttentionSite, biases: Sequence[SiteBias], region: AttentionHost) -> dict[str, ir.Value | None]:
    """`distance_bias` [1|N, 2S-1] or `bias` [1|B, 1|N, S, S], computed by the original graph for the call's length."""
    operands: dict[str, ir.Value | None] = {}
    if slopes := [found for found in biases if found.bias.kind == ALIBI]:
        operands["alibi_slopes"] = _slopes(site, slopes, region.tape)
    for found in biases:
        if found.bias.kind == ALIBI:
            continue
        value = region.exact(found.term.value, site.anchor)
        axes = region.analysis.axes_of(found.term.value)
        rank = len(axes) if axes is not None else len(value.shape) if value.shape is not None else None
        if rank is None or not 2 <= rank <= 4:
            raise PackingRefused(site.anchor, f"the rank of the bias '{found.term.value.name}' is not known")
        tape, stem = region.tape, f"{found.term.value.name}_bias"
        if rank < 4:
            value = tape.op("Unsqueeze", [value, tape.vector(list(range(4 - rank)))], stem=stem)
        if not _is_square(found.term.value):
            value = _for_every_pair(value, region, stem)
        if value.dtype is not site.query.value.dtype:
            value = tape.op("Cast", [value], {"to": site.query.value.dtype}, stem=stem, dtype=site.query.value.dtype)
        if found.bias.kind == DISTANCE:
            operands["distance_bias"] = by_distance(value, tape, stem)
        else:
            operands["bias"] = value
    return operands


def _is_square(value: ir.Value) -> bool:
    """Whether queries and keys both have an axis that is not one number for all of them."""
    return value.shape is not None and all(dim != 1 for dim in list(value.shape)[-2:])


def _for_every_pair(value: ir.Value, region: AttentionHost, stem: str) -> ir.Value:
    """[1|B, 1|N, S, S] from what is added to all queries, or to all keys, alike."""
    tape = region.tape
    length = tape.op("Shape", [region.plan.max_seqlen], stem=f"{stem}_length", dtype=ir.DataType.INT64, shape=[1])
    shape = tape.op("Concat", [tape.vector([1, 1]), length, length], {"axis": 0}, stem=f"{stem}_shape", shape=[4])
    return tape.op("Expand", [value, shape], stem=stem, dtype=value.dtype)


def _slopes(site: AttentionSite, terms: Sequence[SiteBias], tape: Tape) -> ir.Value:
    """Float32 [N]."""
    total = np.zeros(site.num_heads, dtype=np.float64)
    for found in terms:
        total += found.bias.values.astype(np.float64) * found.term.factor
    return tape.array(total.astype(np.float32), f"{terms[0].term.value.name}_slopes")


def by_distance(bias: ir.Value, tape: Tape, stem: str) -> ir.Value:
    """[1|N, 2S-1] by key - query: the first column read upwards (distance < 0), then the first row."""
    second = tape.vector([1])
    one_query = [tape.vector([0, 0]), tape.vector([1, 1]), tape.vector([0, 2])]
    row = tape.op("Slice", [bias, *one_query], stem=stem)  # [1, N, 1, S]
    row = tape.op("Squeeze", [row, tape.vector([0, 2])], stem=stem)
    one_key = [tape.vector([0, 0]), tape.vector([1, 1]), tape.vector([0, 3])]
    column = tape.op("Slice", [bias, *one_key], stem=stem)  # [1, N, S, 1]
    column = tape.op("Squeeze", [column, tape.vector([0, 3])], stem=stem)
    backwards = [tape.vector([-1]), tape.vector([_START]), second, tape.vector([-1])]
    column = tape.op("Slice", [column, *backwards], stem=stem)
    before = tape.op("Slice", [column, tape.vector([0]), tape.vector([-1]), second], stem=stem)
    return tape.op("Concat", [before, row], {"axis": 1}, stem=f"{stem}_by_distance")
