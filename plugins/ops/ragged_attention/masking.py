"""What RaggedAttention's reference and body must agree on about positions, tiles and disentangled terms."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from raggedrt.errors import RaggedRTError

_COMPARE_POSITIONS = {"causal": 0, "window_left": -1, "window_right": -1, "dilation": 1, "global_tokens": ()}
_BY_POSITION = ("distance_bias", "alibi_slopes", "bias", "tile_ptr", "rel_bucket")
_TILES = ("tile_ptr", "tile_col", "tile_tag", "tile_bits")


def check_positions(inputs: Collection[str], attributes: Mapping[str, object]) -> None:
    """Refuses a mask that would compare an original position with an index within the sequence.

    Raises:
        RaggedRTError: Exactly one of positions_q and positions_k is given, and something compares the two.
    """
    given = [name for name in ("positions_q", "positions_k") if name in inputs]
    if len(given) != 1:
        return
    users = [name for name, default in _COMPARE_POSITIONS.items() if attributes.get(name, default) != default]
    users += [name for name in _BY_POSITION if name in inputs]
    if users:
        raise RaggedRTError(
            f"A RaggedAttention node has {given[0]} alone, but {users[0]} compares positions of queries and keys; "
            "give both or neither."
        )


def check_tiles(inputs: Collection[str], attributes: Mapping[str, object]) -> None:
    """Refuses half a tile list, and disentangled terms without their buckets.

    Raises:
        RaggedRTError: Inputs that belong together are not all there.
    """
    given = [name for name in _TILES if name in inputs]
    if len(given) not in (0, len(_TILES)):
        missing = next(name for name in _TILES if name not in inputs)
        raise RaggedRTError(
            f"A RaggedAttention node has {given[0]} but no {missing}; give the whole tile list or none."
        )
    size = attributes.get("block_size", 0)
    if bool(given) != bool(size):
        raise RaggedRTError(
            f"A RaggedAttention node has block_size {size} and {'a' if given else 'no'} tile list; the block size is "
            "that of the tiles, and 0 without."
        )
    if "head_group" in inputs and not given:
        raise RaggedRTError("A RaggedAttention node has head_group but no tile list; leave head_group out.")
    terms = [name for name in ("rel_query", "rel_key") if name in inputs]
    if bool(terms) != ("rel_bucket" in inputs):
        raise RaggedRTError(
            f"A RaggedAttention node has {terms[0] if terms else 'rel_bucket'} alone; disentangled terms are "
            "rel_bucket with rel_query, rel_key or both."
        )
