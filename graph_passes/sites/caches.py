"""Keys and values of earlier calls at attention nodes: what is said where they are taken, what is put out for later."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from raggedrt.graph_passes.packing.tape import Tape

WHAT_TO_DO = (
    "so a row's tokens are not all in one call; say --prefill (prefill=True) to get a graph for calls that start "
    "without a cache, or export with use_cache=False, and keep this graph for decoding"
)


def cache_reasons(form: str, inputs: Mapping[str, ir.Value | None]) -> list[str]:
    """Why a node that takes a cache is left alone; nothing where it takes none."""
    names = [f"{name} ('{value.name}')" for name, value in inputs.items() if value is not None]
    return [f"{form} takes keys and values of earlier calls, {', '.join(names)}, {WHAT_TO_DO}"] if names else []


def heads_first(tape: Tape, rows: ir.Value, stem: str) -> ir.Value:
    """[B, S, N, H] as a cache has it, [B, N, S, H]."""
    return tape.op("Transpose", [rows], {"perm": [0, 2, 1, 3]}, stem=f"{stem}_present")
