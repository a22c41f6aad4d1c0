"""`manifest.json`: what a bundle contains, what its graph expects, and how far it was verified.

The models are strict and refuse unknown fields: whoever adds a field raises `SCHEMA_VERSION`.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

import pydantic

from raggedrt.errors import InputError
from raggedrt.plugins.bundle.paths import check_relative_path
from raggedrt.plugins.contract.abi import ABI_VERSION
from raggedrt.plugins.contract.io_roles import Role, TensorRole

SCHEMA_VERSION = 3
"""Version 2 adds `engines`, version 3 `plugin_model`, the plugins of engines and `ep_context`."""
READABLE_VERSIONS = (1, 2, 3)
MANIFEST_NAME = "manifest.json"
MODEL_NAME = "model.onnx"
REPORT_NAME = "report.json"
TOKENIZER_NAME = "tokenizer"
LIBRARY_FOLDER = "lib"
ENGINE_FOLDER = "engines"
MAX_MANIFEST_BYTES = 16 * 2**20

RelativePath = Annotated[str, pydantic.AfterValidator(check_relative_path)]
Sha256 = Annotated[str, pydantic.StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Record(pydantic.BaseModel):
    """A frozen, strict piece of the manifest."""

    model_config = pydantic.ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class FileRecord(Record):
    """Size in bytes and content digest of one file."""

    size: int = pydantic.Field(ge=0)
    sha256: Sha256


class SourceRecord(Record):
    """Where the model came from, so that it can be found again.

    `digest` identifies its content, empty if it has none; `location` is what was given as SOURCE (paths absolute),
    empty for an object of a program; `task` is the task that was exported.
    """

    kind: str
    description: str
    digest: str = ""
    location: str = ""
    task: str | None = None


class TensorRecord(Record):
    """One graph input or output, as `TensorRole`."""

    name: str
    role: Role
    dtype: str
    shape: tuple[int | str, ...]

    @property
    def tensor_role(self) -> TensorRole:
        """The same facts in the form that every stage shares."""
        return TensorRole(self.name, self.role, self.dtype, self.shape)


class InputRecord(TensorRecord):
    """One graph input. A caller may omit it if it has a `default`; padded slots are filled with `pad_value`."""

    default: int | float | None = None
    pad_value: int | float = 0


class ShapeProfile(Record):
    """Least, best and greatest shape of every input of one optimisation profile."""

    minimum: dict[str, tuple[int, ...]]
    optimum: dict[str, tuple[int, ...]]
    maximum: dict[str, tuple[int, ...]]

    @pydantic.model_validator(mode="after")
    def _check_bounds(self) -> ShapeProfile:
        if not self.minimum.keys() == self.optimum.keys() == self.maximum.keys():
            raise ValueError("least, best and greatest shapes are not of the same inputs")
        for name, low in self.minimum.items():
            best, high = self.optimum[name], self.maximum[name]
            if not len(low) == len(best) == len(high) or not all(
                0 <= a <= b <= c for a, b, c in zip(low, best, high, strict=True)
            ):
                raise ValueError(f"the shapes of {name!r} do not grow from least to greatest")
        return self


class PluginRecord(Record):
    """The plugins in an engine: version and ABI of the library that it was built with, and the creators that it calls.

    `serialized`: the engine brings the library along; otherwise whoever runs it loads one of the same ABI first.
    """

    version: str
    abi: int
    creators: tuple[str, ...]
    serialized: bool


class EngineRecord(Record):
    """One TensorRT engine.

    `file` is its place in the bundle and `layers` that of what the inspector says of its layers, both relative to the
    folder of the record. `target` is the value of `--target`, `builder` the product that built it. `profiles` are in
    the engine's order. `device_memory_bytes` is what activations take at the greatest shapes, None where the builder
    does not say it. `graph_sha256` identifies the ONNX file that was built. `plugins` is None where it calls none.
    `version_compatible`: later versions of the product run it too. `hardware_compatibility` says, as the option of that
    name does, which GPUs run it beside that of `compute_capabilities`.
    """

    file: RelativePath
    layers: RelativePath | None = None
    target: str
    builder: str
    builder_version: str
    compute_capabilities: tuple[int, ...]
    profiles: tuple[ShapeProfile, ...] = pydantic.Field(min_length=1)
    device_memory_bytes: int | None = None
    graph_sha256: Sha256
    plugins: PluginRecord | None = None
    version_compatible: bool = False
    hardware_compatibility: str = "none"


class ContextRecord(Record):
    """An EPContext model: what ONNX Runtime's `provider` compiled, ready to load.

    `file` is its place in the bundle; the engine lies in the same folder. `runtime_version` is ONNX Runtime's,
    `sdk_version` that of the provider's SDK, `graph_sha256` identifies the ONNX file that was compiled.
    """

    file: RelativePath
    provider: str
    runtime_version: str
    sdk_version: str
    compute_capability: int
    graph_sha256: Sha256


class OutputError(Record):
    """Greatest error of one output over all cases, at places that mean something."""

    max_abs: float
    max_rel: float


class Verification(Record):
    """How the bundle's values were compared with the source's. `verified_on` is a device type, as `cpu`."""

    verified_on: str
    atol: float
    rtol: float
    cases: tuple[str, ...]
    outputs: dict[str, OutputError]


class ManifestDraft(Record):
    """Everything that the toolchain knows; the writer adds the file list to make a `Manifest`.

    `op_features` has the feature bits used, by op. `mask_specs` is what the report says of each mask. `position_limit`
    is the longest sequence in tokens, None without a limit. `mask_input` is the name under which callers give
    `[B, S]` masks, also where the graph itself takes `cu_seqlens`. `plugin_model` is the same graph as TensorRT's
    parser takes it, with nodes in plugin form; it shares the weights of `model`. `ep_context` is that graph compiled.
    """

    toolchain_version: str
    target: str
    io: Literal["padded", "ragged"]
    inputs: tuple[InputRecord, ...]
    outputs: tuple[TensorRecord, ...]
    source: SourceRecord
    dtype: str = "fp32"
    op_abi: int = ABI_VERSION
    op_features: dict[str, int] = {}
    mask_specs: tuple[dict[str, Any], ...] = ()
    profiles: tuple[ShapeProfile, ...] = ()
    engines: tuple[EngineRecord, ...] = ()
    position_limit: int | None = pydantic.Field(default=None, ge=1)
    mask_input: str = "attention_mask"
    verification: Verification | None = None
    model: RelativePath = MODEL_NAME
    plugin_model: RelativePath | None = None
    ep_context: ContextRecord | None = None
    tokenizer: RelativePath | None = None

    @pydantic.model_validator(mode="after")
    def _check_profiles(self) -> ManifestDraft:
        if (self.engines or self.plugin_model is not None) and not self.profiles:
            raise ValueError("there are no profiles, and what is built for TensorRT has some")
        axes = {record.name: len(record.shape) for record in self.inputs}
        for profile in (*self.profiles, *(profile for engine in self.engines for profile in engine.profiles)):
            for name, shape in profile.maximum.items():
                if len(shape) != axes.get(name, len(shape)):
                    raise ValueError(f"a profile gives {name!r} {len(shape)} axes, and it has {axes[name]}")
        return self


class Manifest(ManifestDraft):
    """The content of `manifest.json`, less its own digest. `files` lists every other file of the bundle."""

    schema_version: Literal[1, 2, 3] = 3
    files: dict[RelativePath, FileRecord]


class _Version(pydantic.BaseModel):
    schema_version: int


def draft_to_manifest(draft: ManifestDraft, files: dict[str, FileRecord]) -> Manifest:
    """Complete `draft` with the bundle's files."""
    return Manifest(files=files, **{name: getattr(draft, name) for name in ManifestDraft.model_fields})


