"""What a machine without a GPU says; how devices are read, from a driver of our own."""

from __future__ import annotations

import pathlib
import subprocess

import pytest

from helpers.project import compiler
from raggedrt.errors import TargetError
from raggedrt.plugins.runtime.cuda_device import CudaDevice, cuda_state, require_cuda_device

DRIVER = """
#include <string.h>
extern "C" {
int cuInit(unsigned) { return INIT; }
int cuDriverGetVersion(int* v) { *v = VERSION; return 0; }
int cuDeviceGetCount(int* n) { *n = DEVICES; return 0; }
int cuDeviceGet(int* d, int ordinal) { *d = ordinal; return 0; }
int cuDeviceGetName(char* name, int size, int) { strncpy(name, "Paper GPU", size); return 0; }
int cuDeviceTotalMem_v2(size_t* bytes, int) { *bytes = size_t{80} << 30; return 0; }
int cuDeviceGetAttribute(int* v, int which, int) {
  *v = which == 16 ? 132 : which == 75 ? 9 : which == 76 ? 0 : which == 38 ? 50 << 20 : -1;
  return 0;
}
}
"""


@pytest.fixture
def driver(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    def build(init: int = 0, version: int = 13000, devices: int = 2) -> None:
        path = compiler()
        if path is None:
            pytest.skip("no C++ compiler")
        source = tmp_path / "driver.cc"
        source.write_text(DRIVER)
        library = tmp_path / f"driver_{init}_{version}_{devices}.so"
        macros = [f"-DINIT={init}", f"-DVERSION={version}", f"-DDEVICES={devices}"]
        subprocess.run([path, "-shared", "-fPIC", *macros, "-o", library, source], check=True)
        monkeypatch.setenv("RAGGEDRT_CUDA_DRIVER", str(library))

    return build


@pytest.mark.none
def test_no_driver_is_exit_5_and_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGGEDRT_CUDA_DRIVER", "/nowhere/libcuda.so.1")
    state = cuda_state()
    assert state.version is None
    assert state.devices == ()
    with pytest.raises(TargetError, match="no CUDA device: the NVIDIA driver is not installed") as caught:
        require_cuda_device("bundle x (target ort-cuda)")
    assert caught.value.exit_code == 5
    assert "--target ort-cpu" in str(caught.value)


@pytest.mark.none
def test_devices_are_read_with_their_facts(driver) -> None:  # type: ignore[no-untyped-def]
    driver()
    state = require_cuda_device("anything")
    assert state.version == (13, 0)
    assert state.devices[1] == CudaDevice(1, "Paper GPU", 90, 132, 80 << 30, 50 << 20)
    assert str(state.devices[0]) == "Paper GPU (sm_90, 80 GiB)"


@pytest.mark.none
@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        ({"init": 100}, "finds no GPU"),
        ({"init": 999}, "does not start"),
        ({"devices": 0}, "finds no GPU"),
        ({"version": 12080}, "serves CUDA 12.8, expected 13.0"),
    ],
)
def test_what_keeps_a_driver_from_serving(driver, facts: dict[str, int], problem: str) -> None:  # type: ignore[no-untyped-def]
    driver(**facts)
    with pytest.raises(TargetError, match=problem):
        require_cuda_device("anything")


@pytest.mark.none
def test_a_library_that_is_no_driver_is_said_to_be_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGGEDRT_CUDA_DRIVER", "libc.so.6")
    assert "is not a CUDA driver" in str(cuda_state().problem)
