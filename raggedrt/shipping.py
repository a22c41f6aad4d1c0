"""`ship`: a bundle with all that another machine needs, as a folder, a tar file or a Triton model repository."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import os
import pathlib
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, cast

from raggedrt.engine_commands import Files, script
from raggedrt.engine_samples import write_samples
from raggedrt.errors import InputError, TargetError
from raggedrt.options import choose
from raggedrt.outputs import refuse_existing, refuse_input, staged
from raggedrt.plugins.bundle.manifest import LIBRARY_FOLDER, MANIFEST_NAME, ManifestDraft, ShapeProfile
from raggedrt.plugins.bundle.reader import Bundle, open_bundle
from raggedrt.plugins.bundle.writer import BundleWriter
from raggedrt.plugins.contract.io_roles import Role
from raggedrt.plugins.kernel_packs.lookup import FOLDERS_VARIABLE, available_packs
from raggedrt.plugins.native.cache import LIBRARY_NAME
from raggedrt.plugins.native.plugin_library import PLUGIN_LIBRARY_NAME
from raggedrt.plugins.native.plugin_registrar import REGISTRAR_NAME
from raggedrt.plugins.runtime.library import op_library_path
from raggedrt.plugins.runtime.tensorrt_provider import TARGET as PROVIDER_TARGET
from raggedrt.plugins.tensorrt.engine_plugins import plugins_for
from raggedrt.plugins.tensorrt.libraries import PROVIDER_TENSORRT, find_plugins, provider_major
from raggedrt.plugins.tensorrt.profiles import envelope
from raggedrt.plugins.tensorrt.provider_options import tensorrt_options
from raggedrt.progress import step
from raggedrt.provider_bundle import provider_text
from raggedrt.triton import Deployment, config_text

FORMATS = ("dir", "tar", "triton")
COMMANDS_NAME = "engine_commands.txt"
SAMPLES_NAME = "engine_inputs"
PROVIDER_NAME = "tensorrt_provider.txt"
CONFIG_NAME = "config.pbtxt"
VERSION_FOLDER = "1"
TRITON_BACKENDS = {"tensorrt": "tensorrt"}
"""Backend by target; others run the ONNX file in ONNX Runtime, engines of TensorRT for RTX too, which Triton lacks."""
GPU_TARGETS = ("ort-cuda", "ort-trt", "tensorrt", "tensorrt-rtx")
PACK_TARGETS = ("ort-cuda", "ort-trt", "tensorrt")
DEFAULT_BATCH = 32
QUEUE_DELAY_MICROSECONDS = 500
PACK_SUFFIX = ".pack"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclasses.dataclass(frozen=True)
class Shipment:
    """What was written.

    Attributes:
        path: folder or file.
        libraries: op library and kernel packs that were added, by file name.
        notes: what whoever deploys it has to know.
    """

    path: pathlib.Path
    libraries: tuple[str, ...]
    notes: tuple[str, ...]


def ship(
    bundle: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    format: str = "dir",  # noqa: A002 - the option's name
    name: str | None = None,
    max_batch_size: int | None = None,
    server_path: str | None = None,
    force: bool = False,
) -> Shipment:
    """Put a bundle together with its libraries and kernel packs.

    Args:
        bundle: bundle directory.
        output: folder, `.tar` or `.tar.gz` file, or the model repository that gets a folder for the model.
        format: `"dir"`, `"tar"` or `"triton"`.
        name: name of the model (`triton`); default that of the bundle's folder.
        max_batch_size: most requests per batch (`triton`); default what the engine was built for, else 32.
        server_path: where the repository lies on the server (`triton`); default `output`, absolute.
        force: replace an existing output; in a repository the model's folder alone.

    Returns:
        What was written.

    Raises:
        InputError: the bundle or an option is unusable, or the output exists.
        TargetError: the model needs the op library, and it is not built.
    """
    choose("format", format, FORMATS)
    opened, destination = open_bundle(bundle, verify=True), pathlib.Path(output)
    refuse_input(destination, opened.path)
    if opened.path.resolve() in destination.resolve().parents:
        raise InputError(f"{output}: lies inside of the bundle, which takes no other files; name a place beside it")
    if format == "tar" and not destination.name.endswith((".tar", ".tar.gz")):
        raise InputError(f"{output}: expected a name that ends in .tar or .tar.gz")
    if format != "triton" and (name or max_batch_size or server_path):
        raise InputError("--name, --max-batch-size and --server-path: are for --format triton")
    extras = _libraries(opened)
    step("shipping %s", opened.path)
    if format == "triton":
        return _triton(opened, destination, extras, name, max_batch_size, server_path, force=force)
    if format == "tar":
        _tar(opened, destination, extras, force=force)
    else:
        _folder(opened, destination, extras, force=force)
    notes = (*_notes(opened, extras), *_file_notes(opened, extras))
    return Shipment(destination, tuple(path.name for path in extras), notes)


def _libraries(bundle: Bundle) -> list[pathlib.Path]:
    """The op library where a node of the model needs it, and the kernel packs of GPU targets."""
    if not bundle.facts.nodes:
        return []
    packs = [pack.path for pack in available_packs()] if bundle.manifest.target in PACK_TARGETS else []
    return [op_library_path(), *_plugins(bundle), *packs]


def _plugins(bundle: Bundle) -> list[pathlib.Path]:
    """The TensorRT plugins and what registers them; an engine does not run without those that it calls.

    Raises:
        TargetError: an engine needs them, and there are none.
    """
    for engine in bundle.manifest.engines:
        if engine.plugins is not None:
            library = plugins_for(engine.builder_version).library
            return [library, library.with_name(REGISTRAR_NAME)]
    if bundle.manifest.target != PROVIDER_TARGET:
        return []
    with contextlib.suppress(TargetError):
        found = find_plugins(provider_major() or PROVIDER_TENSORRT)
        return [found.library, found.registrar]
    return []


def _has_plugins(extras: list[pathlib.Path]) -> bool:
    return any(path.name == REGISTRAR_NAME for path in extras)


def _notes(bundle: Bundle, extras: list[pathlib.Path]) -> Iterator[str]:
    """What is missing for the place that it goes to."""
    if bundle.manifest.target == PROVIDER_TARGET and bundle.facts.nodes and not _has_plugins(extras):
        yield (
            "no TensorRT plugins were found, which the provider needs; TENSORRT_ROOT=... raggedrt doctor "
            "--build-plugins, then ship again"
        )
    packs = sum(path.name.endswith(PACK_SUFFIX) for path in extras)
    if bundle.manifest.target in PACK_TARGETS and bundle.facts.nodes and not packs:
        plugins = bundle.manifest.engines or _has_plugins(extras)
        without = "no call of the engine succeeds" if plugins else "a GPU runs function bodies"
        yield f"no kernel packs were found, so {without}; raggedrt doctor --build-kernels, ship again"


def _file_notes(bundle: Bundle, extras: list[pathlib.Path]) -> Iterator[str]:
    """Which files a folder or tar file has for other programs."""
    if bundle.manifest.target == PROVIDER_TARGET and _has_plugins(extras):
        yield f"{PROVIDER_NAME} has the options of ONNX Runtime's TensorRT provider for programs in other languages"
    if bundle.manifest.engines:
        yield f"{COMMANDS_NAME} has the command lines that build and run the engine again"


def _folder(bundle: Bundle, output: pathlib.Path, extras: list[pathlib.Path], *, force: bool) -> None:
    """A bundle again, its manifest with a hash of every library."""
    with BundleWriter(output, force=force) as writer:
        for file in bundle.manifest.files:
            place = writer.directory / file
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.path / file, place)
        for path in extras:
            place = writer.directory / LIBRARY_FOLDER / path.name
            place.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, place)
        _write_commands(bundle, writer.directory, extras)
        if bundle.manifest.target == PROVIDER_TARGET and _has_plugins(extras):
            text = provider_text(bundle.manifest, f"{LIBRARY_FOLDER}/{REGISTRAR_NAME}")
            (writer.directory / PROVIDER_NAME).write_text(text, encoding="utf-8")
        fields = {field: getattr(bundle.manifest, field) for field in ManifestDraft.model_fields}
        writer.finish(ManifestDraft(**fields))


def _write_commands(bundle: Bundle, folder: pathlib.Path, extras: list[pathlib.Path]) -> None:
    """How to build and run the engine with TensorRT's own tools, and inputs for them."""
    manifest = bundle.manifest
    for engine in manifest.engines:
        write_samples(folder / SAMPLES_NAME, engine.profiles, [record.tensor_role for record in manifest.inputs])
        files = Files(manifest.plugin_model or manifest.model, manifest.model, samples=SAMPLES_NAME)
        if engine.plugins is not None and _has_plugins(extras):
            places = {"plugins": PLUGIN_LIBRARY_NAME, "registrar": REGISTRAR_NAME}
            files = dataclasses.replace(files, **{key: f"{LIBRARY_FOLDER}/{name}" for key, name in places.items()})
        (folder / COMMANDS_NAME).write_text(script(engine, files), encoding="utf-8")