def dump_manifest(manifest: Manifest) -> bytes:
    """The bytes of `manifest.json`, which end with a digest of what stands before it."""
    content = manifest.model_dump(mode="json")
    return (json.dumps({**content, "digest": _digest(content)}, indent=1) + "\n").encode()


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Read `manifest.json`; `where` names it in messages.

    Raises:
        InputError: not JSON, of an unknown version, with missing, extra or wrong fields, or changed after writing.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise InputError(f"{where} is larger than {MAX_MANIFEST_BYTES} bytes, so it is no RaggedRT manifest.")
    try:
        version = _Version.model_validate_json(data, strict=True).schema_version
    except pydantic.ValidationError as error:
        raise InputError(f"{where} is no RaggedRT manifest: {_first(error)}. Convert the model again.") from None
    if version not in READABLE_VERSIONS:
        raise InputError(
            f"{where} has schema version {version}, and this RaggedRT reads versions up to {SCHEMA_VERSION}; "
            "use the RaggedRT version that wrote the bundle, or convert the model again."
        )
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        raise InputError(f"{where} is no valid JSON. Convert the model again.") from None
    digest = content.pop("digest", None)
    try:
        manifest = Manifest.model_validate_json(json.dumps(content))
    except pydantic.ValidationError as error:
        raise InputError(f"{where} is not valid: {_first(error)}. Convert the model again.") from None
    if digest != _digest(content):
        raise InputError(f"{where} was changed after it was written (its digest differs); convert the model again.")
    return manifest


def _digest(content: dict[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _first(error: pydantic.ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in problem["loc"])
    return f"{place}: {problem['msg']}" if place else problem["msg"]
