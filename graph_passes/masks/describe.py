"""Words for masks that are refused: what was seen, in the terms a user knows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raggedrt.graph_passes.masks.formula import AtMostZero, Formula, Unreadable, atoms
from raggedrt.graph_passes.masks.pairs import BoolArray
from raggedrt.graph_passes.masks.samples import Sample, full_rows
from raggedrt.graph_passes.masks.truth_table import tabulate

MAX_TEXT = 300
Ranges = list[tuple[int | None, int | None]]


def describe_formula(formula: Formula, sequence: int | None) -> str:
    """A formula that is none of the understood masks."""
    try:
        table = tabulate(formula, sequence)
    except Unreadable:
        return f"{_pattern_name(formula)}: visible exactly when {_shortened(str(formula))}"
    ranges = table.distance_ranges()
    padding = " and the key is not padding" if table.hides_padded_keys() else ""
    if not any(table.visible.values()):
        return "no key is visible"
    if not ranges or ranges == [(None, None)]:
        return f"visible exactly when {_shortened(str(formula))}"
    return f"{_window_name(ranges)}: visible exactly when {_words(ranges)}{padding}"


def _pattern_name(formula: Formula) -> str:
    """The family of a formula over more than the distance, by what it compares."""
    compared = [atom.poly for atom in atoms(formula) if isinstance(atom, AtMostZero)]
    if any("n" in poly.variables for poly in compared):
        return "it differs between heads"
    if any("//" in name for poly in compared for name in poly.variables):
        return "a block pattern"
    if any("%" in name for poly in compared for name in poly.variables):
        return "a strided pattern"
    if any(poly.variables in ({"q"}, {"k"}) for poly in compared):
        return "a pattern with global tokens"
    return "a pattern that is not understood"


def describe_samples(samples: Sequence[Sample]) -> str:
    """A mask that was only evaluated: what it does to the longest batch without padding."""
    whole = full_rows(samples)
    if not whole:
        return _kept_share(samples[-1].visible, samples[-1].visible.shape[-1])
    sample = max(whole, key=lambda s: s.visible.shape[-1])
    visible, length = sample.visible[0], sample.visible.shape[-1]
    if not visible.any():
        return "no key is visible in a batch without padding; is the mask inverted?"
    if not bool((sample.visible == visible).all()):
        return "rows of the batch have different masks although none has padding"
    ranges = _distance_ranges(visible)
    if ranges is None:
        return _two_dimensional(visible, length)
    if ranges == [(None, None)] or ranges == [(0, None)]:
        return (
            f"{'causal' if ranges[0][0] == 0 else 'dense'} without padding, but padding does not just hide padded keys"
        )
    return f"{_window_name(ranges)}: visible when {_words(ranges)} (seen at {length} tokens)"


def _two_dimensional(visible: BoolArray, length: int) -> str:
    """A mask that is not the same along its diagonals: global tokens and blocks."""
    rows, columns = int(visible.all(axis=1).sum()), int(visible.all(axis=0).sum())
    if 0 < rows == columns < length and bool(visible[:rows].all() and visible[:, :rows].all()):
        return f"a pattern with {rows} global tokens ({_kept_share(visible, length)})"
    for block in (128, 64, 32, 16, 8, 4, 2):
        usable = length // block * block
        if usable < 2 * block:
            continue
        tiles = visible[:usable, :usable].reshape(usable // block, block, usable // block, block)
        if bool((tiles.any(axis=(1, 3)) == tiles.all(axis=(1, 3))).all()):
            return f"a block pattern of {block} x {block} tokens ({_kept_share(visible, length)})"
    return f"a pattern that is not understood ({_kept_share(visible, length)})"


def _kept_share(visible: BoolArray, length: int) -> str:
    return f"keeps {float(visible.mean()):.1%} of the pairs at {length} tokens"


def _distance_ranges(visible: BoolArray) -> Ranges | None:
    """Visible ranges of query - key where the mask only looks at that; an end at the edge counts as open."""
    length = visible.shape[-1]
    shown = []
    for distance in range(-(length - 1), length):
        diagonal = np.diagonal(visible, -distance)
        if diagonal.any() != diagonal.all():
            return None
        if diagonal.all():
            shown.append(distance)
    ranges: Ranges = []
    for distance in shown:
        if ranges and ranges[-1][1] == distance - 1:
            ranges[-1] = (ranges[-1][0], distance)
        else:
            ranges.append((distance, distance))
    edge = length - 1
    return [(None if low == -edge else low, None if high == edge else high) for low, high in ranges]


def _window_name(ranges: Ranges) -> str:
    if len(ranges) == 1 and None not in ranges[0]:
        return "a sliding window"
    return "a one-sided limit on the distance" if len(ranges) == 1 else "a pattern of distances"


def _words(ranges: Ranges) -> str:
    return " or ".join(_one(low, high) for low, high in ranges)


def _one(low: int | None, high: int | None) -> str:
    left = "" if low is None else f"{low} <= "
    right = "" if high is None else f" < {high + 1}"
    return f"{left}q-k{right}" if left or right else "always"


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 3] + "..."
