"""What RaggedAttention's reference and body must agree on about positions."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from raggedrt.errors import RaggedRTError

_COMPARE_POSITIONS = {"causal": 0, "window_left": -1, "window_right": -1, "dilation": 1, "global_tokens": ()}
_BY_POSITION = ("distance_bias", "alibi_slopes", "bias")


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
