"""Short specs: what they mean, and where they do not parse."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from raggedrt.errors import InputError
from raggedrt.graph_passes.masks.algebra import Causal, GlobalTokens, KeyPadding, Prefix, Term, Window
from raggedrt.graph_passes.masks.bigbird import BigBird
from raggedrt.graph_passes.masks.block_list import BlockList
from raggedrt.graph_passes.masks.expressions import all_terms, any_term
from raggedrt.graph_passes.masks.short_spec import parse_expression, parse_mask

pytestmark = pytest.mark.none

MEANT: dict[str, Term] = {
    "window(256)": Window(256, 256),
    "window(left=128,right=0)": Window(128, 0),
    "window(left=128)": Window(128, -1),
    "causal": Causal(),
    " causal ( ) ": Causal(),
    "longformer(window=512, global=[0])": any_term(Window(256, 256), GlobalTokens((0,))),
    "longformer(512)": Window(256, 256),
    "bigbird(block=64, window=3, global=2, random=3, seed=0)": BigBird(64, 3, 2, 3, 0),
    "bigbird(seed=5)": BigBird(seed=5),
    "dilated(window=64, dilation=4)": Window(64, 64, 4),
    "causal & window(64)": all_terms(Causal(), Window(64, 64)),
    "causal and window(64) or global([3, 1])": any_term(all_terms(Causal(), Window(64, 64)), GlobalTokens((1, 3))),
    "padding & (causal | prefix(5))": all_terms(KeyPadding(), any_term(Causal(), Prefix(5))),
    "global([0], rows=0)": GlobalTokens((0,), rows=False),
}


@pytest.mark.parametrize("text", MEANT)
def test_short_specs_mean(text: str) -> None:
    assert parse_expression(text) == MEANT[text]


def test_imposed_masks_count_own_tokens() -> None:
    assert parse_mask("window(4)").of == "own"


WRONG = {
    "": (1, "the end where a mask is expected"),
    "   ": (1, "the end"),
    "window(": (8, "the end where a number"),
    "causal &": (9, "the end where a mask is expected"),
    "causal & windw(3)": (10, "unknown mask 'windw'"),
    "causal)": (7, "')' where '&', '|' or the end is expected"),
    "(causal": (8, "the end where ')' is expected"),
    "window(3) window(4)": (11, "'window' where"),
    "causal & window()": (10, "a reach, or left and right"),
    "window(3, left=3)": (1, "not both"),
    "window(a)": (1, "reach is an integer, not 'a'"),
    "window(1, 2)": (1, "takes reach, left, right, dilation"),
    "window(left=1, left=2)": (16, "'left' is given twice"),
    "window(-5)": (1, "at least 0"),
    "window(3.5)": (1, "an integer, not '3.5'"),
    "dilated(window=4, dilation=0)": (1, "dilation is at least 1"),
    "global(3)": (1, "a list such as [0, 5]"),
    "global([0, x])": (12, "'x' where an integer is expected"),
    "global([0": (10, "the end where ',' is expected"),
    "longformer(window=3)": (1, "even"),
    "bigbird(window=2)": (1, "odd number of blocks"),
    "bigbird(global=2, 3)": (19, "name it, too"),
    "bias(sideways)": (1, "dense or distance"),
    "(" * 40: (33, "more than 32 parentheses"),
}


@pytest.mark.parametrize("text", WRONG)
def test_errors_show_the_place(text: str) -> None:
    place, words = WRONG[text]
    with pytest.raises(InputError) as caught:
        parse_mask(text)
    message = str(caught.value)
    assert f"at character {place}," in message
    assert words in message
    assert "\n" not in message


def test_layout_files(tmp_path: pathlib.Path) -> None:
    mask = np.tril(np.ones((32, 32), dtype=bool))
    tiles = np.tril(np.ones((2, 2), dtype=bool))
    np.savez(tmp_path / "mask.npz", block=16, mask=mask)
    np.savez(tmp_path / "tiles.npz", block=16, tiles=tiles, length=30)
    np.savez(tmp_path / "csr.npz", block=16, row_ptr=[0, 1, 3], columns=[0, 0, 1])
    assert parse_expression(f"blocks({tmp_path}/mask.npz)") == BlockList.of_matrix(mask, 16)
    assert parse_expression(f"blocks('{tmp_path}/tiles.npz')") == BlockList.of_tiles(tiles, 16, 30)
    assert parse_expression(f"blocks({tmp_path}/csr.npz)") == BlockList.of_tiles(tiles, 16, 32)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({}, "holds nothing"),
        ({"block": 16}, "expected 'block'"),
        ({"block": 1.5, "mask": np.ones((4, 4))}, "one integer"),
        ({"block": 4, "mask": np.ones((4, 5))}, r"shape \[4, 5\]"),
        ({"block": 0, "mask": np.ones((4, 4))}, "block 0"),
        ({"block": 4, "row_ptr": [0, 1, 2], "columns": [0, 5]}, "columns are from 0 to 1"),
        ({"block": 4, "row_ptr": [0, 2], "columns": [0.5]}, "integer vectors"),
    ],
)
def test_unusable_layout_files(arrays: dict[str, object], words: str, tmp_path: pathlib.Path) -> None:
    np.savez(tmp_path / "layout.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=words):
        parse_mask(f"blocks({tmp_path}/layout.npz)")


def test_a_file_that_is_no_archive(tmp_path: pathlib.Path) -> None:
    (tmp_path / "layout.npz").write_text("no archive")
    with pytest.raises(InputError, match="cannot be read"):
        parse_mask(f"blocks({tmp_path}/layout.npz)")
