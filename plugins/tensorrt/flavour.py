"""The TensorRT products that engines are built with: one row per target."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Mapping

from raggedrt.errors import InputError, TargetError
from raggedrt.plugins.runtime.cuda_device import cuda_state


@dataclasses.dataclass(frozen=True)
class Flavour:
    """One TensorRT product.

    Attributes:
        target: value of `--target`.
        module: Python module of its bindings; `distributions`: packages that bring them, any of which will do.
        product: its name in messages.
        extra: extra of this package that installs it.
        environment: what Polygraphy needs to use it.
        capabilities: compute capabilities (89 for 8.9) that it can build for without a GPU; empty: it needs the GPU.
        default_capabilities: those that are built for where no GPU is present and none is named.
        lacks: ops that its parser accepts but cannot serve, and why.
        plugins: whether it takes our ops as plugins; otherwise it is handed their bodies.
        oldest: the first version that serves, major and minor.
    """

    target: str
    module: str
    distributions: tuple[str, ...]
    product: str
    extra: str
    environment: Mapping[str, str]
    capabilities: tuple[int, ...]
    default_capabilities: tuple[int, ...]
    lacks: Mapping[str, str]
    plugins: bool = False
    oldest: tuple[int, int] = (1, 0)


FLAVOURS: dict[str, Flavour] = {
    "tensorrt": Flavour(
        target="tensorrt",
        module="tensorrt",
        distributions=("tensorrt-cu13", "tensorrt-cu12", "tensorrt"),
        product="TensorRT",
        extra="tensorrt",
        environment={"POLYGRAPHY_USE_TENSORRT_RTX": "0"},
        capabilities=(),
        default_capabilities=(),
        lacks={},
        plugins=True,
        oldest=(10, 7),
    ),
    "tensorrt-rtx": Flavour(
        target="tensorrt-rtx",
        module="tensorrt_rtx",
        distributions=("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx"),
        product="TensorRT for RTX",
        extra="tensorrt-rtx",
        environment={"POLYGRAPHY_USE_TENSORRT_RTX": "1"},
        capabilities=(75, 80, 86, 89, 120, 121),
        default_capabilities=(80, 86, 89, 120),
        lacks={"NonZero": "the number of its results is known on the device only; use ragged inputs (--io ragged)"},
    ),
}


def find_flavour(target: str) -> Flavour:
    """The product that builds engines for a target.

    Raises:
        InputError: the target has no engines.
    """
    if target not in FLAVOURS:
        raise InputError(f"--target {target}: has no engines to build; choose one of {', '.join(FLAVOURS)}")
    return FLAVOURS[target]


def installed_version(flavour: Flavour) -> str | None:
    """Version of the product's bindings, None where they or Polygraphy are missing."""
    if not all(importlib.util.find_spec(module) for module in (flavour.module, "polygraphy")):
        return None
    for name in flavour.distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def require_builder(flavour: Flavour) -> str:
    """The version of the builder.

    Raises:
        TargetError: it is not installed.
    """
    version = installed_version(flavour)
    if version is None:
        raise TargetError(
            f"target {flavour.target}: {flavour.product} or Polygraphy is not installed; install both with "
            f"pip install 'raggedrt[{flavour.extra}]'"
        )
    if version_numbers(version)[:2] < flavour.oldest:
        oldest = ".".join(map(str, flavour.oldest))
        raise TargetError(
            f"target {flavour.target}: {flavour.product} {version} is installed, and {oldest} or later is needed; "
            f"pip install --upgrade 'raggedrt[{flavour.extra}]'"
        )
    return version


def version_numbers(version: str) -> tuple[int, ...]:
    """`10.16.1.11` as numbers; what follows them is left out."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def parse_capabilities(flavour: Flavour, text: str | None) -> tuple[int, ...]:
    """Compute capabilities from `80,86,8.9`; None: that of the GPU present, else the default ones.

    Raises:
        InputError: not of that form, or none that the product builds for.
        TargetError: the product builds for the GPU present only, and there is none.
    """
    if not flavour.capabilities:
        return _present_capability(flavour, text)
    if text is None:
        present = tuple(found for found in gpu_capabilities() if found in flavour.capabilities)
        return present or flavour.default_capabilities
    known = ", ".join(map(str, flavour.capabilities))
    found = _numbers(text)
    for number in found:
        if number not in flavour.capabilities:
            raise InputError(f"--compute-capability {number}: {flavour.product} builds for {known}")
    return found


def _present_capability(flavour: Flavour, text: str | None) -> tuple[int, ...]:
    """That of the GPU that a builder works on: it times kernels there."""
    wanted = None if text is None else _numbers(text)
    present = gpu_capabilities()
    if not present:
        raise TargetError(
            f"target {flavour.target}: {flavour.product} builds engines on the GPU that they are for, and this machine "
            "has no NVIDIA GPU; build there, or use --target tensorrt-rtx, which builds without one, or ort-cuda"
        )
    if wanted is not None and wanted != present[:1]:
        raise InputError(
            f"--compute-capability {text}: {flavour.product} builds for the GPU present alone, which has {present[0]}; "
            "build where the other GPU is, or for several with --hardware-compatibility ampere+"
        )
    return present[:1]


def _numbers(text: str) -> tuple[int, ...]:
    for part in text.split(","):
        if not re.fullmatch(r"\d{2,3}|\d{1,2}\.\d", part.strip()):
            raise InputError(f"--compute-capability {text}: expected numbers such as 89 or 8.9, joined by commas")
    return tuple(dict.fromkeys(int(part.strip().replace(".", "")) for part in text.split(",")))


def gpu_capabilities() -> tuple[int, ...]:
    """Compute capabilities of the GPUs of this machine, each once; the driver is asked where its tool is missing."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return tuple(dict.fromkeys(device.capability for device in cuda_state().devices))
    try:
        done = subprocess.run(
            [program, "--query-gpu=compute_cap", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = [line.strip().replace(".", "") for line in done.stdout.splitlines()] if done.returncode == 0 else []
    return tuple(dict.fromkeys(int(text) for text in found if text.isdigit()))
