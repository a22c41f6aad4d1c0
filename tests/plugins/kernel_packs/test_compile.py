"""Compiling by NVRTC, without a GPU: what it takes is recorded, what is too much is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from raggedrt.errors import RaggedRTError
from raggedrt.plugins.kernel_packs import compile as compiling
from raggedrt.plugins.kernel_packs.compile import Kernel, Resources, overruns, read_facts
from raggedrt.plugins.kernel_packs.lookup import build_pack
from raggedrt.plugins.kernel_packs.pack_file import read_pack
from raggedrt.plugins.kernel_packs.variants import CAPABILITIES, CODE_CAPABILITY, VARIANTS

pytestmark = pytest.mark.none

PACK = next(variant for variant in VARIANTS if variant.entry == "raggedrt_pack_tokens_v16")
ELF = b"\x7fELF"
LOG = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'other' for 'sm_80'
ptxas info    : Function properties for other
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 0 barriers
ptxas info    : Compiling entry function 'mine' for 'sm_80'
ptxas info    : Function properties for mine
ptxas         .     24 bytes stack frame, 16 bytes spill stores, 20 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 24 bytes cumulative stack size, 1024 bytes smem, 360 bytes cmem[0]
"""


@pytest.fixture
def nvrtc() -> None:
    pytest.importorskip("cuda.core", reason="NVRTC is not installed (pip install 'raggedrt[cuda-build]')")


@pytest.fixture
def unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Replaces the text of every translation unit."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return lambda text: monkeypatch.setattr(compiling, "read_unit", lambda source: text)


def test_the_assemblers_log_is_read() -> None:
    assert read_facts(LOG, "mine") == Resources(255, stack_bytes=24, spill_bytes=16, static_shared_bytes=1024)
    assert read_facts(LOG, "other") == Resources(10, 0, 0, 0)


def test_a_log_that_does_not_know_the_kernel_is_an_error() -> None:
    with pytest.raises(RaggedRTError, match="does not say what kernel absent takes"):
        read_facts(LOG, "absent")


@pytest.mark.parametrize(
    ("took", "change", "capability", "expected"),
    [
        (Resources(64, 0, 0, 0), {}, 80, ""),
        (Resources(255, 8, 8, 0), {}, 80, "spills 8 bytes of registers"),
        (Resources(64, 32, 0, 0), {}, 80, "an array that is not in registers"),
        (Resources(128, 0, 0, 0), {"threads": 1024}, 80, "exceed the 65536"),
        (Resources(128, 0, 0, 0), {"min_blocks": 3}, 80, "exceed the 65536"),
        (Resources(64, 0, 0, 0), {"shared_bytes": 101_376}, 86, ""),
        (Resources(64, 0, 0, 1), {"shared_bytes": 101_376}, 86, "101377 bytes of shared memory exceed 101376"),
        (Resources(64, 0, 0, 1), {"shared_bytes": 101_376}, 80, ""),
    ],
)
def test_what_takes_too_much_is_named(took: Resources, change: dict[str, int], capability: int, expected: str) -> None:
    variant = dataclasses.replace(PACK, **change)
    found = "; ".join(overruns(Kernel(variant, capability, b"", took)))
    assert expected in found
    assert bool(found) is bool(expected)


@pytest.mark.usefixtures("nvrtc")
class TestNvrtc:
    @pytest.mark.parametrize("capability", CAPABILITIES)
    def test_a_kernel_for_every_architecture(self, capability: int) -> None:
        kernel = compiling.compile_variant(PACK, capability)
        assert kernel.cubin.startswith(ELF)
        assert PACK.entry.encode() in kernel.cubin
        assert 0 < kernel.resources.registers <= 255
        assert compiling.compile_variant(PACK, CODE_CAPABILITY.get(capability, capability)).cubin == kernel.cubin

    def test_the_cache_serves_the_second_time(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        first = compiling.compile_variant(PACK, 80)
        monkeypatch.setattr(compiling, "_compile", lambda *_: pytest.fail("compiled again"))
        assert compiling.compile_variant(PACK, 80) == first
        assert compiling.compile_variant(PACK, 89).cubin == first.cubin

    def test_a_damaged_cache_is_not_used(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        first = compiling.compile_variant(PACK, 80)
        (cached,) = tmp_path.rglob("*.cubin")
        cached.write_bytes(cached.read_bytes()[:-1] + b"?")
        assert compiling.compile_variant(PACK, 80) == first

    def test_code_that_does_not_compile_is_named_with_its_error(self, unit: Callable[[str], None]) -> None:
        unit("int broken( {")
        with pytest.raises(RaggedRTError, match=r"kernel raggedrt_pack_tokens_v16 does not compile for sm_80: .*error"):
            compiling.compile_variant(PACK, 80)

    def test_spills_fail(self, unit: Callable[[str], None]) -> None:
        unit(
            'extern "C" __global__ void __launch_bounds__(1024, 1) RAGGEDRT_ENTRY(float* data) {\n'
            "  float kept[96];\n"
            '  _Pragma("unroll") for (int i = 0; i < 96; ++i) kept[i] = data[i * 1024 + threadIdx.x];\n'
            "  __syncthreads();\n"
            '  _Pragma("unroll") for (int i = 0; i < 96; ++i) data[(95 - i) * 1024 + threadIdx.x] = kept[i];\n'
            "}\n"
        )
        with pytest.raises(RaggedRTError, match=r"raggedrt_pack_tokens_v16 for sm_80: spills \d+ bytes"):
            compiling.compile_variant(PACK, 80)

    def test_all_failures_are_named(self, unit: Callable[[str], None]) -> None:
        unit("int broken( {")
        with pytest.raises(RaggedRTError, match="kernel raggedrt_pack_tokens_v16"):
            list(compiling.compile_all([PACK], (80,), workers=1))


@pytest.mark.slow
@pytest.mark.usefixtures("nvrtc")
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_packs_of_every_architecture_spill_nothing(tmp_path: Path, capability: int) -> None:
    """Every variant compiles, and takes what it may; from the user's cache where that has the present kernels."""
    pack = read_pack(build_pack(capability, tmp_path))
    assert pack.capability == capability
    assert {kernel.entry for kernel in pack.kernels} == {variant.entry for variant in VARIANTS}
    for kernel in pack.kernels:
        assert kernel.cubin.startswith(ELF), kernel.entry
        assert 0 < kernel.registers * kernel.threads <= 65536, kernel.entry
