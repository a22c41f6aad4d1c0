"""Masks as PNG: one square per tile, by its class."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raggedrt.graph_passes.masks.spec import MaskSpec
from raggedrt.sparse_facts import EMPTY, FULL, PARTIAL, tile_classes

COLOURS: dict[int, tuple[int, int, int]] = {EMPTY: (245, 245, 245), PARTIAL: (158, 202, 225), FULL: (8, 81, 156)}
GRID = (215, 215, 215)
SIDE = 768
"""Pixels of the longer side that a small mask is enlarged to."""
LINE = 16
"""Pixels of a line of text."""
LETTERS = 120
"""Letters of a line."""


def draw_mask(facts: Mapping[str, Any], path: pathlib.Path) -> None:
    """Draw one entry of `mask_facts` to a PNG.

    Raises:
        ModuleNotFoundError: Pillow is missing (the extra `draw`).
    """
    from PIL import Image, ImageDraw

    tiles, length = facts["tiles"], facts["length"]
    size = tiles["size"]
    picture = picture_of(tile_classes(MaskSpec.from_json(facts["spec"]), length, size))
    lines = [
        _shortened(facts["mask"]),
        f"{length} tokens, tiles of {size}: {tiles['empty']} empty (white), {tiles['partial']} partial (light), "
        f"{tiles['full']} full (dark)",
        f"keeps {facts['density']:.2%} of the pairs, visits {tiles['visited']:.2%}; queries downwards, keys rightwards",
    ]
    width = max(picture.shape[1], 7 * max(map(len, lines)))
    image = Image.new("RGB", (width, picture.shape[0] + LINE * len(lines) + 8), (255, 255, 255))
    image.paste(Image.fromarray(picture), (0, LINE * len(lines) + 8))
    pen = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        pen.text((4, 4 + LINE * number), line, fill=(0, 0, 0))
    image.save(path, format="PNG")


def picture_of(classes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Tile classes [R, R] as pixels uint8 [H, W, 3], with a grid where squares are large enough for one."""
    scale = max(1, SIDE // len(classes))
    palette = np.array([COLOURS[kind] for kind in sorted(COLOURS)], dtype=np.uint8)
    picture = palette[classes].repeat(scale, axis=0).repeat(scale, axis=1)
    if scale >= 4:
        picture[::scale] = picture[:, ::scale] = GRID
    return picture


def file_name(number: int, facts: Mapping[str, Any]) -> str:
    """A name that sorts by first use and says whose mask it is."""
    node = re.sub(r"[^\w.-]+", "_", facts["sites"][0])[:60].strip("_")
    return f"mask_{number}_{node}_{facts['length']}.png"


def _shortened(text: str) -> str:
    return text if len(text) <= LETTERS else f"{text[: LETTERS - 3]}..."
