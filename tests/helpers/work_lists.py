"""Work lists: calls to make them for, and what must hold of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from helpers.data_kernels import Array
from raggedrt.plugins.layout.build import from_mask
from raggedrt.plugins.ops.ragged_attention.cases import random_tiles

# Of kernels/params.h and data_params.h.
WORK_HEADER, WORK_ROWS, KEY_TILE, WORK_CLASSES, WORK_THREADS = 4, 64, 64, 64, 512


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Lengths and masks of a call."""

    queries: Sequence[int]
    keys: Sequence[int] = ()
    """Empty: those of the queries."""
    causal: bool = False
    window: tuple[int, int] = (-1, -1)
    global_tokens: tuple[int, ...] = ()
    block_size: int = 0
    groups: int = 1
    own_tiles: bool = False
    """Each sequence has tiles of its own."""
    positions: str = ""
    """left, holes, shuffled or outside; empty: none."""
    tail: int = 0
    """Query rows past the last sequence."""
    splits: int = 1

    @property
    def key_lengths(self) -> Sequence[int]:
        return self.keys or self.queries

    def positions_q(self, rng: np.random.Generator) -> Array | None:
        made = {
            "left": lambda length: np.arange(length) + rng.integers(0, 70),
            "holes": lambda length: np.sort(rng.permutation(2 * length)[:length]),
            "shuffled": lambda length: rng.permutation(length),
            "outside": lambda length: np.arange(length) * 3 - 5,
        }
        if not self.positions:
            return None
        parts = [made[self.positions](length) for length in self.queries]
        return np.concatenate([*parts, np.zeros(self.tail, np.int64)]).astype(np.int32)

    def tiles(self, rng: np.random.Generator) -> dict[str, Array]:
        """Tensors of a random tile list; empty: none."""
        if not self.block_size:
            return {}
        longest = max([*self.queries, *self.key_lengths, 1])
        shape = (len(self.queries) if self.own_tiles else 1, self.groups, longest, longest)
        return from_mask(random_tiles(rng, shape), self.block_size).tensors()


@dataclasses.dataclass(frozen=True)
class WorkList:
    """A work list and what it was made of."""

    call: Lengths
    items: Array
    positions: Array | None
    tiles: dict[str, Array]


def most_items(call: Lengths) -> int:
    """`work_items` of data_params.h."""
    total, sequences, size = sum(call.queries) + call.tail, len(call.queries), call.block_size
    if not size:
        return total // WORK_ROWS + sequences
    per_row = -(-size // WORK_ROWS)
    return total if call.positions else min(total, total // size * per_row + 2 * per_row * sequences)


def check_work_list(made: WorkList) -> None:
    """What attention relies on, and that costly items come first."""
    check_cover(made)
    check_tile_rows(made)
    costs = list(item_classes(made))
    assert costs == sorted(costs)


def check_cover(made: WorkList) -> None:
    """Every query of every sequence is in one item per split, and nothing else is in any."""
    offsets = np.cumsum([0, *made.call.queries])
    seen = np.zeros((made.call.splits, offsets[-1]), int)
    for sequence, first, rows, split in made.items.tolist():
        assert 1 <= rows <= WORK_ROWS
        assert 0 <= first <= first + rows <= made.call.queries[sequence]
        seen[split, offsets[sequence] + first : offsets[sequence] + first + rows] += 1
    assert (seen == 1).all()


def places_of(made: WorkList, sequence: int, first: int, rows: int) -> Array:
    """Positions of an item's queries, as masks compare them."""
    call = made.call
    if made.positions is not None:
        start = sum(call.queries[:sequence]) + first
        return made.positions[start : start + rows].astype(np.int64)
    shift = call.key_lengths[sequence] - call.queries[sequence] if call.causal else 0
    return np.arange(first, first + rows) + shift


def check_tile_rows(made: WorkList) -> None:
    """With a tile list an item's queries lie in one tile row."""
    if made.call.block_size:
        for sequence, first, rows, _ in made.items.tolist():
            assert len(set(places_of(made, sequence, first, rows) // made.call.block_size)) == 1


def item_classes(made: WorkList) -> Iterator[int]:
    """The class of cost of each item, 0 for the costliest, from the mask itself."""
    most = max(1, -(-max([0, *made.call.key_lengths]) // KEY_TILE))
    for sequence, first, rows, _ in made.items.tolist():
        cost = min(most, tiles_of(made, sequence, places_of(made, sequence, first, rows)))
        yield WORK_CLASSES - 1 - -(-cost * (WORK_CLASSES - 1) // most)


def tiles_of(made: WorkList, sequence: int, places: Array) -> int:
    call = made.call
    keys = call.key_lengths[sequence]
    first, last = int(places[0]), int(places[0]) + len(places) - 1  # closed forms take places to follow each other
    low, high, extra = 0, keys - 1, 0
    if max(call.window) >= 0 and not any(first <= token <= last for token in call.global_tokens):
        low = max(0, first - call.window[0]) if call.window[0] >= 0 else 0
        high = min(high, last + call.window[1]) if call.window[1] >= 0 else high
        extra = len(call.global_tokens)
    high = min(high, last) if call.causal else high
    count = min(-(-keys // KEY_TILE), (high // KEY_TILE - low // KEY_TILE + 1 if high >= low else 0) + extra)
    return min(count, listed_of(made, sequence, first)) if call.block_size else count


def listed_of(made: WorkList, sequence: int, place: int) -> int:
    ptr, size = made.tiles["tile_ptr"], made.call.block_size
    row = place // size
    if not 0 <= row < ptr.shape[2] - 1:
        return 0
    plane = ptr[sequence % len(ptr)]
    keys = int((plane[:, row + 1] - plane[:, row]).sum()) * size // len(plane)
    return -(-keys // KEY_TILE)


MIXED = (300, 0, 65, 64, 1, 129, 0, 63, 200, 7, 128)
CALLS = {
    "dense": Lengths(MIXED),
    "dense_short": Lengths(tuple(range(40))),
    "causal": Lengths(MIXED, causal=True),
    "cross": Lengths((3, 0, 200, 64), keys=(0, 9, 100, 640)),
    "cross_causal": Lengths((3, 0, 200, 64), keys=(0, 9, 100, 640), causal=True),
    "window": Lengths((1000, 90), window=(100, 30)),
    "window_left_only": Lengths((500, 90), window=(100, -1)),
    "window_global": Lengths((1000, 90), window=(64, 64), global_tokens=(0, 500)),
    "window_causal": Lengths((1000, 90), window=(64, -1), causal=True),
    "widest_window": Lengths((200,), window=(2**31 - 1, 2**31 - 1)),
    "splits": Lengths((1, 70, 0, 5), keys=(4000, 300, 20, 0), splits=7),
    "tail": Lengths(MIXED, tail=200),
    "no_sequence": Lengths(()),
    "no_query": Lengths((0, 0, 0)),
    "tiles_8": Lengths((45, 8, 0, 1, 70), block_size=8),
    "tiles_24": Lengths((45, 130, 24), block_size=24, groups=2),
    "tiles_64": Lengths((300, 64, 63, 65), block_size=64, own_tiles=True),
    "tiles_96": Lengths((300, 96, 95, 193), block_size=96),
    "tiles_128_causal_cross": Lengths((300, 5, 40), keys=(200, 400, 40), block_size=128, causal=True),
    **{
        f"tiles_{positions}": Lengths((300, 0, 64, 1, 33), block_size=32, positions=positions, causal=True)
        for positions in ("left", "holes", "shuffled", "outside")
    },
    "tiles_long_rows": Lengths((700, 513, 20), block_size=1024, positions="left"),
}
