"""Profiles from lengths: no call falls between two buckets, and whatever lengths may come fits one."""

from __future__ import annotations

import itertools
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raggedrt.errors import InputError
from raggedrt.length_profiles import LengthDemand, bucket_sizes, default_demand, read_batches, read_lengths
from raggedrt.plugins.tensorrt.profiles import SizeRange, Sizes

pytestmark = pytest.mark.none


def test_a_uniform_distribution_reaches_both_ends() -> None:
    lengths = read_lengths("uniform(16, 512)", 512)
    assert (min(lengths), max(lengths)) == (16, 512)
    assert 200 < sum(lengths) / len(lengths) < 330
    assert read_lengths("uniform(7,7)", None) == (7,) * len(read_lengths("uniform(7,7)", None))
    assert read_lengths("uniform(16,512)", 512) == lengths  # the same engine every time


def test_lengths_from_numbers_and_from_a_file(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "lengths.txt"
    file.write_text("12\n40\n128\n")
    assert read_lengths("12,40,128", None) == read_lengths(str(file), 128) == (12, 40, 128)


@pytest.mark.parametrize(
    ("text", "limit", "message"),
    [("0,5", None, "at least one token"), ("a,b", None, "uniform"), ("5,600", 512, "512 positions"), ("", None, "")],
)
def test_wrong_lengths_are_refused(text: str, limit: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_lengths(text, limit)


def test_batch_sizes_are_sorted_and_checked() -> None:
    assert read_batches("8,1,8,32") == (1, 8, 32)
    with pytest.raises(InputError, match="batch-sizes"):
        read_batches("0,4")


def _admits(sizes: SizeRange, call: Sizes) -> bool:
    fields = ("batch", "tokens", "longest")
    return all(getattr(sizes.minimum, f) <= getattr(call, f) <= getattr(sizes.maximum, f) for f in fields)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=20),
    batches=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    buckets=st.integers(1, 5),
    seed=st.randoms(use_true_random=False),
)
def test_every_call_of_these_lengths_fits_a_bucket(
    lengths: list[int], batches: list[int], buckets: int, seed: object
) -> None:
    ranges = bucket_sizes(LengthDemand(tuple(lengths), tuple(batches), buckets), ragged=True)
    assert 1 <= len(ranges) <= max(buckets, 1)
    for one, following in itertools.pairwise(ranges):
        assert one.maximum.tokens == following.minimum.tokens
    for sizes in ranges:
        assert _admits(sizes, sizes.optimum)
    for _ in range(30):
        batch = seed.randint(min(batches), max(batches))  # type: ignore[attr-defined]
        drawn = [seed.randint(min(lengths), max(lengths)) for _ in range(batch)]  # type: ignore[attr-defined]
        call = Sizes(batch, sum(drawn), max(drawn))
        assert any(_admits(sizes, call) for sizes in ranges), (call, ranges)


def test_padded_rows_have_one_profile() -> None:
    (sizes,) = bucket_sizes(LengthDemand((16, 512), (1, 8)), ragged=False)
    assert (sizes.minimum, sizes.maximum) == (Sizes(1, 16, 16), Sizes(8, 4096, 512))


def test_a_model_with_few_positions_sets_the_default() -> None:
    assert max(default_demand(80).lengths) == 80
    assert max(default_demand(8192).lengths) == max(default_demand(None).lengths) == 512


@pytest.mark.parametrize("buckets", [0, 17])
def test_the_number_of_buckets_has_bounds(buckets: int) -> None:
    with pytest.raises(InputError, match="--buckets"):
        bucket_sizes(LengthDemand((5,), (1,), buckets), ragged=True)
