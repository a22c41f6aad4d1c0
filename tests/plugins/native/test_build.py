"""Building, caching and finding the library and the headers it needs."""

from __future__ import annotations

import concurrent.futures
import pathlib
import re
import shutil
import subprocess

import pytest

from helpers.project import compiler
from raggedrt.errors import TargetError
from raggedrt.plugins.native import build, codegen, headers
from raggedrt.plugins.native.cache import LIBRARY_NAME, cache_folder, library_path
from raggedrt.plugins.native.compiler import find_compiler
from raggedrt.plugins.native.objects import Unit, compile_unit
from raggedrt.plugins.registry import OPS
from raggedrt.plugins.runtime import library as lookup

pytestmark = pytest.mark.ort_cpu


@pytest.fixture
def empty_cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("ORT_INCLUDE_DIR", raising=False)
    return tmp_path / "raggedrt"


def write_header(folder: pathlib.Path, version: int) -> pathlib.Path:
    folder.mkdir(parents=True)
    (folder / headers.HEADER).write_text(f"#define ORT_API_VERSION {version}\n")
    return folder


def test_cache_follows_the_environment(empty_cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == empty_cache
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/somewhere")
    assert cache_folder() == pathlib.Path("/somewhere/.cache/raggedrt")


def test_named_headers_win(empty_cache: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_header(tmp_path / "sdk" / "onnxruntime", 22)
    monkeypatch.setenv("ORT_INCLUDE_DIR", str(tmp_path / "sdk"))
    assert headers.find_ort_headers() == folder
    monkeypatch.setenv("ORT_INCLUDE_DIR", str(tmp_path / "nothing"))
    with pytest.raises(TargetError, match=r"nothing.*onnxruntime_c_api\.h"):
        headers.find_ort_headers()


def test_cached_headers_are_found_and_half_written_ones_not(
    empty_cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headers, "SYSTEM_FOLDERS", ())
    write_header(empty_cache / "ort-headers" / ".headers-1" / "include", 22)
    write_header(empty_cache / "ort-headers" / "too-old" / "include", headers.LOWEST_API - 1)
    assert headers.find_ort_headers() is None
    found = write_header(empty_cache / "ort-headers" / "good" / "include", 22)
    assert headers.find_ort_headers() == found


def test_without_headers_the_error_says_what_to_do(
    empty_cache: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headers, "SYSTEM_FOLDERS", ())
    monkeypatch.setattr(build, "find_compiler", lambda: "c++")
    with pytest.raises(TargetError, match=r"doctor --build-ops.*ORT_INCLUDE_DIR"):
        build.build_library(tmp_path / "out")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TargetError, match="libonnxruntime-dev"):
        headers.obtain_ort_headers()


def test_without_a_compiler_the_error_says_what_to_install(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(TargetError, match=r"no C\+\+ compiler.*apt install g\+\+"):
        find_compiler()


def test_sources_of_apt_are_read_in_both_formats() -> None:
    block = "Types: deb deb-src\nURIs: http://mirror/debian\nSuites: bookworm\nComponents: main contrib\n"
    stanza = headers._deb822_stanza(block + "Signed-By: /keys/debian.gpg")[0]
    assert stanza == {
        "uris": "http://mirror/debian",
        "suites": "bookworm",
        "components": "main contrib",
        "options": "Signed-By: /keys/debian.gpg\n",
    }
    assert headers._deb822_stanza(block + "Enabled: no") == []
    assert headers._deb822_stanza("Types: deb-src\nURIs: http://mirror\nSuites: x\n") == []
    line = "deb [arch=amd64 signed-by=/keys/k.gpg] http://mirror/ubuntu noble main universe"
    assert headers._one_line_stanza(line)[0]["options"] == "Signed-By: /keys/k.gpg\n"
    assert headers._one_line_stanza("deb-src http://mirror noble main") == []


def test_generated_tables_name_every_op() -> None:
    text = codegen.ops_header()
    for op in OPS:
        for tensor in (*op.inputs, *op.outputs):
            assert f'"{tensor.name}"' in text


def test_digest_changes_with_the_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    before = build.source_digest()
    assert before == build.source_digest()
    text = codegen.ops_header()
    monkeypatch.setattr(codegen, "ops_header", lambda: text + "// changed\n")
    assert build.source_digest() != before


def test_every_source_is_compiled() -> None:
    compiled = {unit.source for unit in build.compile_units("x86_64")}
    present = {str(path.relative_to(build.SOURCE_FOLDER)) for path in build.SOURCE_FOLDER.glob("**/*.cc")}
    elsewhere = {name for name in present if name.startswith(build.NOT_IN_THE_LIBRARY)}
    assert compiled == present - elsewhere - {"cuda/launch/c_api.cc"}
    assert [unit.flags[0] for unit in build.compile_units("aarch64") if unit.flags] == ["-DRAGGEDRT_ISA=generic"]


def test_an_object_is_compiled_again_when_a_header_changes(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "sources"
    (folder / "deep").mkdir(parents=True)
    calls, header = tmp_path / "calls", folder / "deep" / "inner.h"
    (folder / "unit.cc").write_text('#include "deep/outer.h"\n')
    (folder / "deep" / "outer.h").write_text('#include "inner.h"\n')
    header.write_text("one")
    compiler = tmp_path / "compiler"
    compiler.write_text(f'#!/bin/sh\nfor target; do :; done\ncat {header} >>{calls}\ncat {header} >"$target"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))

    def made(*flags: str) -> str:
        return pathlib.Path(compile_unit(Unit("unit.cc"), flags, {}, [folder], "the unit")).read_text()

    assert (made(), made()) == ("one", "one")
    header.write_text("two")
    assert (made(), made("-O2"), made()) == ("two", "two", "two")
    assert calls.read_text() == "onetwotwo"


def test_code_for_newer_cpus_shares_no_function(tmp_path: pathlib.Path) -> None:
    """The linker keeps one copy of a weak function; it must never be one compiled for AVX-512."""
    if shutil.which("nm") is None or compiler() is None:
        pytest.skip("nm or the C++ compiler is not installed")
    for unit in build.compile_units("x86_64"):
        if not any("avx" in flag for flag in unit.flags):
            continue
        target = tmp_path / "unit.o"
        flags = [flag.replace("-O3", "-O1") for flag in build.COMMON_FLAGS]
        source = str(build.SOURCE_FOLDER / unit.source)
        command = [find_compiler(), *flags, *unit.flags, f"-I{build.SOURCE_FOLDER}", "-c", source, "-o"]
        subprocess.run([*command, str(target)], check=True, capture_output=True)
        listing = subprocess.run(["nm", str(target)], check=True, capture_output=True, text=True).stdout
        assert not re.findall(r" [WVu] \S+", listing)


def test_only_the_entry_points_are_visible(library: pathlib.Path) -> None:
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed")
    command = ["nm", "-D", "--defined-only", str(library)]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert {line.split()[-1].split("@")[0] for line in listing.splitlines()} == set(build.EXPORTS)


def test_a_compiler_that_fails_is_quoted(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "broken"
    script.write_text("#!/bin/sh\necho 'x.cc:1: error: no such thing' >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    with pytest.raises(TargetError, match=r"no such thing.*C\+\+17"):
        build.build_library(tmp_path / "out", write_header(tmp_path / "include", 22))
    assert list((tmp_path / "out").iterdir()) == []


def test_the_package_library_must_be_of_these_sources(
    library: pathlib.Path, empty_cache: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged = tmp_path / "package" / "lib" / LIBRARY_NAME
    packaged.parent.mkdir(parents=True)
    shutil.copy(library, packaged)
    monkeypatch.setattr(lookup.importlib.resources, "files", lambda _package: tmp_path / "package")
    assert lookup.op_library_path() == packaged
    monkeypatch.setattr(lookup, "source_digest", lambda: "0" * 64)
    with pytest.raises(TargetError, match=r"other sources.*doctor --build-ops"):
        lookup.op_library_path()
    cached = library_path("0" * 64)
    cached.parent.mkdir(parents=True)
    shutil.copy(library, cached)
    assert lookup.op_library_path() == cached


def test_what_is_not_an_op_library_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(TargetError, match="doctor --build-ops"):
        lookup.library_info(tmp_path / "absent.so")
    (tmp_path / "text.so").write_text("not a library")
    with pytest.raises(TargetError, match="not an op library"):
        lookup.library_info(tmp_path / "text.so")


@pytest.mark.slow
def test_concurrent_builders_leave_one_whole_library(library: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda _: build.build_library(tmp_path / "out"), range(2)))
    assert [path.name for path in (tmp_path / "out").iterdir()] == [LIBRARY_NAME]
    assert lookup.library_info(paths[0]) == lookup.library_info(library)
