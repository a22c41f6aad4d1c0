"""Options that several verbs share: what is accepted and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from raggedrt.errors import InputError, TargetError
from raggedrt.lengths import draw_lengths
from raggedrt.options import parse_features, parse_shapes
from raggedrt.tables import format_table
from raggedrt.targets import TARGETS, find_target

pytestmark = pytest.mark.none


def test_features_come_as_text_or_sequence() -> None:
    assert parse_features("auto") == parse_features(["auto"]) == "auto"
    assert parse_features("pack, fuse") == parse_features(("pack", "fuse")) == ("pack", "fuse")


@pytest.mark.parametrize("features", ["", "pack,magic", [], "auto,pack"])
def test_unknown_features_are_refused(features: str | list[str]) -> None:
    with pytest.raises(InputError, match="features"):
        parse_features(features)


def test_shapes_take_the_usual_form() -> None:
    assert parse_shapes("opt-shapes", "input_ids:8x128,a:b:1x2x3") == {"input_ids": (8, 128), "a:b": (1, 2, 3)}
    assert parse_shapes("opt-shapes", None) == {}


@pytest.mark.parametrize("text", ["input_ids", "input_ids:8x", "input_ids:0x1", ":8x8", "a:8x-1", "a:1x2,"])
def test_other_shapes_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="opt-shapes"):
        parse_shapes("opt-shapes", text)


def test_lengths_follow_their_distribution() -> None:
    rng = np.random.default_rng(0)
    shares = draw_lengths("U[0.1,0.5]", 1000, 200, rng)
    assert (min(shares), max(shares)) == (20, 100)
    assert np.mean(shares) == pytest.approx(60, abs=2)
    counts = draw_lengths("U[5, 30]", 1000, 20, rng)
    assert (min(counts), max(counts)) == (5, 20)
    assert draw_lengths("3,50,0", 5, 20, rng) == [3, 20, 1, 3, 20]


@pytest.mark.parametrize("spec", ["", "U[1]", "U[0.5,0.1]", "three", "U[a,b]", "U[1.2.3,4]"])
def test_other_distributions_are_refused(spec: str) -> None:
    with pytest.raises(InputError, match="lengths"):
        draw_lengths(spec, 1, 10, np.random.default_rng(0))


def test_targets_are_found_or_refused() -> None:
    served = {target.name for target in TARGETS if target.built}
    assert "ort-cpu" in served
    assert find_target("ort-cpu").default_io == "padded"
    for target in TARGETS:
        if target.name not in served:
            with pytest.raises(TargetError, match=target.name):
                find_target(target.name)
    with pytest.raises(InputError, match="ort-cpu"):
        find_target("cpu")


def test_tables_shorten_nothing() -> None:
    table = format_table(("a", "bb"), [("x" * 300, None), (1, 2.5)])
    lines = table.splitlines()
    assert lines[1] == "x" * 300
    assert lines[2] == "1" + " " * 301 + "2.5"
