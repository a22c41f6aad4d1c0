"""What the launcher refuses before anything is launched, and what it says when the driver fails."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from helpers.cuda_calls import AttentionCall, BlockMaskCall, PackingPlanCall, TokenCopy
from helpers.cuda_driver import EmulatedDriver
from helpers.cuda_launcher import DeviceMemory, Launcher, LaunchError, device_memory, run_call
from helpers.cuda_ops import attention_call, run_op
from helpers.cuda_setup import (
    EMULATED_CAPABILITY,
    EMULATED_VARIANTS,
    emulated_driver,
    emulated_launcher,
    emulated_pack,
)
from raggedrt.plugins.native import emulated
from raggedrt.plugins.ops.arrays import Array
from raggedrt.plugins.ops.ragged_attention.cases import Problem

pytestmark = pytest.mark.emulated

HALF = np.dtype(np.float16)
OUT_OF_MEMORY, LAUNCH_FAILED, NOT_FOUND = 2, 719, 500
LONG = Problem(lengths=(300, 5), heads=2, kv_heads=2, head_size=32)
TILED = Problem(lengths=(70, 5), heads=2, kv_heads=2, head_size=32)


@pytest.fixture
def memory() -> Iterator[DeviceMemory]:
    with device_memory(emulated_driver()) as made:
        yield made


@pytest.fixture
def own_launcher(tmp_path: Path) -> Launcher:
    """A launcher that has loaded no kernel yet."""
    emulated_driver()
    emulated_pack(tmp_path, EMULATED_CAPABILITY)
    return Launcher(tmp_path, emulated.build_runtime(), tmp_path)


def inputs_of(problem: Problem) -> dict[str, Array]:
    return problem(np.random.default_rng(0), HALF)


def attention(memory: DeviceMemory, problem: Problem = TILED, **attributes: float) -> AttentionCall:
    heads = {"num_heads": problem.heads, "kv_num_heads": problem.kv_heads}
    return attention_call(memory, inputs_of(problem), {**heads, **attributes}, lse=True)


def refused(launcher: Launcher, op: str, call: ctypes.Structure) -> str:
    """The message of a call that is refused; it gets no workspace, which is the last thing that is looked at."""
    with pytest.raises(LaunchError) as caught:
        launcher(f"{op}_launch", ctypes.byref(call), None, None)
    return str(caught.value)


Change = Callable[[AttentionCall], None]


def change(path: str, value: object) -> Change:
    def apply(call: AttentionCall) -> None:
        *parents, name = path.split(".")
        target: object = call
        for parent in parents:
            target = getattr(target, parent)
        setattr(target, name, value)

    return apply


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("problem.element", 6, "must be float32, float16 or bfloat16"),
        ("problem.head_size", 264, "head sizes must be between 1 and 256"),
        ("problem.value_head_size", 0, "head sizes must be between 1 and 256"),
        ("problem.kv_num_heads", 3, "num_heads must be a positive multiple of kv_num_heads"),
        ("problem.total_k", 2**31, "sequences and tokens must be below 2^31"),
        ("max_seqlen_q", -1, "max_seqlen must be below 2^31"),
        ("problem.scale", float("nan"), "scale must be finite"),
        ("problem.scores.softcap", -1.0, "softcap must not be negative"),
        ("problem.mask.dilation", 0, "dilation must be at least 1"),
        ("problem.mask.window_left", -2, "a window must be -1"),
        ("problem.positions_k", 4096, "need positions_q and positions_k, or neither"),
        ("problem.scores.bias", 4096, "bias must be [1|B, 1|N, S, S]"),
        ("problem.scores.distance_bias", 4096, "distance_bias must be [1|N, 2P-1]"),
        ("problem.scores.rel_bucket", 4096, "disentangled terms are rel_bucket with"),
        ("problem.tiles.ptr", 4096, "block_size must be a multiple of 8"),
        ("problem.query", None, "query has no memory"),
        ("problem.cu_seqlens_k", None, "cu_seqlens_k has no memory"),
        ("problem.head_sink", None, ""),
    ][:-1],
)
def test_attention_that_cannot_be_computed_is_refused(
    memory: DeviceMemory, path: str, value: object, reason: str
) -> None:
    driver = emulated_driver()
    call = attention(memory, causal=int("positions" in path))
    change(path, value)(call)
    before = driver.calls("cuLaunchKernel")
    message = refused(emulated_launcher(), "attention", call)
    assert message.startswith("RaggedAttention: ")
    assert reason in message
    assert driver.calls("cuLaunchKernel") == before


@pytest.mark.parametrize("name", ["query", "key", "value", "output"])
def test_misaligned_tensors_are_refused(memory: DeviceMemory, name: str) -> None:
    call = attention(memory)
    setattr(call.problem, name, getattr(call.problem, name) + 8)
    assert refused(emulated_launcher(), "attention", call) == f"RaggedAttention: {name} must be aligned to 16 bytes"


def test_too_many_global_tokens_are_refused(memory: DeviceMemory) -> None:
    call = attention(memory)
    tokens = np.arange(129, dtype=np.int32)
    call.problem.mask.global_tokens, call.problem.mask.global_count = memory.on_host(tokens), len(tokens)
    assert "has 129 global tokens, expected at most 128" in refused(emulated_launcher(), "attention", call)


def test_a_plan_of_other_lengths_is_refused(memory: DeviceMemory) -> None:
    call = attention(memory)
    call.work_list, call.work_list_size = memory.make(64), 12
    assert "the work list has 12 integers, expected 16" in refused(emulated_launcher(), "attention", call)


def test_a_workspace_that_is_missing_or_misaligned_is_refused(memory: DeviceMemory) -> None:
    launcher = emulated_launcher()
    call = attention(memory, LONG)
    wanted = launcher.workspace_bytes("attention", call)
    assert f"needs a workspace of {wanted} bytes" in refused(launcher, "attention", call)
    with pytest.raises(LaunchError, match="the workspace must be aligned to 256 bytes"):
        launcher("attention_launch", ctypes.byref(call), ctypes.c_void_p(memory.make(2 * wanted + 256) + 16), None)


def test_other_ops_refuse_too(memory: DeviceMemory) -> None:
    launcher = emulated_launcher()
    plan = PackingPlanCall()
    plan.input.mask_element = 10
    assert "masks must be int32, int64, bool or float" in refused(launcher, "packing_plan", plan)
    plan.input.mask_element, plan.input.keep_count = 7, 65
    assert "keeps 65 slots, expected at most 64" in refused(launcher, "packing_plan", plan)
    assert "must be below 2^31" in refused(launcher, "pack_tokens", TokenCopy(tokens=2**31))
    assert "a tensor has no memory" in refused(launcher, "pack_tokens", TokenCopy(tokens=3, row_bytes=4))
    mask = BlockMaskCall()
    mask.input.block_size = 12
    assert "block_size must be a multiple of 8" in refused(launcher, "block_mask", mask)


class TestDriver:
    def test_out_of_memory_while_loading_is_told_and_the_next_call_works(self, own_launcher: Launcher) -> None:
        driver = emulated_driver()
        with device_memory(driver) as memory:
            call = attention(memory)
            driver.fail("cuLibraryLoadData", OUT_OF_MEMORY)
            with pytest.raises(LaunchError) as caught:
                run_call(own_launcher, memory, "attention", call)
            message = str(caught.value)
            assert message.startswith(
                "RaggedAttention: loading kernel raggedrt_work_list on device 0 (emulated device 0)"
            )
            assert "CUDA_ERROR_OUT_OF_MEMORY (out of memory)" in message
            run_call(own_launcher, memory, "attention", call)

    def test_a_failed_launch_names_op_kernel_device_and_grid(self) -> None:
        driver = emulated_driver()
        with device_memory(driver) as memory:
            driver.fail("cuLaunchKernel", LAUNCH_FAILED, skipped=1)
            with pytest.raises(LaunchError, match="CUDA_ERROR_LAUNCH_FAILED") as caught:
                run_call(emulated_launcher(), memory, "attention", attention(memory))
            assert "launching kernel raggedrt_attention_half_h32" in str(caught.value)
            assert "(emulated device 0), grid " in str(caught.value)
            driver.fail(None)

    @pytest.mark.parametrize(
        "function",
        ["cuCtxGetCurrent", "cuCtxGetDevice", "cuDeviceGetName", "cuDeviceGetAttribute", "cuLibraryGetKernel"],
    )
    def test_no_error_is_left_unread(self, own_launcher: Launcher, function: str) -> None:
        driver = emulated_driver()
        with device_memory(driver) as memory:
            call = attention(memory)
            driver.fail(function, NOT_FOUND)
            with pytest.raises(LaunchError, match="CUDA_ERROR_NOT_FOUND"):
                run_call(own_launcher, memory, "attention", call)
            run_call(own_launcher, memory, "attention", call)

    def test_memsets_are_checked(self) -> None:
        driver = emulated_driver()
        with device_memory(driver) as memory:
            inputs = {
                "packed": np.ones((1, 4), HALF),
                "token_index": np.zeros(1, np.int32),
                "like": np.zeros((1, 1), np.int64),
            }
            driver.fail("cuMemsetD32Async", LAUNCH_FAILED)
            with pytest.raises(LaunchError, match="UnpackTokens: clearing memory on device 0"):
                run_op(emulated_launcher(), memory, "UnpackTokens", inputs, {})

    def test_what_a_kernel_does_wrong_arrives(self, memory: DeviceMemory) -> None:
        """An output that is too small: the emulator finds the access, and the error reaches the caller."""
        call = attention(memory)
        call.problem.output = memory.make(64)
        with (
            pytest.raises(LaunchError, match="CUDA_ERROR_LAUNCH_FAILED"),
            device_memory(emulated_driver()) as other,
        ):
            run_call(emulated_launcher(), other, "attention", call)


def subprocess_message(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


ASK = """
import ctypes, sys
launcher = ctypes.CDLL({launcher!r})
launcher.raggedrt_cuda_set_pack_folder({packs!r}.encode())
message = ctypes.create_string_buffer(4096)
name, numbers = ctypes.create_string_buffer(256), (ctypes.c_int * 6)()
failed = launcher.raggedrt_cuda_device(name, ctypes.c_size_t(256), numbers, message, ctypes.c_size_t(4096))
print(message.value.decode() if failed else f"{{name.value.decode()}} {{list(numbers)}}")
"""


class TestMachine:
    """Machines that cannot serve; in a process of its own, as a driver is opened once."""

    @pytest.fixture
    def ask(self, tmp_path: Path) -> Callable[..., str]:
        from raggedrt.plugins.native.launcher import build_launcher

        code = ASK.format(launcher=str(build_launcher()), packs=str(tmp_path))
        base = {
            "RAGGEDRT_CUDA_DRIVER": str(emulated.build_runtime()),
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "RAGGEDRT_KERNEL_PACKS": "",
        }
        return lambda **environment: subprocess_message(code, **{**base, **environment})

    def test_no_driver(self, ask: Callable[..., str]) -> None:
        message = ask(RAGGEDRT_CUDA_DRIVER="libraggedrt_nowhere.so")
        assert message.startswith("no CUDA driver: libraggedrt_nowhere.so")
        assert "install NVIDIA's driver" in message

    def test_a_library_that_is_no_driver(self, ask: Callable[..., str]) -> None:
        assert "is too old" in ask(RAGGEDRT_CUDA_DRIVER="libm.so.6")
        assert "lacks cuInit" in ask(RAGGEDRT_CUDA_DRIVER="libm.so.6")

    def test_an_old_driver(self, ask: Callable[..., str]) -> None:
        message = ask(RAGGEDRT_EMULATED_DRIVER="12080")
        assert "is too old: it serves CUDA 12.8, expected 13.0 or later; update NVIDIA's driver" in message

    def test_no_device(self, ask: Callable[..., str]) -> None:
        assert "CUDA_ERROR_NO_DEVICE" in ask(RAGGEDRT_EMULATED_DEVICES="0")

    def test_no_pack_for_the_device(self, ask: Callable[..., str]) -> None:
        message = ask(RAGGEDRT_EMULATED_CAPABILITY="90")
        assert message.startswith(
            "CUDA device 0 (emulated device 0): there is no kernel pack for compute capability 9.0"
        )
        assert "raggedrt doctor --build-kernels" in message

    @pytest.mark.parametrize(("capability", "serves"), [("80", True), ("87", True), ("90", False), ("75", False)])
    def test_a_pack_serves_later_devices_of_its_major_version(
        self, ask: Callable[..., str], tmp_path: Path, capability: str, serves: bool
    ) -> None:
        emulated_pack(tmp_path, 80)
        assert ask(RAGGEDRT_EMULATED_CAPABILITY=capability).startswith("emulated device 0") is serves

    def test_packs_are_found_where_the_environment_says(self, ask: Callable[..., str], tmp_path: Path) -> None:
        emulated_pack(tmp_path / "elsewhere", 80)
        folders = f"{tmp_path / 'nowhere'}:{tmp_path / 'elsewhere'}"
        assert ask(RAGGEDRT_KERNEL_PACKS=folders).startswith("emulated device 0")

    @pytest.mark.parametrize(
        ("damage", "reason"),
        [
            (lambda content: content[:100], "is not a kernel pack"),
            (lambda content: content[:-1], "is cut off or damaged"),
            (lambda content: b"X" + content[1:], "is not a kernel pack"),
            (lambda content: content[:40] + b"0" * 64 + content[104:], "was made from other kernels"),
        ],
    )
    def test_damaged_packs(
        self, ask: Callable[..., str], tmp_path: Path, damage: Callable[[bytes], bytes], reason: str
    ) -> None:
        pack = emulated_pack(tmp_path, 80)
        pack.write_bytes(damage(pack.read_bytes()))
        assert f"kernel pack {pack} {reason}" in ask()


def test_machine_code_that_was_changed_is_not_loaded(tmp_path: Path) -> None:
    driver: EmulatedDriver = emulated_driver()
    pack = emulated_pack(tmp_path, EMULATED_CAPABILITY, EMULATED_VARIANTS)
    content = pack.read_bytes()
    place = content.index(b"RRTEMULATED raggedrt_pack_tokens_v16")
    pack.write_bytes(content[:place] + b"r" + content[place + 1 :])
    launcher = Launcher(tmp_path, emulated.build_runtime(), tmp_path)
    shutil.copyfile(pack, tmp_path / "kept")
    with device_memory(driver) as memory:
        inputs = {"x": np.ones((1, 1, 8), HALF), "token_index": np.zeros(1, np.int32)}
        with pytest.raises(LaunchError, match="is damaged: the code of raggedrt_pack_tokens_v16 has changed"):
            run_op(launcher, memory, "PackTokens", inputs, {})
