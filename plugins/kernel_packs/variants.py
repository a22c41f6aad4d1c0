"""Kernel variants as data: one row is one translation unit with macros, so one machine function.

The launcher reads the same rows from a kernel pack and chooses among them by the problem; a new variant is a new row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from raggedrt.plugins.contract.op_definition import FLOATS, ElementType

CAPABILITIES = (80, 86, 89, 90, 100, 120)
"""Compute capabilities (10 * major + minor) that packs are built for by default."""
CODE_CAPABILITY = {86: 80, 89: 80}
"""Whose machine code a pack holds where not its own: devices of one major version run that of an older one, and nothing
here uses what came with 8.6 and 8.9."""
SHARED_BYTES = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}
"""Shared memory that a block can ask for, by compute capability."""
REGISTERS = 65_536
"""Registers of a multiprocessor, on every capability here; a block's threads share them."""

ELEMENT_NAMES = {ElementType.FLOAT: "float32", ElementType.FLOAT16: "half", ElementType.BFLOAT16: "bfloat16"}
"""Element types as device code names them."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """One kernel of a pack. Fields that a family does not have are 0 or None."""

    family: str
    """Name of the source, `kernels/<family>.cu`."""
    threads: int
    """Largest block it is launched with."""
    element: ElementType | None = None
    source_element: ElementType | None = None
    """What `cast` reads; it writes `element`."""
    vector_bytes: int = 0
    head_size: int = 0
    """Head size it is compiled for, of keys and values alike."""
    mask_class: int = 0
    score_class: int = 0
    query_rows: int = 0
    """Rows of the query tile."""
    key_tile: int = 0
    stages: int = 0
    warps: int = 0
    row_blocks: int = 0
    """Blocks of 16 query rows that a warp owns."""
    shared_bytes: int = 0
    """Dynamic shared memory of its launch, where it does not depend on the problem."""
    min_blocks: int = 1
    """Blocks that must fit a multiprocessor at once."""

    @property
    def source(self) -> str:
        """The translation unit, relative to `cuda/kernels`."""
        return f"{self.family}.cu"

    @property
    def entry(self) -> str:
        """C name of the kernel."""
        parts = ["raggedrt", self.family]
        parts += [ELEMENT_NAMES[e] for e in (self.source_element, self.element) if e]
        parts += [f"{letter}{getattr(self, name)}" for letter, name in _ENTRY_LETTERS if getattr(self, name)]
        return "_".join(parts)

    @property
    def macros(self) -> dict[str, str]:
        """What the translation unit is compiled with, besides `RAGGEDRT_ENTRY`."""
        if self.family == "attention":
            names = {macro: str(getattr(self, field)) for macro, field in ATTENTION_MACROS.items()}
        else:
            names = {macro: str(getattr(self, field)) for macro, field in _MACROS.items() if getattr(self, field)}
        if self.element is not None and self.source_element is not None:
            elements = {"RAGGEDRT_SOURCE": self.source_element, "RAGGEDRT_TARGET": self.element}
        else:
            elements = {"RAGGEDRT_ELEMENT": self.element} if self.element else {}
        return names | {macro: ELEMENT_NAMES[element] for macro, element in elements.items()}


_ENTRY_LETTERS = (
    ("v", "vector_bytes"),
    ("h", "head_size"),
    ("m", "mask_class"),
    ("s", "score_class"),
    ("q", "query_rows"),
    ("k", "key_tile"),
    ("x", "stages"),
    ("w", "warps"),
)
_MACROS = {"RAGGEDRT_VECTOR_BYTES": "vector_bytes", "RAGGEDRT_HEAD_SIZE": "head_size"}
ATTENTION_MACROS = {
    "RAGGEDRT_HEAD_SIZE": "head_size",
    "RAGGEDRT_MASK": "mask_class",
    "RAGGEDRT_SCORES": "score_class",
    "RAGGEDRT_WARPS": "warps",
    "RAGGEDRT_ROW_BLOCKS": "row_blocks",
    "RAGGEDRT_KEY_TILE": "key_tile",
    "RAGGEDRT_STAGES": "stages",
    "RAGGEDRT_MIN_BLOCKS": "min_blocks",
}

DATA_THREADS = 256  # kDataThreads of data_params.h, and so on
SCAN_THREADS = 1024
WORK_THREADS = 512
WORK_SHARED_BYTES = 768
ROW_THREADS = 128
VECTOR_BYTES = (16, 8, 4, 2, 1)
ROW_HEAD_SIZES = (32, 64, 128, 256)


def _data_variants() -> Iterator[Variant]:
    """Packing, copies, lists of work and of tiles, and what follows attention."""
    for family in ("packing_count", "packing_fill"):
        yield Variant(family, DATA_THREADS, shared_bytes=DATA_THREADS // 32 * 4)
    yield Variant("packing_scan", SCAN_THREADS, shared_bytes=SCAN_THREADS // 32 * 4)
    yield Variant("unpack_invert", DATA_THREADS)
    for family in ("pack_tokens", "unpack_tokens"):
        yield from (Variant(family, DATA_THREADS, vector_bytes=size) for size in VECTOR_BYTES)
    yield Variant("describe_keys", DATA_THREADS)
    yield Variant("work_list", WORK_THREADS, shared_bytes=WORK_SHARED_BYTES)
    for family in ("tile_list_count", "tile_list_fill", "tile_list_bits"):
        yield Variant(family, DATA_THREADS)
    for family in ("tile_list_scan", "tile_list_share"):
        yield Variant(family, SCAN_THREADS, shared_bytes=SCAN_THREADS // 32 * 4)
    for family in ("merge_states", "combine_splits"):
        yield from (Variant(family, DATA_THREADS, element) for element in FLOATS)


def _row_attention() -> Iterator[Variant]:
    """Attention of short sequences, of float32 and of head sizes that tensor cores do not serve."""
    for head_size in ROW_HEAD_SIZES:
        shared_bytes = row_shared_bytes(head_size)
        for element in FLOATS:
            yield Variant("row_attention", ROW_THREADS, element, head_size=head_size, shared_bytes=shared_bytes)


def row_shared_bytes(head_size: int) -> int:
    """`row_shared_bytes` of data_params.h."""
    rows = 4 if head_size <= 128 else 2
    return ROW_THREADS // 32 * (32 * (128 + 16) + rows * (head_size + 32) * 4)


SCORED_TILE_HEAD_SIZES = (64, 128)
"""That score terms together with tile lists are compiled for; others are left to `row_attention`."""


@dataclasses.dataclass(frozen=True)
class AttentionTile:
    """How a block of `attention` shares its query rows, and how many keys it takes at a time."""

    key_tile: int
    warps: int
    row_blocks: int
    min_blocks: int


# Warps of 32 rows read every key from shared memory half as often; warps of 16 rows have registers for more.
WIDE_64, WIDE_32 = AttentionTile(64, 2, 2, 4), AttentionTile(32, 2, 2, 4)
NARROW_64, NARROW_32 = AttentionTile(64, 4, 1, 2), AttentionTile(32, 4, 1, 2)
PLAIN_TILES: dict[int, tuple[AttentionTile, ...]] = {
    32: (WIDE_64, WIDE_64, WIDE_64),
    64: (WIDE_64, WIDE_32, WIDE_32),
    80: (NARROW_64, NARROW_64, NARROW_64),
    96: (WIDE_32, NARROW_64, NARROW_64),
    128: (NARROW_64, NARROW_64, NARROW_32),
}
"""By head size and mask class (every key, by position, by tile list), without score terms: the largest that spill
nothing on any architecture. Which of those is fastest has to be measured."""
LONG_64, LONG_32 = AttentionTile(64, 4, 2, 2), AttentionTile(32, 4, 2, 2)
LONG_TILES: dict[int, tuple[AttentionTile, ...]] = {64: (LONG_64, LONG_32)}
"""Of 128 query rows, for long sequences: what these sizes have besides, by mask class."""
SCORED_TILES = {32: NARROW_32, 64: NARROW_32, 80: NARROW_64, 96: NARROW_32, 128: NARROW_32}
"""With score terms; 32 rows of 80 elements are no whole number of vectors per thread of four warps."""


def _attention() -> Iterator[Variant]:
    """Attention on tensor cores."""
    for element in (ElementType.FLOAT16, ElementType.BFLOAT16):
        for head_size, tiles in PLAIN_TILES.items():
            for mask_class, tile in enumerate(tiles):
                yield attention_variant(element, head_size, mask_class, 0, **dataclasses.asdict(tile))
        for head_size, tiles in LONG_TILES.items():
            for mask_class, tile in enumerate(tiles):
                yield attention_variant(element, head_size, mask_class, 0, **dataclasses.asdict(tile))
        for head_size, tile in SCORED_TILES.items():
            yield attention_variant(element, head_size, 1, 1, **dataclasses.asdict(tile))
            if head_size in SCORED_TILE_HEAD_SIZES:
                yield attention_variant(element, head_size, 2, 1, **dataclasses.asdict(tile))


def attention_variant(
    element: ElementType, head_size: int, mask_class: int, score_class: int, *, key_tile: int, warps: int = 4,
    row_blocks: int = 1, stages: int = 2, min_blocks: int = 2,
) -> Variant:  # fmt: skip
    """The variant of `attention` with this tile; its shared memory is `kSharedBytes` of attention_config.cuh."""
    query_rows = 16 * row_blocks * warps
    row_bytes = 2 * head_size
    facts = 1 + (mask_class == 2) + score_class
    fact_bytes = 4 * (key_tile * facts + 32) if mask_class else 0
    shared_bytes = stages * (2 * key_tile * row_bytes + fact_bytes) + query_rows * row_bytes + 128
    return Variant(
        "attention", 32 * warps, element, head_size=head_size, mask_class=mask_class, score_class=score_class,
        query_rows=query_rows, key_tile=key_tile, stages=stages, warps=warps, row_blocks=row_blocks,
        shared_bytes=shared_bytes, min_blocks=min_blocks,
    )  # fmt: skip


VARIANTS: tuple[Variant, ...] = (*_data_variants(), *_row_attention(), *_attention())
"""Every variant of a pack."""
