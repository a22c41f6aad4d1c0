"""BlockMask: the tile list of an analytic mask, for the length of the call."""

from __future__ import annotations

from raggedrt.plugins.contract.op_definition import INT32, AttributeSpec, ElementType, OpDefinition, TensorSpec

CARRIERS = (ElementType.FLOAT, ElementType.INT32, ElementType.INT64, ElementType.BOOL)

OP = OpDefinition(
    name="BlockMask",
    doc="""Builds the tile tensors of RaggedAttention for S positions; one node serves all layers with that mask.

A mask is a conjunction of clauses, a clause a disjunction of rules. `rules` has 11 integers per rule: clause (0, 1, …,
not decreasing), unit, query begin, end, step, key begin, end, step, distance low, high, step. With q and k the query
and key positions divided by unit (rounded down), and n the number of units in the sequence (rounded up), the rule
holds if q is one of begin, begin + step, … below end, k likewise, low <= k - q <= high, and k - q is a multiple of
the distance step. A negative begin or end counts from the end: n is added. 2^31 - 1 is no bound, as is its negative
for low. Without any clause every pair is visible. A listed block (`blocks`) is one more rule of clause 0, which it
makes where there is none.

Tiles have block_size rows and columns of original positions. Entries ascend by sequence, group, tile row and tile
column; a tile without visible pair has none. A tag of -1 means that every pair of existing positions is visible;
else it is the index of a bitmap, and element 32 * w + k of the tile in row-major order is bit k of word w. Bits of
positions that do not exist are 0. Equal bitmaps are stored once, in order of first use.""",
    inputs=(
        TensorSpec("max_seqlen", "C", CARRIERS, ("S",), doc="only its length S is read: positions of the call"),
        TensorSpec(
            "blocks", "I", INT32, ("G", "R'", "K"), optional=True,
            doc="tile columns listed for each tile row; negative ones and those past the end are none"
        ),
        TensorSpec(
            "cu_seqlens", "I", INT32, ("B+1",), optional=True,
            doc="ends are those of each sequence, not S; every sequence gets a mask of its own"
        ),
    ),
    outputs=(
        TensorSpec("tile_ptr", "I", INT32, ("B|1", "G", "R+1"), doc="R = ceil(S / block_size)"),
        TensorSpec("tile_col", "I", INT32, ("E",), doc="tile column of each entry"),
        TensorSpec("tile_tag", "I", INT32, ("E",), doc="-1: full, else the bitmap's index"),
        TensorSpec("tile_bits", "I", INT32, ("P", "W"), doc="W = block_size * block_size / 32"),
    ),
    attributes=(
        AttributeSpec("block_size", None, "rows and columns of a tile, a multiple of 8"),
        AttributeSpec("rules", (), "the mask, 11 integers per rule"),
    ),
)  # fmt: skip
