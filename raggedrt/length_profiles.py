"""Profiles from lengths: how many tokens a batch has is what an engine with packed tokens is tuned for."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from raggedrt.errors import InputError
from raggedrt.lengths import draw_lengths
from raggedrt.plugins.tensorrt.profiles import SizeRange, Sizes

DEFAULT_BATCHES = (1, 8, 32)
DEFAULT_LONGEST = 512
"""Tokens of the longest sequence that an engine is built for where nobody says more; models may have more positions."""
DEFAULT_BUCKETS = 3
DRAWN = 4096
MAX_BUCKETS = 16
LENGTHS = "uniform(16,512), token counts such as 12,40,128, or a file of them that exists"
BATCH_SIZES = "numbers of sequences of at least 1, for example 1,8,32"
_UNIFORM = re.compile(r"uniform\(\s*(\d+)\s*,\s*(\d+)\s*\)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class LengthDemand:
    """What callers will send.

    Attributes:
        lengths: tokens of single sequences, a sample of what is to come.
        batches: numbers of sequences per call, each as likely as the others.
        buckets: how many profiles to make at most.
    """

    lengths: tuple[int, ...]
    batches: tuple[int, ...]
    buckets: int = DEFAULT_BUCKETS


def read_lengths(text: str, limit: int | None) -> tuple[int, ...]:
    """A sample of lengths from `uniform(16,512)`, from token counts `12,40,128`, or from a file with one per line.

    Raises:
        InputError: none of these, a length below 1, or one above `limit`, the model's number of positions.
    """
    path = pathlib.Path(text)
    uniform = _UNIFORM.fullmatch(text.strip())
    if uniform:
        low, high = map(int, uniform.groups())
        if low > high:
            raise InputError(f"--lengths {text}: the lower end is above the upper one")
        spread = np.random.default_rng(0)  # the same profiles every time
        lengths = draw_lengths(f"{low},{high}" if low == high else f"U[{low},{high}]", DRAWN, high, spread)
        lengths = [max(low, length) for length in (*lengths, low, high)]
    elif path.is_file():
        lengths = _numbers(path.read_text(encoding="utf-8", errors="replace").split(), f"--lengths {text}", LENGTHS)
    else:
        lengths = _numbers(text.split(","), f"--lengths {text}", LENGTHS)
    if not lengths or min(lengths) < 1:
        raise InputError(f"--lengths {text}: expected lengths of at least one token")
    if limit is not None and max(lengths) > limit:
        raise InputError(f"--lengths {text}: {max(lengths)} tokens, and the model has {limit} positions")
    return tuple(lengths)


def read_batches(text: str) -> tuple[int, ...]:
    """Batch sizes from `1,8,32`.

    Raises:
        InputError: not of that form.
    """
    sizes = _numbers(text.split(","), f"--batch-sizes {text}", BATCH_SIZES)
    if not sizes or min(sizes) < 1:
        raise InputError(f"--batch-sizes {text}: expected {BATCH_SIZES}")
    return tuple(sorted(set(sizes)))


def _numbers(parts: Sequence[str], where: str, expected: str) -> list[int]:
    wrong = [part for part in parts if not (part.strip().isascii() and part.strip().isdigit())]
    if wrong:
        raise InputError(f"{where}: {wrong[0].strip()[:40]!r} is no number; expected {expected}")
    return [int(part) for part in parts]


def default_demand(position_limit: int | None) -> LengthDemand:
    """What to expect where nobody says anything."""
    longest = min(position_limit or DEFAULT_LONGEST, DEFAULT_LONGEST)
    return LengthDemand(read_lengths(f"uniform(1,{longest})", None), DEFAULT_BATCHES)


def check_buckets(buckets: int) -> None:
    """Check the number of profiles to make.

    Raises:
        InputError: none, or too many.
    """
    if not 1 <= buckets <= MAX_BUCKETS:
        raise InputError(f"--buckets {buckets}: expected 1 to {MAX_BUCKETS}")


def bucket_sizes(demand: LengthDemand, *, ragged: bool) -> list[SizeRange]:
    """One range of sizes per profile.

    The number of tokens (of slots, where rows are padded) of a call lies between that of the smallest batch of shortest
    sequences and that of the largest batch of longest ones. It is cut where the same share of all calls falls on
    either side; a bucket begins where the one before it ends, so no call falls between two.

    Raises:
        InputError: no or too many buckets.
    """
    check_buckets(demand.buckets)
    calls = _calls(demand)
    shortest, longest = min(demand.lengths), max(demand.lengths)
    least = Sizes(min(demand.batches), min(demand.batches) * shortest, shortest)
    most = Sizes(max(demand.batches), max(demand.batches) * longest, longest)
    if not ragged:
        return [SizeRange(least, _typical(calls, least, most), most)]
    cuts = _cuts([call.tokens for call in calls], demand.buckets, least.tokens, most.tokens)
    ranges = []
    for low, high in itertools.pairwise(cuts):
        inside = [call for call in calls if low <= call.tokens <= high]
        begin = Sizes(least.batch, low, shortest)
        # Any number of sequences may make up these tokens, but none of them is empty.
        end = Sizes(min(most.batch, max(high // shortest, least.batch)), high, min(longest, high))
        ranges.append(SizeRange(begin, _typical(inside, begin, end), end))
    return ranges


def _calls(demand: LengthDemand) -> list[Sizes]:
    rng = np.random.default_rng(0)
    drawn = []
    for batch in demand.batches:
        for _ in range(max(64, DRAWN // (8 * len(demand.batches)))):
            lengths = rng.choice(demand.lengths, batch)
            drawn.append(Sizes(batch, int(lengths.sum()), int(lengths.max())))
    return drawn


def _cuts(tokens: Sequence[int], buckets: int, least: int, most: int) -> list[int]:
    inner = np.quantile(tokens, np.arange(1, buckets) / buckets, method="nearest")
    return sorted({least, *(int(cut) for cut in inner if least < cut < most), most}) if least < most else [least, most]


def _typical(calls: Sequence[Sizes], low: Sizes, high: Sizes) -> Sizes:
    """The median call; a bucket that no drawn call fell into is tuned for its upper end."""
    if not calls:
        return high
    batch, tokens, longest = (
        int(np.median([getattr(call, name) for call in calls])) for name in ("batch", "tokens", "longest")
    )
    return Sizes(
        min(max(batch, low.batch), high.batch),
        min(max(tokens, low.tokens), high.tokens),
        min(max(longest, low.longest), high.longest),
    )
