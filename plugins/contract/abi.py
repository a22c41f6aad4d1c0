"""Op ABI version and feature bits: how a node says what it needs and a library what it can do.

A kernel's constructor refuses a node whose `abi` or `features` it does not know. Bits are append-only.
"""

from __future__ import annotations

import enum

ABI_VERSION = 1


class Feature(enum.IntFlag):
    """What a node uses beyond plain dense attention or plain packing."""

    CAUSAL = 1 << 0
    GROUPED_QUERY = 1 << 1
    LSE = 1 << 2
    POSITIONS = 1 << 3
    VALUE_HEAD_SIZE = 1 << 4
    CROSS_LENGTHS = 1 << 5
    KEEP_SLOTS = 1 << 6
    CAPACITY = 1 << 7
    SOFTCAP = 1 << 8
    WINDOW = 1 << 9
    GLOBAL_TOKENS = 1 << 10
    DILATION = 1 << 11
    BLOCK_MASK = 1 << 12
    BIAS = 1 << 13
    DISTANCE_BIAS = 1 << 14
    DISENTANGLED = 1 << 15
    SINK = 1 << 16
    ALIBI = 1 << 17
    KEEP_MASK = 1 << 18
    WORK_LIST = 1 << 19
