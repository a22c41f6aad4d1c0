"""Filling batches up: any lengths fit, shapes are few, and a bucket never holds a sequence that is too long."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raggedrt.errors import InputError
from raggedrt.plugins.runtime.buckets import bucket_of, check_capacity

pytestmark = pytest.mark.none


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=40),
    capacity=st.integers(1, 700),
    limit=st.one_of(st.none(), st.integers(2, 400)),
)
def test_a_bucket_is_full_and_its_sequences_fit(lengths: list[int], capacity: int, limit: int | None) -> None:
    if limit is not None:
        lengths = [min(length, limit) for length in lengths]
    bucket = bucket_of(np.array(lengths), capacity, limit)
    total = sum(lengths) + int(bucket.filler.sum())
    assert total % capacity == 0
    assert bucket.filler.min() >= 1
    assert max(*lengths, int(bucket.filler.max())) <= bucket.longest
    assert limit is None or bucket.longest <= limit


def test_shapes_are_few() -> None:
    rng = np.random.default_rng(0)
    shapes = set()
    for _ in range(500):
        lengths = rng.integers(65, 129, 16)
        bucket = bucket_of(lengths, 512, 512)
        shapes.add((int(lengths.sum() + bucket.filler.sum()), len(bucket.filler), bucket.longest))
    assert len(shapes) <= 4


@pytest.mark.parametrize(("capacity", "limit"), [(0, None), (-4, None), (True, None), (2.5, None), (64, 1)])
def test_capacities_that_cannot_be(capacity: int, limit: int | None) -> None:
    with pytest.raises(InputError, match="capacity"):
        check_capacity(capacity, limit)
