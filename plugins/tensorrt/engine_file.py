"""An engine outside a bundle, and the JSON file beside it that says what it is: an engine itself cannot be read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Literal

import pydantic

from raggedrt.errors import InputError, TargetError
from raggedrt.plugins.bundle.manifest import MAX_MANIFEST_BYTES, EngineRecord, FileRecord, Record, TensorRecord
from raggedrt.plugins.contract.io_roles import TensorRole
from raggedrt.plugins.tensorrt.flavour import FLAVOURS, gpu_capabilities, installed_version, version_numbers

ENGINE_SUFFIXES = (".plan", ".engine", ".trt")
AMPERE_AND_LATER, FIRST_AMPERE = "ampere+", 80
MAGICS = (b"vtrt", b"ftrt", b"ptrt")
"""First bytes of a serialised engine: of TensorRT for RTX, and of TensorRT."""


class EngineFile(Record):
    """The content of `<engine>.json`; paths are relative to its folder."""

    schema_version: Literal[1] = 1
    engine: EngineRecord
    inputs: tuple[TensorRecord, ...]
    outputs: tuple[TensorRecord, ...]
    content: FileRecord

    @classmethod
    def of(
        cls, record: EngineRecord, inputs: Sequence[TensorRole], outputs: Sequence[TensorRole], engine: pathlib.Path
    ) -> EngineFile:
        """What to write beside `engine`."""
        sides = [tuple(TensorRecord(**dataclasses.asdict(role)) for role in roles) for roles in (inputs, outputs)]
        content = FileRecord(size=engine.stat().st_size, sha256=file_digest(engine))
        return cls(engine=record, inputs=sides[0], outputs=sides[1], content=content)


def file_digest(path: pathlib.Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def side_file(engine: pathlib.Path) -> pathlib.Path:
    """The JSON file beside an engine."""
    return engine.with_name(f"{engine.name}.json")


def write_engine_file(engine: pathlib.Path, content: EngineFile) -> None:
    """Write `<engine>.json`."""
    side_file(engine).write_text(json.dumps(content.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")


def read_engine_file(engine: pathlib.Path) -> EngineFile:
    """What stands beside `engine`, checked against it.

    Raises:
        InputError: no engine, nothing beside it, or one of them was changed.
    """
    if not engine.is_file():
        raise InputError(f"{engine}: no such file; expected an engine as `raggedrt build` writes it")
    with engine.open("rb") as handle:
        magic = handle.read(4)
    if magic not in MAGICS:
        raise InputError(f"{engine}: is no TensorRT engine (it begins with {magic!r}); build it again")
    side = side_file(engine)
    if not side.is_file():
        raise InputError(
            f"{engine}: {side.name} is missing, and an engine does not say itself what it was built for; copy that "
            "file too, or build the engine again"
        )
    if side.stat().st_size > MAX_MANIFEST_BYTES:
        raise InputError(f"{side}: is too large to be what `raggedrt build` writes; build the engine again")
    try:
        found = EngineFile.model_validate_json(side.read_bytes())
    except pydantic.ValidationError as error:
        raise InputError(
            f"{side}: is not what `raggedrt build` writes ({error.errors()[0]['msg']}); build the engine again"
        ) from None
    if engine.stat().st_size != found.content.size or file_digest(engine) != found.content.sha256:
        raise InputError(f"{engine}: is not the engine that {side.name} describes; build it again")
    return found


def runs_with(engine: EngineRecord, version: str) -> bool:
    """Whether an engine runs with this version of the product that built it."""
    built, installed = version_numbers(engine.builder_version), version_numbers(version)
    if not engine.version_compatible:
        return installed == built  # packages are also called 10.13.3.9.post1, which the library itself is not
    return installed[:1] == built[:1] and installed >= built


def runs_on(engine: EngineRecord, capability: int) -> bool:
    """Whether an engine runs on GPUs of a compute capability."""
    if engine.hardware_compatibility == AMPERE_AND_LATER:
        return capability >= FIRST_AMPERE
    return capability in engine.compute_capabilities


def require_runnable(engine: EngineRecord, where: str) -> None:
    """Check, before anything is loaded, that this machine can run an engine.

    Raises:
        TargetError: the product is missing or has another version, or no GPU here is one that was built for.
    """
    flavour = FLAVOURS[engine.target]
    version = installed_version(flavour)
    if version is None:
        raise TargetError(
            f"{where} needs {engine.builder} {engine.builder_version}; pip install 'raggedrt[{flavour.extra}]'"
        )
    if not runs_with(engine, version):
        needed = "a later one of the same major version" if engine.version_compatible else "the version that built them"
        raise TargetError(
            f"{where} was built with {engine.builder} {engine.builder_version}, and {version} is installed; engines "
            f"run with {needed}: install that one, or build the engine again"
        )
    present = gpu_capabilities()
    built_for = ", ".join(map(str, engine.compute_capabilities))
    if engine.hardware_compatibility == AMPERE_AND_LATER:
        built_for = f"{FIRST_AMPERE} or later"
    if not present:
        raise TargetError(
            f"{where} needs an NVIDIA GPU of compute capability {built_for}, and this machine has none; its ONNX file "
            "runs in ONNX Runtime"
        )
    if not any(runs_on(engine, capability) for capability in present):
        raise TargetError(
            f"{where} was built for compute capability {built_for}, and the GPU here has {present[0]}; build it again "
            f"with --compute-capability {present[0]}, if {engine.builder} supports that"
        )
