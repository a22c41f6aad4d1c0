"""Length distributions: how many tokens the sequences of a benchmark have."""

from __future__ import annotations

import re

import numpy as np

from raggedrt.errors import InputError

_UNIFORM = re.compile(r"U\[\s*([\d.]+)\s*,\s*([\d.]+)\s*\]")


def draw_lengths(spec: str, count: int, max_length: int, rng: np.random.Generator) -> list[int]:
    """`count` lengths in tokens, each from 1 to `max_length`.

    Args:
        spec: `"U[a,b]"`, uniform between the shares a and b of `max_length` (or token counts where b > 1), or token
            counts `"12,40,128"`, taken in turn.
        count: how many.
        max_length: longest sequence, in tokens.
        rng: source of randomness.

    Raises:
        InputError: `spec` has neither form, or no length fits.
    """
    uniform = _UNIFORM.fullmatch(spec.strip())
    if uniform:
        low, high = (_number(spec, text) for text in uniform.groups())
        if high <= 1:
            low, high = low * max_length, high * max_length
        if low > high:
            raise InputError(f"--lengths {spec}: the lower end is above the upper one")
        drawn = np.rint(rng.uniform(low, high, count))
    else:
        given = [_number(spec, part) for part in spec.split(",")]
        drawn = np.resize(np.asarray(given), count)
    return [int(value) for value in np.clip(drawn, 1, max_length)]


def _number(spec: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(
            f"--lengths {spec}: expected U[a,b] (shares of --max-length, for example U[0.1,1]) or token counts "
            "such as 12,40,128"
        ) from None
