"""One attention computation, however the exporter spelled it."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from raggedrt.graph_passes.axes.atoms import Axes, Kind, axis_size, has
from raggedrt.graph_passes.axes.rule import describe_node
from raggedrt.graph_passes.masks.inputs import MaskAxes, Polarity
from raggedrt.graph_passes.masks.spec import MaskSpec


@dataclasses.dataclass(frozen=True)
class HeadLayout:
    """Which axes of a query, key or value tensor hold heads and features (counted in the unpacked tensor).

    `[B, N, S, H]` is `HeadLayout((1,), 3)`; `[B, S, N*H]` is `HeadLayout((), 2)`.
    """

    heads: tuple[int, ...]
    feature: int


BNSH = HeadLayout((1,), 3)
BSNH_FLAT = HeadLayout((), 2)
MERGED = HeadLayout((0,), 2)
"""`[B*N, S, H]`: batch and heads share an axis."""


@dataclasses.dataclass(frozen=True)
class Operand:
    """Query, key or value with its layout."""

    value: ir.Value
    layout: HeadLayout


@dataclasses.dataclass(frozen=True)
class MaskTerm:
    """One value that hides keys or adds a bias; several terms of a site all apply.

    `factor` is what the scores are multiplied with after the term was added.
    """

    value: ir.Value
    polarity: Polarity
    axes: MaskAxes = MaskAxes.BROADCAST
    factor: float = 1.0


@dataclasses.dataclass(frozen=True)
class DisentangledTerm:
    """DeBERTa's position terms: (operand table^T)[row, index] * factor is added to the scores.

    Attributes:
        of_query: the operand is the query and the row its slot; else the key, and the term is that of the key's slot.
        operand: `[B*N, S, H]`.
        table: projected position embeddings [N, C, H], or [N, H, C] where `table_transposed`.
        index: which of the C columns, integer `[..., S, S]` by (row slot, other slot).
    """

    of_query: bool
    operand: ir.Value
    table: ir.Value
    table_transposed: bool
    index: ir.Value
    factor: float


@dataclasses.dataclass
class AttentionSite:
    """softmax(query key^T * scale, masked) value. Never serialised: the original nodes stay until it is lowered.

    Attributes:
        anchor: the Softmax or fused attention node.
        form: the spelling it was found in.
        output: what the attention yields, `[B, N, S, Hv]` or `[B, S, N*Hv]` as `output_layout` says.
        num_heads: query heads; `kv_num_heads`: key/value heads.
        head_size: of query and key; `value_head_size`: of the value.
        scale: factor on query key^T.
        softcap: c > 0 where the scaled scores s become c * tanh(s / c) before any mask.
        masks: terms that hide keys.
        disentangled: position terms that are added to the scores.
        sink: a logit per head, of as many elements, that only the denominator counts.
        causal: the op itself hides later keys.
        spec: what the op's attributes say of the mask.
        zero_where_unattended: a query that sees no key yields zeros, as with `RaggedAttention`; other forms leave it to
            chance.
        right_padded: why tokens that stand behind the row's key lengths have no value of their own (kernels of the
            original differ there), so that rows must be padded on the right; None where they may stand anywhere.
        unsupported: what no kernel serves yet, as reasons.
        unpackable: why the site's rows are no tokens of the graph's inputs, so that it is only lowered by itself; None
            where they are.
        cache: further outputs of the anchor (present keys and values), and the values that they equal.
    """

    anchor: ir.Node
    form: str
    query: Operand
    key: Operand
    value: Operand
    output: ir.Value
    output_layout: HeadLayout
    num_heads: int
    kv_num_heads: int
    head_size: int
    value_head_size: int
    scale: float
    softcap: float = 0.0
    masks: list[MaskTerm] = dataclasses.field(default_factory=list)
    disentangled: list[DisentangledTerm] = dataclasses.field(default_factory=list)
    sink: ir.Value | None = None
    causal: bool = False
    spec: MaskSpec = dataclasses.field(default_factory=MaskSpec)
    zero_where_unattended: bool = False
    right_padded: str | None = None
    unsupported: list[str] = dataclasses.field(default_factory=list)
    added: list[MaskTerm] = dataclasses.field(default_factory=list)
    unpackable: str | None = None
    cache: dict[ir.Value, ir.Value] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """The anchor as a user finds it in the graph."""
        return describe_node(self.anchor)


@dataclasses.dataclass(frozen=True)
class UnknownSite:
    """Something that multiplies values by softmax weights but is no form that is known."""

    anchor: ir.Node
    form: str
    reason: str

    @property
    def name(self) -> str:
        """The anchor as a user finds it in the graph."""
        return describe_node(self.anchor)


class NotThisForm(Exception):  # noqa: N818 - a signal within `sites`, never an error for users
    """The walk left the known forms; carries the closest form and what was met."""

    def __init__(self, form: str, reason: str) -> None:
        super().__init__(reason)
        self.form = form
        self.reason = reason


def require_batch_first(form: str, *operands: Axes) -> None:
    """Refuse layouts such as [heads, batch, slots, head size], which lengths alone do not tell apart."""
    if any(not has(axes[:1], Kind.BATCH) or has(axes[1:], Kind.BATCH) for axes in operands):
        raise NotThisForm(form, "query, key and value do not begin with the batch axis")


def static_size(axes: Axes, number: int, form: str, what: str) -> int:
    """The length of an axis that must be known when the graph is rewritten."""
    size = axis_size(axes[number]).static
    if size is None:
        raise NotThisForm(form, f"the {what} is not known before run time")
    return size