def _tar(bundle: Bundle, output: pathlib.Path, extras: list[pathlib.Path], *, force: bool) -> None:
    """The same as one file; the same bytes for the same content."""
    refuse_existing(output, force=force)
    stem = output.name.removesuffix(".gz").removesuffix(".tar")
    with tempfile.TemporaryDirectory(prefix="raggedrt-ship-") as folder, staged(output) as path:
        whole = pathlib.Path(folder) / "bundle"
        _folder(bundle, whole, extras, force=False)
        with path.open("wb") as raw:
            if output.name.endswith(".gz"):
                with gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed:
                    _add_all(cast("IO[bytes]", packed), whole, stem)
            else:
                _add_all(raw, whole, stem)


def _add_all(target: IO[bytes], folder: pathlib.Path, stem: str) -> None:
    with tarfile.open(fileobj=target, mode="w") as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            archive.add(path, f"{stem}/{path.relative_to(folder).as_posix()}", filter=_plain)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    return member


def _triton(
    bundle: Bundle,
    repository: pathlib.Path,
    extras: list[pathlib.Path],
    name: str | None,
    max_batch_size: int | None,
    server_path: str | None,
    *,
    force: bool,
) -> Shipment:
    name = bundle.path.name if name is None else name
    if not _NAME.fullmatch(name):
        raise InputError(f"--name {name!r}: expected letters, digits, and ._- after the first")
    if repository.exists() and not repository.is_dir():
        raise InputError(f"{repository}: is a file; name the folder of the model repository")
    model = repository / name
    _check_replaceable(model, force=force)
    deployment = _deployment(bundle, name, extras, max_batch_size, server_path or str(repository.absolute()))
    config = config_text(bundle.manifest, deployment)
    repository.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".{name}.", dir=repository))
    try:
        _fill(temporary, bundle, extras, deployment, config)
        if model.exists():
            shutil.rmtree(model)
        temporary.chmod(0o755)
        temporary.rename(model)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Shipment(
        model, tuple(path.name for path in extras), (*_notes(bundle, extras), *_triton_notes(bundle, deployment))
    )


