"""Which kernel the launcher chooses, and how it divides the work: a pure function, so it needs no device."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from helpers.cuda_calls import AttentionCall, AttentionProblem, DeviceLimits, MaskTerms, ScoreTerms, TileList
from helpers.cuda_launcher import Choice, Launcher, LaunchError
from helpers.cuda_setup import emulated_pack
from raggedrt.plugins.contract.op_definition import ElementType
from raggedrt.plugins.kernel_packs.variants import VARIANTS

pytestmark = pytest.mark.emulated

H200 = DeviceLimits(90, 132, 232_448, 233_472, 2048)
RTX_4090 = DeviceLimits(89, 128, 101_376, 102_400, 1536)
ADDRESS = 4096
"""Stands for a tensor: the choice reads none."""


@pytest.fixture(scope="module")
def chooser(tmp_path_factory: pytest.TempPathFactory) -> tuple[Launcher, Path]:
    folder = tmp_path_factory.mktemp("choice")
    return Launcher(folder, "no driver is needed", folder), emulated_pack(folder, 80, VARIANTS)


def call(
    *, element: ElementType = ElementType.FLOAT16, sequences: int = 32, total: int = 8192, longest: int = 512,
    queries: int = 0, total_q: int = 0, heads: int = 12, kv_heads: int = 0, head_size: int = 64, value_size: int = 0,
    positions: bool = False, causal: bool = False, window: tuple[int, int] = (-1, -1), tiles: bool = False,
    softcap: float = 0.0, scale: float = 0.125,
) -> AttentionCall:  # fmt: skip
    problem = AttentionProblem(
        element=element.value, sequences=sequences, total_q=total_q or total, total_k=total, num_heads=heads,
        kv_num_heads=kv_heads or heads, head_size=head_size, value_head_size=value_size or head_size, scale=scale,
        causal=causal, mask=MaskTerms(*window, 1, None, 0), scores=ScoreTerms(softcap=softcap),
        tiles=TileList(ptr=ADDRESS, sequences=1, groups=1, rows=8, block_size=64) if tiles else TileList(),
        positions_q=ADDRESS if positions else None, positions_k=ADDRESS if positions else None,
    )  # fmt: skip
    return AttentionCall(problem, queries or longest, longest)


def choose(chooser: tuple[Launcher, Path], wanted: AttentionCall, limits: DeviceLimits = H200) -> Choice:
    launcher, pack = chooser
    return launcher.choose(pack, limits, wanted)


@pytest.mark.parametrize(
    ("wanted", "pattern"),
    [
        (call(), r"attention_half_h64_q64"),
        (call(element=ElementType.BFLOAT16), r"attention_bfloat16_h64_q64"),
        (call(positions=True), r"attention_half_h64_m1_q64"),
        (call(causal=True), r"attention_half_h64_m1_q64"),
        (call(window=(256, 256)), r"attention_half_h64_m1_q64"),
        (call(tiles=True), r"attention_half_h64_m2_q64"),
        (call(softcap=30.0), r"attention_half_h64_m1_s1"),
        (call(scale=-1.0), r"attention_half_h64_m1_s1"),
        (call(tiles=True, softcap=30.0), r"attention_half_h64_m2_s1"),
        (call(tiles=True, softcap=30.0, head_size=96), r"row_attention_half_h128"),
        *((call(head_size=size), rf"attention_half_h{size}_q64") for size in (32, 64, 80, 96, 128)),
        (call(total=65536, longest=4096), r"attention_half_h64_q128"),
        (call(total=65536, longest=4096, causal=True), r"attention_half_h64_m1_q128"),
        (call(total=65536, longest=4096, head_size=128), r"attention_half_h128_q64"),
        (call(total=65536, longest=4096, window=(256, 256)), r"attention_half_h64_m1_q64"),
        (call(total=65536, longest=4096, tiles=True), r"attention_half_h64_m2_q64"),
        (call(total=65536, longest=4096, head_size=96), r"attention_half_h96_q64"),
        (call(total=65536, longest=4096, sequences=65), r"attention_half_h64_q64"),
        (call(total=4096, longest=4096, sequences=1, heads=2), r"attention_half_h64_q64"),
        (call(head_size=48), r"row_attention_half_h64"),
        (call(head_size=160), r"row_attention_half_h256"),
        (call(value_size=32), r"row_attention_half_h64"),
        (call(element=ElementType.FLOAT), r"row_attention_float32_h64"),
        (call(longest=32, sequences=256), r"row_attention_half_h64"),
        (call(longest=33, sequences=256), r"attention_half_h64_q64"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_kernel_follows_from_the_problem(
    chooser: tuple[Launcher, Path], wanted: AttentionCall, pattern: str
) -> None:
    assert re.match(rf"raggedrt_{pattern}(_|$)", choose(chooser, wanted).entry)


def test_every_kernel_for_tensor_cores_is_chosen_by_some_problem(chooser: tuple[Launcher, Path]) -> None:
    chosen = {
        choose(chooser, call(element=variant.element or ElementType.FLOAT16, head_size=variant.head_size,
                             positions=variant.mask_class == 1, tiles=variant.mask_class == 2,
                             softcap=float(variant.score_class), total=8192 * (variant.query_rows // 64) ** 3)).entry
        for variant in VARIANTS if variant.family == "attention"
    }  # fmt: skip
    assert chosen == {variant.entry for variant in VARIANTS if variant.family == "attention"}


def test_the_grid_fills_the_device_and_no_more(chooser: tuple[Launcher, Path]) -> None:
    """Blocks stay while there is work; a counter hands it out where there is more than one piece per block."""
    many = choose(chooser, call(sequences=32, total=16384))
    assert many.items == 16384 // 64 + 32
    assert many.grid[0] % H200.multiprocessors == 0
    assert many.grid[0] < many.items * 12
    assert many.counts_work
    few = choose(chooser, call(sequences=2, total=128, longest=64, heads=4))
    assert few.grid == (few.items * 4, 1)
    assert not few.counts_work


@pytest.mark.parametrize("limits", [H200, RTX_4090], ids=["H200", "RTX 4090"])
def test_variants_fit_the_shared_memory_of_the_device(chooser: tuple[Launcher, Path], limits: DeviceLimits) -> None:
    for head_size in (32, 64, 80, 96, 128):
        for options in ({}, {"positions": True}, {"tiles": True}):
            found = choose(chooser, call(head_size=head_size, **options), limits)
            assert not found.by_rows
            assert found.grid[0] >= 1


def test_too_little_shared_memory_falls_back_to_rows(chooser: tuple[Launcher, Path]) -> None:
    small = DeviceLimits(80, 8, 36_000, 40_000, 1536)
    assert choose(chooser, call(head_size=128), small).by_rows


class TestSplits:
    def test_one_query_with_long_keys_occupies_the_device(self, chooser: tuple[Launcher, Path]) -> None:
        found = choose(chooser, call(sequences=4, total=65536, longest=16384, total_q=4, queries=1, heads=32))
        assert found.splits > 1
        assert found.items * found.splits * 32 <= found.grid[0]

    def test_enough_work_is_not_split(self, chooser: tuple[Launcher, Path]) -> None:
        assert choose(chooser, call(sequences=32, total=16384)).splits == 1

    def test_short_keys_are_not_split(self, chooser: tuple[Launcher, Path]) -> None:
        assert choose(chooser, call(sequences=1, total=128, longest=128, total_q=1, queries=1, heads=4)).splits == 1

    def test_a_narrow_window_is_not_split(self, chooser: tuple[Launcher, Path]) -> None:
        wanted = {"sequences": 1, "total": 16384, "longest": 16384, "total_q": 1, "queries": 1, "heads": 4}
        assert choose(chooser, call(**wanted)).splits > 1
        assert choose(chooser, call(**wanted, window=(64, 64))).splits == 1

    def test_there_are_never_more_than_can_be_merged(self, chooser: tuple[Launcher, Path]) -> None:
        found = choose(chooser, call(sequences=1, total=2**20, longest=2**20, total_q=1, queries=1, heads=1))
        assert 1 < found.splits <= 128


def test_the_same_call_always_has_the_same_choice(chooser: tuple[Launcher, Path]) -> None:
    assert len({choose(chooser, call(causal=True)) for _ in range(5)}) == 1


def test_without_a_kernel_the_message_names_what_is_missing(chooser: tuple[Launcher, Path], tmp_path: Path) -> None:
    launcher, _ = chooser
    pack = emulated_pack(tmp_path, 80, [variant for variant in VARIANTS if variant.family != "row_attention"])
    with pytest.raises(LaunchError, match=r"no kernel for it \(row_attention, element type 1, head size 64\)"):
        launcher.choose(pack, H200, call(element=ElementType.FLOAT))
