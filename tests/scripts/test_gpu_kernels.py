"""The calls that GPU benchmarks time, on the emulated driver: what they compute is what PyTorch computes."""

from __future__ import annotations

import ctypes
import runpy
from typing import Any

import numpy as np
import pytest

from helpers.cuda_setup import emulated_driver, emulated_launcher
from helpers.project import ROOT
from raggedrt.plugins.contract.mask_rules import encode, window

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.emulated

SIZES = {"float16": 2, "float32": 4, "int32": 4, "int64": 8, "uint8": 1}
HEADS, SIZE = 2, 32


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`Kernels` whose device memory is the emulated driver's."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    base = runpy.run_path(str(ROOT / "scripts" / "gpu_kernels.py"), run_name="gpu_kernels")["Kernels"]

    class Emulated(base):  # type: ignore[misc]
        def __init__(self) -> None:
            self.launcher = emulated_launcher()

        def empty(self, count: int, dtype: torch.dtype) -> torch.Tensor:
            size = max(count, 1) * SIZES[str(dtype).removeprefix("torch.")]
            address = emulated_driver().allocate(size)
            memory = (ctypes.c_uint8 * size).from_address(address)
            return torch.frombuffer(memory, dtype=dtype)[:count]

        def stream(self) -> int:
            return 0

    return Emulated()


def upload(kernels: Any, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor in emulated device memory, which only the driver knows to have been written."""
    memory = kernels.empty(tensor.numel(), tensor.dtype)
    emulated_driver().upload(memory.data_ptr(), tensor.contiguous().numpy())
    return memory.view(tensor.shape)


def done() -> None:
    emulated_driver().synchronize()
    assert emulated_driver().take_error() == ""


def test_attention_and_its_plan(kernels: Any) -> None:
    lengths = (5, 70, 1)
    offsets = torch.tensor(np.cumsum([0, *lengths]), dtype=torch.int32)
    random = torch.Generator().manual_seed(0)
    operands = [torch.randn((76, HEADS, SIZE), generator=random).half() for _ in range(3)]
    on_device = [upload(kernels, tensor) for tensor in operands]
    for mask, allowed in (({}, None), ({"causal": 1}, "causal"), ({"window_left": 3, "window_right": 3}, "window")):
        plan, attend, output = kernels.attention(on_device, upload(kernels, offsets), 70, mask)
        plan()
        attend()
        done()
        for start, end in zip(offsets.tolist(), offsets.tolist()[1:], strict=False):
            query, key, value = (tensor[start:end].transpose(0, 1)[None].float() for tensor in operands)
            distance = torch.arange(end - start)[None] - torch.arange(end - start)[:, None]
            visible = {None: distance < 1000, "causal": distance <= 0, "window": distance.abs() <= 3}[allowed]
            want = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=visible)
            torch.testing.assert_close(output[start:end].float(), want[0].transpose(0, 1), atol=2e-3, rtol=2e-3)


def test_a_mask_of_rules_with_listed_blocks(kernels: Any) -> None:
    length, block = 64, 16
    listed = torch.tensor([[[3], [0], [-1], [1]]], dtype=torch.int32)
    build, tiles = kernels.block_mask(encode([[window(0, 0, unit=block)]]), length, block, upload(kernels, listed))
    build()
    random = torch.Generator().manual_seed(0)
    operands = [torch.randn((length, HEADS, SIZE), generator=random).half() for _ in range(3)]
    offsets = upload(kernels, torch.tensor([0, length], dtype=torch.int32))
    device = [upload(kernels, tensor) for tensor in operands]
    plan, attend, output = kernels.attention(device, offsets, length, {"tiles": tiles})
    plan()
    attend()
    done()
    blocks = torch.eye(4, dtype=torch.bool)
    blocks[0, 3] = blocks[1, 0] = blocks[3, 1] = True
    visible = blocks.repeat_interleave(block, 0).repeat_interleave(block, 1)
    query, key, value = (tensor.transpose(0, 1)[None].float() for tensor in operands)
    want = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=visible)
    torch.testing.assert_close(output.float(), want[0].transpose(0, 1), atol=2e-3, rtol=2e-3)


def test_packing_there_and_back(kernels: Any) -> None:
    mask = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0], [0, 1, 1, 1]])
    source = torch.randn(3, 4, 24).half()
    functions, packed, padded = kernels.packing(upload(kernels, mask), upload(kernels, source))
    for name in ("plan", "pack", "unpack"):
        functions[name]()
    done()
    valid = mask != 0
    assert torch.equal(packed, source[valid])
    assert torch.equal(padded, torch.where(valid[..., None], source, torch.zeros(())).half())
