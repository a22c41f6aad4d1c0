"""setuptools commands: put the op library into wheels where this machine can build it, and tag such wheels truthfully.

Nothing is downloaded here and a missing compiler is no error: without the library the package installs all the same
and function bodies serve until `raggedrt doctor --build-ops` has run.
"""

from __future__ import annotations

import os
import pathlib
import platform
import re
import subprocess
import sys

from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

LIBRARY_FOLDER = "raggedrt/plugins/lib"
BUILD = """
import pathlib, sys
from raggedrt.plugins.native import build
include_dir = build.find_ort_headers()
if include_dir is None:
    sys.exit("no ONNX Runtime headers (ORT_INCLUDE_DIR, system, cache)")
print(build.build_library(pathlib.Path(sys.argv[1]), include_dir=include_dir, version=sys.argv[2]))
"""


def glibc_floor(library: pathlib.Path) -> tuple[int, int] | None:
    """The oldest glibc that `library` loads on, read from its version symbols; None when it needs none."""
    found = re.findall(rb"GLIBC_(\d+)\.(\d+)(?:\.\d+)?\0", library.read_bytes())
    return max(((int(major), int(minor)) for major, minor in found), default=None)


class BuildPy(build_py):
    """Copies the packages, then compiles the op library beside them."""

    def run(self) -> None:
        """Run the command; an editable install has no copy to put a library into, and uses the cache."""
        super().run()
        if not self.editable_mode:
            self._build_op_library()

    def _build_op_library(self) -> None:
        # The build folder has the packages under their import names, which the checkout has not.
        packages = pathlib.Path(self.build_lib).resolve()
        command = [sys.executable, "-c", BUILD, str(packages / LIBRARY_FOLDER), self.distribution.get_version()]
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": str(packages)}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["unknown reason"])[-1]
            self.announce(f"op library not built: {reason}; `raggedrt doctor --build-ops` builds it later", level=3)


class BdistWheel(bdist_wheel):
    """Tags a wheel by what is inside: pure Python without the op library, else the oldest glibc that loads it."""

    def get_tag(self) -> tuple[str, str, str]:
        """Python, ABI and platform tag."""
        build_lib = pathlib.Path(self.get_finalized_command("build_py").build_lib)
        libraries = list((build_lib / LIBRARY_FOLDER).glob("*.so"))
        if not libraries:
            tag: tuple[str, str, str] = super().get_tag()
            return tag
        self.root_is_pure = False
        floors = [floor for floor in map(glibc_floor, libraries) if floor]
        family = "manylinux_{}_{}".format(*max(floors)) if floors else "linux"
        return "py3", "none", f"{family}_{platform.machine()}"
