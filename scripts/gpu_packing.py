"""What packing costs on a GPU: plan, pack and unpack beside a copy and a layer's products; plans of many sequences."""

from __future__ import annotations

from typing import Any

import numpy as np
from gpu_timing import copied_bytes, summary, time_in_turns, uniform_lengths

LAYERS = 12
"""Of a forward pass, which share one plan."""


def random_tokens(count: int, heads: int, size: int, seed: int) -> Any:
    """Normally distributed fp16 [T, N, H] on the GPU."""
    import torch

    generator = torch.Generator("cuda").manual_seed(seed)
    return torch.randn((count, heads, size), generator=generator, device="cuda", dtype=torch.float16)


def measure_packing(kernels: Any, rows: int, longest: int, rounds: int) -> dict[str, Any]:
    """Plan, pack and unpack of BERT-base rows against a copy of as many bytes, and one layer's products."""
    import torch

    hidden = 768
    lengths = uniform_lengths(rows, 0.2, longest)
    mask = (torch.arange(longest, device="cuda") < torch.tensor(lengths, device="cuda")[:, None]).to(torch.int64)
    source = torch.randn((rows, longest, hidden), device="cuda").half()
    functions, packed, padded = kernels.packing(mask, source)
    for function in functions.values():
        function()
    valid = mask != 0
    if not (torch.equal(packed, source[valid]) and torch.equal(padded, torch.where(valid[..., None], source, 0))):
        raise SystemExit("packing and unpacking change values; a speed of wrong results means nothing")
    tokens = sum(lengths)
    flat = torch.empty(2 * hidden * tokens, dtype=torch.uint8, device="cuda")
    twin = torch.empty_like(flat)
    weights = [
        torch.randn(shape, device="cuda").half() for shape in ((768, 2304), (768, 768), (768, 3072), (3072, 768))
    ]

    def layer() -> None:
        wide = packed @ weights[0]
        (wide[:, :hidden] @ weights[1] @ weights[2]) @ weights[3]

    contenders = {**functions, "copy": lambda: twin.copy_(flat), "layer's products": layer}
    spent = {name: summary(values) for name, values in time_in_turns(contenders, rounds).items()}
    moved = copied_bytes(tokens, rows * longest, 2 * hidden)
    bandwidth = {name: moved[name] / spent[name]["median"] / 1e6 for name in moved}
    bandwidth["copy"] = 2 * flat.numel() / spent["copy"]["median"] / 1e6
    least = min(bandwidth["pack"], bandwidth["unpack"]) / bandwidth["copy"]
    # One plan, one pack and one unpack per forward pass, against twelve layers.
    once = sum(spent[name]["median"] for name in ("plan", "pack", "unpack"))
    share = once / (LAYERS * spent["layer's products"]["median"])
    return {
        "rows": f"{rows} x U[0.2, 1] of {longest}",
        **spent,
        **{f"{name} TB/s": round(value, 3) for name, value in bandwidth.items()},
        "of copy": round(least, 3),
        "of all layers": round(share, 4),
        "of one layer": round(share * LAYERS, 4),
    }


def measure_plan(kernels: Any, sequences: int, rounds: int) -> dict[str, Any]:
    """The work list of many sequences."""
    import torch

    lengths = uniform_lengths(sequences, 0.0, 512)
    operands = [random_tokens(sum(lengths), 1, 64, seed) for seed in range(3)]
    offsets = torch.tensor(np.cumsum([0, *lengths]), dtype=torch.int32, device="cuda")
    plan, _, _ = kernels.attention(operands, offsets, max(lengths), {})
    return {"sequences": sequences, "plan": summary(time_in_turns({"plan": plan}, rounds)["plan"])}
