"""Pack files, where they are searched, and what is said of those that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from raggedrt.cli import main
from raggedrt.errors import InputError, TargetError
from raggedrt.plugins.kernel_packs import lookup
from raggedrt.plugins.kernel_packs.compile import Kernel, Resources
from raggedrt.plugins.kernel_packs.digest import kernels_digest
from raggedrt.plugins.kernel_packs.pack_file import pack_name, read_pack, write_pack
from raggedrt.plugins.kernel_packs.variants import CAPABILITIES, VARIANTS

pytestmark = pytest.mark.none

TOOK = Resources(registers=96, stack_bytes=0, spill_bytes=0, static_shared_bytes=16)


def write(folder: Path, capability: int = 80) -> Path:
    kernels = [Kernel(v, capability, f"code of {v.entry}".encode(), TOOK) for v in VARIANTS]
    return write_pack(folder, capability, kernels, "NVRTC 13.0")


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(lookup.FOLDERS_VARIABLE, raising=False)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, 86)
    assert path.name == "raggedrt_sm86.pack"
    pack = read_pack(path)
    assert (pack.capability, pack.digest, pack.toolchain) == (86, kernels_digest(), "NVRTC 13.0")
    assert [kernel.entry for kernel in pack.kernels] == [variant.entry for variant in VARIANTS]
    for kernel, variant in zip(pack.kernels, VARIANTS, strict=True):
        assert kernel.cubin == f"code of {variant.entry}".encode()
        assert (kernel.family, kernel.threads, kernel.registers) == (variant.family, variant.threads, 96)
        assert kernel.shared_bytes == variant.shared_bytes + 16


def test_writing_leaves_nothing_else_and_is_the_same_again(tmp_path: Path) -> None:
    first = write(tmp_path).read_bytes()
    assert write(tmp_path).read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == [pack_name(80)]


@pytest.mark.parametrize("place", [0, 9, 300, -1])
def test_damage_is_noticed(tmp_path: Path, place: int) -> None:
    path = write(tmp_path)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"raggedrt doctor --build-kernels"):
        read_pack(path)


def test_a_file_that_is_cut_off_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="its hash is not the one"):
        read_pack(path)


class TestLookup:
    def test_without_packs_the_message_says_where_and_how(self) -> None:
        with pytest.raises(TargetError) as caught:
            lookup.find_pack(90)
        message = str(caught.value)
        assert "there is no kernel pack for compute capability 9.0 (raggedrt_sm90.pack in " in message
        assert "`raggedrt doctor --build-kernels --compute-capability 90`" in message
        assert caught.value.exit_code == 5
        assert lookup.available_packs() == ()

    def test_the_environment_comes_before_the_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        cached = write(lookup.pack_cache())
        assert lookup.find_pack(80).path == cached
        monkeypatch.setenv(lookup.FOLDERS_VARIABLE, f"{tmp_path / 'none'}:{tmp_path / 'mine'}")
        mine = write(tmp_path / "mine")
        assert lookup.find_pack(80).path == mine

    def test_a_later_device_of_the_same_major_version_is_served(self) -> None:
        write(lookup.pack_cache(), 80)
        assert lookup.find_pack(87).capability == 80
        write(lookup.pack_cache(), 86)
        assert lookup.find_pack(87).capability == 86
        with pytest.raises(TargetError):
            lookup.find_pack(90)
        assert [pack.capability for pack in lookup.available_packs()] == [80, 86]

    def test_packs_of_other_kernels_are_passed_over(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write(tmp_path / "old")
        monkeypatch.setenv(lookup.FOLDERS_VARIABLE, str(path.parent))
        monkeypatch.setattr(lookup, "kernels_digest", lambda: "f" * 64)
        with pytest.raises(TargetError, match="was made from other kernels"):
            lookup.find_pack(80)


@pytest.mark.parametrize(
    ("text", "expected"), [("80", (80,)), ("8.9,90", (89, 90)), ("80, 80", (80,)), ("120", (120,)), ("12.0", (120,))]
)
def test_capabilities_are_read(text: str, expected: tuple[int, ...]) -> None:
    assert lookup.parse_capabilities(text) == expected


def test_the_present_gpu_is_the_default() -> None:
    assert lookup.parse_capabilities(None, (89,)) == (89,)
    assert lookup.parse_capabilities(None) == CAPABILITIES


@pytest.mark.parametrize(("text", "reason"), [("sm_80", "joined by commas"), ("", "joined by commas"), ("75", "8.0")])
def test_other_capabilities_are_refused(text: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        lookup.parse_capabilities(text)


class TestDoctor:
    def test_capabilities_without_kernels_are_wrong_usage(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["doctor", "--compute-capability", "80"]) == 2
        assert "use it with --build-kernels" in capsys.readouterr().err

    def test_what_is_there_is_not_built_again(self, capsys: pytest.CaptureFixture[str]) -> None:
        path = write(lookup.pack_cache())
        before = path.stat().st_mtime_ns
        assert main(["doctor", "--build-kernels", "--compute-capability", "80", "--json"]) == 0
        assert path.stat().st_mtime_ns == before
        assert str(path) in capsys.readouterr().out

    def test_without_nvrtc_it_says_what_to_install(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("raggedrt.plugins.kernel_packs.compile.importlib.util.find_spec", lambda name: None)
        assert main(["doctor", "--build-kernels", "--compute-capability", "80"]) == 5
        assert "pip install 'raggedrt[cuda-build]'" in capsys.readouterr().err
