"""Does the padding mask mean what everything after the export takes it to mean: non-zero at valid tokens?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raggedrt.errors import InputError, RaggedRTError
from raggedrt.export.numerics import Arrays, Case, Runner

# Relative to the largest output: what counts as read, and what as ignored.
_READ, _IGNORED = 1e-3, 1e-6
# An output may read nothing but the first slot, or the last one: neither is changed.
_PROBED_SLOT = 1


def refuse_inverted_mask(mask: str, cases: Sequence[Case], reference: Runner) -> None:
    """Check that other tokens see the tokens where `mask` is non-zero, if they see only one of the two kinds.

    Sessions fill in and read the mask by this meaning, also where no pass had to understand it.

    Args:
        mask: name of the padding mask.
        cases: feeds over every kind of padding; the first with right padding that runs is used.
        reference: the original model.

    Raises:
        InputError: tokens are hidden exactly where the mask is non-zero.
    """
    effects = next(filter(None, (_effects(case, mask, reference) for case in cases)), None)
    if effects is None:
        return
    of_valid, of_padded = effects
    if of_valid <= _IGNORED and of_padded >= _READ:
        raise InputError(
            f"input '{mask}' hides the tokens where it is non-zero, and RaggedRT takes non-zero for valid tokens. Wrap "
            f"the module in one that takes a mask of valid tokens and hands on its inverse ({mask} == 0)."
        )


def _effects(case: Case, mask: str, reference: Runner) -> tuple[float, float] | None:
    """How far other valid tokens move with a valid one, and with padded ones; None where this case cannot say."""
    rows = _long_and_padded_rows(case)
    if not rows.any():
        return None
    probed, padded = np.zeros_like(case.valid), ~case.valid
    probed[rows, _PROBED_SLOT] = True
    padded[:, -1] = False
    outputs = _run(reference, case.feeds, _mirrored(case, mask, probed), _mirrored(case, mask, padded))
    if not outputs:
        return None
    base, with_probed, with_padded = outputs
    return _change(base, with_probed, case.valid & ~probed, rows), _change(base, with_padded, case.valid, rows)


def _long_and_padded_rows(case: Case) -> NDArray[np.bool_]:
    """Rows that begin with the probed token and others and end in two padded slots or more; bool [batch].

    A row without padding says nothing: where an inverted mask hides every token, softmax shows all of them.
    """
    lengths = case.valid.sum(axis=1)
    right = (np.diff(case.valid.astype(np.int8), axis=1) <= 0).all(axis=1)
    return np.asarray(right & (lengths > _PROBED_SLOT + 1) & (lengths < case.valid.shape[1] - 1))


def _run(reference: Runner, *feeds: Arrays) -> list[Arrays]:
    """The results, none where the model does not run on this shape."""
    try:
        return [reference(one) for one in feeds]
    except (RuntimeError, IndexError, AssertionError, RaggedRTError):
        return []


def _mirrored(case: Case, mask: str, where: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """The case's feeds with other values at `where`, taken from the mirrored slot: these are in range."""
    feeds = dict(case.feeds)
    for name, array in case.feeds.items():
        if name != mask and array.shape[:2] == case.valid.shape:
            feeds[name] = array.copy()
            feeds[name][where] = array[:, ::-1][where]
    return feeds


def _change(base: Arrays, changed: Arrays, where: NDArray[np.bool_], rows: NDArray[np.bool_]) -> float:
    """The largest change of a floating-point output in `rows`, at `where` if per token, relative to its magnitude."""
    worst = 0.0
    for name, before in base.items():
        if before.dtype.kind != "f" or before.shape[:1] != rows.shape:
            continue
        places = where & rows[:, None] if before.shape[:2] == where.shape else rows
        one, two = (values[places].astype(np.float64) for values in (before, changed[name]))
        scale = float(np.abs(one).max(initial=0.0))
        worst = max(worst, float(np.abs(one - two).max(initial=0.0)) / scale if scale else 0.0)
    return worst
