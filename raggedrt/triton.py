"""`config.pbtxt` of NVIDIA's Triton inference server, with ragged batching where the graph takes packed tokens.

With packed tokens a request is one sequence of shape [1, n]. The server strings the requests of a batch together and
makes `cu_seqlens` and `max_seqlen` itself, so that requests of different lengths are batched without padding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

from raggedrt.errors import InputError
from raggedrt.plugins.bundle.manifest import Manifest
from raggedrt.plugins.contract.io_roles import Role, TensorRole

TYPES = {
    "bool": "TYPE_BOOL",
    "int8": "TYPE_INT8",
    "uint8": "TYPE_UINT8",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "bfloat16": "TYPE_BF16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
}
BATCH_INPUTS = {
    Role.CU_SEQLENS: "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO",
    Role.MAX_SEQLEN: "BATCH_MAX_ELEMENT_COUNT_AS_SHAPE",
}
"""What the server makes itself: the offsets, and a vector as long as the longest sequence."""
LEADING_AXES = {Role.PER_TOKEN: 2, Role.ATTENTION_MASK: 2, Role.PER_SEQUENCE: 1}


@dataclasses.dataclass(frozen=True)
class Deployment:
    """How a model is served.

    Attributes:
        name: of the model, which is that of its folder.
        backend: `onnxruntime` or `tensorrt`.
        file: of the model, in the folder of its version.
        gpu: whether instances run on GPUs.
        max_batch_size: most requests per batch.
        queue_delay_microseconds: how long a request may wait for others.
        op_library: absolute path of the op library on the server; None: none is needed.
        profiles: optimisation profiles of an engine.
        accelerator: options of ONNX Runtime's TensorRT provider; empty: it does not serve.
        server_options: what the server's command line, or its environment, needs for this model.
    """

    name: str
    backend: str
    file: str
    gpu: bool
    max_batch_size: int
    queue_delay_microseconds: int
    op_library: str | None = None
    profiles: int = 0
    accelerator: Mapping[str, str] = dataclasses.field(default_factory=dict)
    server_options: tuple[str, ...] = ()


def config_text(manifest: Manifest, deployment: Deployment) -> str:
    """The content of `config.pbtxt`.

    Raises:
        InputError: an input or output that the server's ragged batching has no form for.
    """
    return "\n".join(_lines(manifest, deployment)) + "\n"


def _lines(manifest: Manifest, deployment: Deployment) -> Iterator[str]:
    inputs = [record.tensor_role for record in manifest.inputs]
    outputs = [record.tensor_role for record in manifest.outputs]
    ragged = manifest.io == "ragged"
    yield from (f"# Start the server with {option}" for option in deployment.server_options)
    yield f"name: {_quoted(deployment.name)}"
    yield f"backend: {_quoted(deployment.backend)}"
    yield f"default_model_filename: {_quoted(deployment.file)}"
    yield f"max_batch_size: {deployment.max_batch_size}"
    for role in inputs:
        if role.role not in BATCH_INPUTS:
            yield from _block("input", _tensor(role, ragged=ragged, given=True))
    for role in outputs:
        yield from _block("output", _tensor(role, ragged=ragged, given=False))
    if ragged:
        yield from _batching(inputs, outputs)
    yield from _block("dynamic_batching", [f"max_queue_delay_microseconds: {deployment.queue_delay_microseconds}"])
    yield from _block("instance_group", _instances(deployment))
    if deployment.op_library is not None:
        yield from _block("model_operations", [f"op_library_filename: {_quoted(deployment.op_library)}"])
    if deployment.accelerator:
        yield from _block("optimization", _block("execution_accelerators", _accelerator(deployment.accelerator)))


def _accelerator(options: Mapping[str, str]) -> Iterator[str]:
    """The provider's options have the same names in the server's configuration."""
    parameters = (f"parameters {{ key: {_quoted(key)} value: {_quoted(value)} }}" for key, value in options.items())
    yield from _block("gpu_execution_accelerator", ['name: "tensorrt"', *parameters])


def _batching(inputs: Sequence[TensorRole], outputs: Sequence[TensorRole]) -> Iterator[str]:
    tokens = [role.name for role in inputs if role.role is Role.PER_TOKEN]
    if not tokens:
        raise InputError("the model takes no tokens, so there is nothing that the server could batch without padding")
    source = f"source_input: {_quoted(tokens[0])}"
    for role in inputs:
        if role.role in BATCH_INPUTS:
            fields = [f"kind: {BATCH_INPUTS[role.role]}", f"target_name: {_quoted(role.name)}"]
            yield from _block("batch_input", [*fields, f"data_type: {_type(role)}", source])
    for role in outputs:
        if role.role is Role.PER_TOKEN:  # the server reads one name per entry
            fields = [f"target_name: {_quoted(role.name)}", "kind: BATCH_SCATTER_WITH_INPUT_SHAPE"]
            yield from _block("batch_output", [*fields, source])


def _tensor(role: TensorRole, *, ragged: bool, given: bool) -> Iterator[str]:
    """Fields of an input or output; the server adds the batch axis to `dims`."""
    yield f"name: {_quoted(role.name)}"
    yield f"data_type: {_type(role)}"
    packed = ragged and role.role is Role.PER_TOKEN
    if packed and given and len(role.shape) != 1:
        raise InputError(
            f"input {role.name!r} has {len(role.shape)} axes, and the server's ragged batching knows inputs with one "
            "axis only; convert with --io padded"
        )
    lead = 1 if packed else LEADING_AXES.get(role.role)
    if lead is None:
        raise InputError(
            f"{role.name!r} [{', '.join(map(str, role.shape))}] has no batch axis, so requests cannot be batched; "
            "serve the bundle without this format"
        )
    own = ["-1"] if packed or lead == 2 else []
    dims = [*own, *(str(dim) if isinstance(dim, int) else "-1" for dim in role.shape[lead:])]
    yield f"dims: [ {', '.join(dims or ['1'])} ]"
    if not dims:
        yield "reshape { shape: [ ] }"
    if packed and given:
        yield "allow_ragged_batch: true"


def _instances(deployment: Deployment) -> Iterator[str]:
    yield "count: 1"
    yield f"kind: {'KIND_GPU' if deployment.gpu else 'KIND_CPU'}"
    if deployment.profiles:
        yield f"profile: [ {', '.join(_quoted(str(number)) for number in range(deployment.profiles))} ]"


def _type(role: TensorRole) -> str:
    if role.dtype not in TYPES:
        raise InputError(f"{role.name!r} has the element type {role.dtype}, which the server does not know")
    return TYPES[role.dtype]


def _block(name: str, fields: Iterable[str]) -> Iterator[str]:
    yield f"{name} {{"
    yield from (f"  {field}" for field in fields)
    yield "}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