def _check_replaceable(model: pathlib.Path, *, force: bool) -> None:
    if not model.exists():
        return
    if not force:
        raise InputError(f"{model}: exists already; choose another --name, or replace it with --force")
    if not (model / MANIFEST_NAME).is_file():
        raise InputError(
            f"{model}: was not written by `raggedrt ship`, so --force does not remove it; remove it yourself"
        )


def _deployment(
    bundle: Bundle, name: str, extras: list[pathlib.Path], max_batch_size: int | None, server_path: str
) -> Deployment:
    manifest = bundle.manifest
    built_for = [most for profile in manifest.profiles if (most := _most_sequences(bundle, profile))]
    backend = TRITON_BACKENDS.get(manifest.target, "onnxruntime")
    served_by_engine = backend == "tensorrt" and bool(manifest.engines)
    place = f"{server_path.rstrip('/')}/{name}"
    plugins = f"{place}/{LIBRARY_FOLDER}" if _has_plugins(extras) else None
    provided = plugins is not None and manifest.plugin_model is not None and not manifest.engines
    accelerator = _accelerator(bundle, str(plugins)) if provided else {}
    limit = min(built_for, default=None) if served_by_engine or accelerator else None
    if served_by_engine and limit is not None:
        limit = min(limit, _server_limit(manifest.profiles))
    _check_batch_size(max_batch_size, limit, built_for)
    native = any(path.name == LIBRARY_NAME for path in extras)
    return Deployment(
        name=name,
        backend=backend if served_by_engine else "onnxruntime",
        file="model.plan" if served_by_engine else (str(manifest.plugin_model) if accelerator else "model.onnx"),
        gpu=manifest.target in GPU_TARGETS,
        max_batch_size=max_batch_size or limit or max(built_for, default=DEFAULT_BATCH),
        queue_delay_microseconds=QUEUE_DELAY_MICROSECONDS,
        op_library=f"{place}/{LIBRARY_FOLDER}/{LIBRARY_NAME}"
        if native and not accelerator and not served_by_engine
        else None,
        profiles=len(manifest.profiles) if served_by_engine else 0,
        accelerator=accelerator,
        server_options=_server_options(bundle, plugins) if served_by_engine else (),
    )


