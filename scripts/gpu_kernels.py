"""The CUDA kernels on PyTorch tensors, through the launcher's C surface: what the GPU benchmarks time."""

from __future__ import annotations

import ctypes
import pathlib
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests"))

from helpers import cuda_calls as calls
from helpers.cuda_launcher import Launcher
from raggedrt.plugins.contract.mask_rules import RULE_INTS
from raggedrt.plugins.contract.op_definition import ElementType

ELEMENTS = {
    torch.float32: ElementType.FLOAT,
    torch.float16: ElementType.FLOAT16,
    torch.bfloat16: ElementType.BFLOAT16,
    torch.int32: ElementType.INT32,
    torch.int64: ElementType.INT64,
}


class Kernels:
    """The launcher on the current device and stream; what a call needs lives as long as its function."""

    def __init__(self) -> None:
        torch.zeros(1, device="cuda")  # makes the primary context current, on which the launcher works
        self._folder = tempfile.TemporaryDirectory(prefix="raggedrt-launcher-")
        folder = pathlib.Path(self._folder.name)
        self.launcher = Launcher(folder, "libcuda.so.1", folder)

    def empty(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        """Device memory."""
        return torch.empty(count, dtype=dtype, device="cuda")

    def stream(self) -> int:
        """What calls are enqueued on."""
        return int(torch.cuda.current_stream().cuda_stream)

    def prepared(self, op: str, call: ctypes.Structure, *kept: object) -> Callable[[], None]:
        """A function that enqueues a call."""
        wanted = self.launcher.workspace_bytes(op, call)
        workspace = self.empty(max(wanted, 1), torch.uint8)
        message = ctypes.create_string_buffer(4096)
        function = getattr(self.launcher.library, f"raggedrt_cuda_{op}_launch")
        address = ctypes.c_void_p(workspace.data_ptr() if wanted else None)

        def enqueue() -> None:
            stream = ctypes.c_void_p(self.stream())
            if function(ctypes.byref(call), address, stream, message, ctypes.c_size_t(len(message))):
                raise RuntimeError(message.value.decode())

        enqueue.kept = (call, workspace, kept)  # type: ignore[attr-defined]
        return enqueue

    def attention(
        self, operands: Sequence[torch.Tensor], offsets: torch.Tensor, longest: int, mask: Mapping[str, Any]
    ) -> tuple[Callable[[], None], Callable[[], None], torch.Tensor]:
        """Functions that make the plan and that attend, and the output [T, N, H].

        Args:
            operands: queries [T, N, H], keys and values [T, Nkv, H].
            offsets: int32 [B+1].
            longest: tokens of the longest sequence.
            mask: causal, window_left, window_right, global_tokens, and `tiles` as `block_mask` gives them.
        """
        query, key, value = operands
        output = self.empty(query.numel(), query.dtype).view(query.shape)
        problem = calls.AttentionProblem()
        problem.element = ELEMENTS[query.dtype].value
        for name, tensor in (("query", query), ("key", key), ("value", value), ("output", output)):
            setattr(problem, name, tensor.data_ptr())
        problem.cu_seqlens_q = problem.cu_seqlens_k = offsets.data_ptr()
        problem.sequences, problem.total_q, problem.total_k = len(offsets) - 1, len(query), len(key)
        problem.num_heads, problem.kv_num_heads = query.shape[1], key.shape[1]
        problem.head_size = problem.value_head_size = query.shape[2]
        problem.scale = query.shape[2] ** -0.5
        problem.causal = bool(mask.get("causal", 0))
        problem.mask.window_left = mask.get("window_left", -1)
        problem.mask.window_right = mask.get("window_right", -1)
        problem.mask.dilation = mask.get("dilation", 1)
        tokens = (ctypes.c_int32 * len(mask.get("global_tokens", ())))(*mask.get("global_tokens", ()))
        problem.mask.global_tokens, problem.mask.global_count = ctypes.addressof(tokens), len(tokens)
        if "tiles" in mask:
            problem.tiles = mask["tiles"]
        size = self.launcher.work_list_size(problem)
        work = self.empty(size, torch.int32)
        plan = calls.AttentionPlanCall(problem, longest, longest, work.data_ptr())
        attend = calls.AttentionCall(problem, longest, longest, work.data_ptr(), size)
        kept = (operands, offsets, output, work, tokens)
        return self.prepared("attention_plan", plan, kept), self.prepared("attention", attend, kept), output

    def block_mask(
        self, rules: Sequence[int], length: int, block: int, blocks: torch.Tensor | None
    ) -> tuple[Callable[[], None], calls.TileList]:
        """A function that builds the tiles of a mask, and the tile list; `rules` as `encode` writes them."""
        numbers = (ctypes.c_int64 * len(rules))(*rules)  # a rule of the kernels is these integers
        call = calls.BlockMaskCall()
        call.input.rules, call.input.rule_count = ctypes.addressof(numbers), len(rules) // RULE_INTS
        call.input.length, call.input.block_size = length, block
        call.input.groups = call.input.sequences = 1
        if blocks is not None:
            call.input.blocks = blocks.data_ptr()
            call.input.groups, call.input.block_rows, call.input.block_columns = blocks.shape
        bounds = (ctypes.c_int64 * 3)()
        self.launcher.library.raggedrt_cuda_block_mask_bounds(ctypes.byref(call.input), bounds)
        rows, call.entries, call.bitmaps = bounds
        sizes = {
            "tile_ptr": call.input.groups * (rows + 1),
            "tile_col": call.entries,
            "tile_tag": call.entries,
            "tile_bits": call.bitmaps * block * block // 32,
        }
        tensors = {name: self.empty(size, torch.int32) for name, size in sizes.items()}
        for name, tensor in tensors.items():
            setattr(call, name, tensor.data_ptr())
        tiles = calls.TileList()
        for name in ("ptr", "col", "tag", "bits"):
            setattr(tiles, name, tensors[f"tile_{name}"].data_ptr())
        tiles.sequences, tiles.groups, tiles.rows = 1, call.input.groups, rows
        tiles.entries, tiles.bitmaps, tiles.block_size = call.entries, call.bitmaps, block
        return self.prepared("block_mask", call, numbers, blocks, tensors), tiles

    def packing(
        self, mask: torch.Tensor, source: torch.Tensor
    ) -> tuple[dict[str, Callable[[], None]], torch.Tensor, torch.Tensor]:
        """Functions `plan`, `pack`, `unpack` for a mask [B, S] and rows [B, S, F]; packed and unpacked tensor."""
        rows, slots = mask.shape
        tokens = int((mask != 0).sum())
        plan = calls.PackingPlanCall()
        plan.input.mask_element, plan.input.mask = ELEMENTS[mask.dtype].value, mask.data_ptr()
        plan.input.rows, plan.input.slots, plan.tokens = rows, slots, tokens
        lists = {name: self.empty(tokens, torch.int32) for name in ("token_index", "position", "key_position")}
        lists["cu_seqlens"] = self.empty(rows + 1, torch.int32)
        for name, tensor in lists.items():
            setattr(plan.output, name, tensor.data_ptr())
        packed = self.empty(tokens * source.shape[2], source.dtype).view(tokens, source.shape[2])
        padded = self.empty(source.numel(), source.dtype).view(source.shape)
        row_bytes = source.shape[2] * source.element_size()
        index = lists["token_index"].data_ptr()
        ways = {"pack_tokens": (source, packed), "unpack_tokens": (packed, padded)}
        functions = {"plan": self.prepared("packing_plan", plan, mask, lists)}
        for op, (one, other) in ways.items():
            copy = calls.TokenCopy(one.data_ptr(), other.data_ptr(), index, None, tokens, rows * slots, row_bytes)
            functions[op.removesuffix("_tokens")] = self.prepared(op, copy, source, packed, padded, lists)
        return functions, packed, padded
