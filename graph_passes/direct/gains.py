"""Where attention that is lowered by itself is faster than what it replaces: a table made from measurements.

Time of ONNX Runtime's nodes (from [B, S, N*H] to the same, transposes included) over that of `RaggedAttention`, fp32,
AVX-512, one thread, 8 rows of 32 to 197 tokens and 1 row of 512 to 1500, 12 heads of 64:

| | 8 | 32 | 64 | 128 | 197 | 512 | 1024 | 1500 |
|---|---|---|---|---|---|---|---|---|
| decomposed, every key visible | 1.45 | 1.27 | 1.21 | 1.07 | 1.25 | 1.12 | 1.14 | 1.15 |
| MultiHeadAttention, every key visible | 1.42 | 1.20 | 1.15 | 1.04 | 1.02 | 1.00 | 1.02 | 0.99 |
| decomposed, causal | | 1.47 | | 1.70 | | | 2.32 | |
| MultiHeadAttention, causal | | 1.65 | | 2.01 | | | 2.15 | |
| decomposed, a bias table | | | | | 0.92 | | 0.99 | |

ONNX's own `Attention` has no row: it is always lowered, for ONNX Runtime's is slower and TensorRT has none.
"""

from __future__ import annotations

import dataclasses

from raggedrt.graph_passes.masks.bias import DENSE
from raggedrt.graph_passes.masks.spec import MaskSpec
from raggedrt.graph_passes.sites.site import AttentionSite

DEFAULT_LENGTH = 4096
"""Tokens at which a mask is looked at where nothing is known."""
SPARSE_AT_MOST = 0.75
"""Kept share of pairs at which skipping pays for itself."""
SHORT = 64
"""Tokens up to which calls, not products, take the time."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """What decides about a site.

    Attributes:
        decomposed: spelled in MatMul and Softmax, else one node.
        sparse: the mask hides enough.
        table: a bias by query and key is added.
        short: rows are known to be short.
    """

    decomposed: bool
    sparse: bool
    table: bool
    short: bool


@dataclasses.dataclass(frozen=True)
class Row:
    """Kinds that are lowered; None: whatever it is."""

    decomposed: bool | None = None
    sparse: bool | None = None
    table: bool | None = None
    short: bool | None = None

    def fits(self, kind: Kind) -> bool:
        """Every field that says something agrees."""
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(kind), strict=True)
        return all(wanted is None or wanted == found for wanted, found in pairs)


_SPARSE = Row(sparse=True)
GAINS: dict[str, tuple[Row, ...]] = {
    "ort-cpu": (_SPARSE, Row(decomposed=True, table=False), Row(short=True)),
    # Not measured: scores that never reach memory are what fused attention gains there, and fused nodes have them.
    "ort-cuda": (_SPARSE, Row(decomposed=True)),
}
"""By target; where there is no row, function bodies serve, which are products again."""


def why_no_gain(site: AttentionSite, spec: MaskSpec, kinds: set[str], length: int | None, target: str) -> str | None:
    """The reason why lowering the site by itself is not faster, or None.

    Args:
        site: the site.
        spec: its mask.
        kinds: of its biases.
        length: tokens of a row; None where it is not known.
        target: where it is to run.
    """
    if site.anchor.op_type == "Attention" and not site.anchor.domain:
        return None
    rows = GAINS.get(target, ())
    if not rows:
        return f"nothing is gained on {target} by lowering attention where nothing is packed"
    density = spec.density(length or max(DEFAULT_LENGTH, 8 * spec.largest_constant))
    kind = Kind(
        decomposed=site.anchor.op_type == "Softmax",
        sparse=density <= SPARSE_AT_MOST,
        table=DENSE in kinds,
        short=length is not None and length <= SHORT,
    )
    if any(row.fits(kind) for row in rows):
        return None
    what = "a bias table is added" if kind.table else "every key is visible"
    return f"lowering it by itself gains nothing: {what} and {site.form} is as fast"