def _server_limit(profiles: Sequence[ShapeProfile]) -> int:
    """The server's TensorRT backend takes the first axis of every input for the batch, that of `max_seqlen` too."""
    return max(min(shape[0] for shape in profile.maximum.values() if shape) for profile in profiles)


def _check_batch_size(asked: int | None, limit: int | None, built_for: Sequence[int]) -> None:
    if asked is None:
        return
    if asked < 1:
        raise InputError(f"--max-batch-size {asked}: expected at least 1")
    if limit is not None and asked > limit:
        reason = "the engine was built for at most"
        if limit < min(built_for):
            reason = "the server takes the length of the longest sequence for a limit on their number, and that is"
        raise InputError(f"--max-batch-size {asked}: {reason} {limit}; give no more, or build the engine for more")


def _server_options(bundle: Bundle, plugins: str | None) -> tuple[str, ...]:
    """What the server is started with, or its TensorRT backend does not load or run an engine."""
    options = []
    for engine in bundle.manifest.engines:
        if engine.plugins is not None and not engine.plugins.serialized and plugins is not None:
            options.append(f"--backend-config=tensorrt,plugins={plugins}/{REGISTRAR_NAME}")
        if engine.plugins is not None and engine.plugins.serialized and plugins is not None:
            options.append(f"{FOLDERS_VARIABLE}={plugins} in its environment")
        if engine.version_compatible:
            options.append("--backend-config=tensorrt,version-compatible=true")
    return tuple(options)


def _most_sequences(bundle: Bundle, profile: ShapeProfile) -> int:
    """How many sequences a batch of a profile may have; 0 where that does not show."""
    if "cu_seqlens" in profile.maximum:
        return profile.maximum["cu_seqlens"][0] - 1
    padded = [record.name for record in bundle.manifest.inputs if record.role in (Role.PER_TOKEN, Role.ATTENTION_MASK)]
    return min((profile.maximum[name][0] for name in padded if name in profile.maximum), default=0)


def _accelerator(bundle: Bundle, libraries: str) -> dict[str, str]:
    """Options of ONNX Runtime's TensorRT provider on the server."""
    profile = envelope(bundle.manifest.profiles)
    return tensorrt_options([profile], plugin_libraries=[f"{libraries}/{REGISTRAR_NAME}"])


def _fill(
    folder: pathlib.Path, bundle: Bundle, extras: list[pathlib.Path], deployment: Deployment, config: str
) -> None:
    version = folder / VERSION_FOLDER
    version.mkdir()
    (folder / CONFIG_NAME).write_text(config, encoding="utf-8")
    shutil.copyfile(bundle.path / MANIFEST_NAME, folder / MANIFEST_NAME)
    if deployment.profiles:
        shutil.copyfile(bundle.path / bundle.manifest.engines[0].file, version / deployment.file)
    else:
        graph = bundle.path / deployment.file if deployment.accelerator else bundle.model_path
        shutil.copyfile(graph, version / deployment.file)
        for weights in bundle.facts.external_files:
            place = version / weights
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.model_path.parent / weights, place)
    if extras:
        (folder / LIBRARY_FOLDER).mkdir()
    for path in extras:
        shutil.copyfile(path, folder / LIBRARY_FOLDER / path.name)


def _triton_notes(bundle: Bundle, deployment: Deployment) -> Iterator[str]:
    if bundle.manifest.io == "ragged":
        yield (
            "each request is one sequence of shape [1, n]: the server batches requests of any lengths without padding, "
            "and takes a request of several rows for one long sequence"
        )
    else:
        yield "with padded inputs only requests of equal lengths are batched; convert with --io ragged to batch all"
    if deployment.op_library is not None:
        yield f"the server loads {deployment.op_library}; ship with --server-path if the repository lies elsewhere"
    if deployment.accelerator:
        yield (
            "ONNX Runtime builds the TensorRT engine when the server loads the model, which takes minutes each time; "
            "trt_engine_cache_enable and trt_engine_cache_path in config.pbtxt keep it in a folder of the server"
        )
        yield "the server loads the plugins from there; ship with --server-path if the repository lies elsewhere"
    for option in deployment.server_options:
        yield f"start the server with {option}"
    if bundle.manifest.engines and deployment.backend != "tensorrt":
        yield "the server has no backend for engines of TensorRT for RTX: it runs the ONNX file in ONNX Runtime"
