"""Two models of any kind (PyTorch source, ONNX file, bundle) behind one face, so that they can be compared."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np

from raggedrt.engine_facts import is_engine
from raggedrt.errors import InputError
from raggedrt.export.input_specs import graph_input_specs, input_specs
from raggedrt.export.numerics import Arrays, Runner
from raggedrt.export.padding_cases import InputSpec
from raggedrt.export.verify import eager_runner
from raggedrt.onnx_files import read_onnx
from raggedrt.onnx_runner import onnx_file_runner
from raggedrt.plugins.bundle.manifest import MANIFEST_NAME
from raggedrt.plugins.bundle.reader import open_bundle
from raggedrt.plugins.contract.io_roles import Role
from raggedrt.plugins.runtime.ort import Providers
from raggedrt.plugins.runtime.session import Session
from raggedrt.plugins.tensorrt.engine_file import read_engine_file, require_runnable
from raggedrt.sources import resolve_source, wide_source


@dataclasses.dataclass(frozen=True)
class OpenModel:
    """A model that can be run on padded arrays.

    Attributes:
        label: for messages.
        run: from padded arrays by name to outputs by name; takes what it needs, ignores the rest.
        specs: how to make values for its inputs.
        pad_token_id: token id of padded slots, None where it is not known.
        position_limit: longest sequence in tokens, None where it is not known.
        ragged: whether only right padding makes sense to it.
    """

    label: str
    run: Runner
    specs: list[InputSpec]
    pad_token_id: int | None = None
    position_limit: int | None = None
    ragged: bool = False


@dataclasses.dataclass(frozen=True)
class RunnerOptions:
    """How models are opened: the options that `compare` and `bench` share."""

    task: str = "auto"
    revision: str | None = None
    allow_pickle: bool = False
    threads: int | None = None
    trust_bundle: bool = False
    dtype: str = "fp32"
    """Element type that PyTorch sources are read in."""
    providers: Providers | None = None
    """Execution providers of ONNX files; None: the CPU's."""


def open_model(text: str, options: RunnerOptions) -> OpenModel:
    """Open a bundle, an ONNX file or a PyTorch source.

    Raises:
        InputError: it is none of these, or is unusable.
        TargetError: PyTorch, ONNX Runtime or the bundle's target is missing on this machine.
    """
    path = pathlib.Path(text)
    if (path / MANIFEST_NAME).exists():
        return _open_bundle(text, options)
    if is_engine(path) and not path.is_dir():
        require_runnable(read_engine_file(path).engine, text)
        raise InputError(f"{text}: an engine does not say what its inputs mean; compare or run the bundle that has it")
    if path.suffix == ".onnx" and not path.is_dir():
        return _open_onnx(path, options)
    return _open_source(text, options)


def bundle_dtype(*texts: str) -> str:
    """The element type of the first bundle among SOURCEs, in which PyTorch sources are read beside it."""
    for text in texts:
        if (pathlib.Path(text) / MANIFEST_NAME).exists():
            return open_bundle(text).manifest.dtype
    return "fp32"


def _open_bundle(text: str, options: RunnerOptions) -> OpenModel:
    bundle = open_bundle(text)
    session = Session(bundle, threads=options.threads, trust_bundle=options.trust_bundle)
    manifest = bundle.manifest
    ragged = manifest.io == "ragged"
    lengths = (Role.CU_SEQLENS, Role.MAX_SEQLEN)
    names = [record.name for record in manifest.inputs if record.role not in lengths]
    ids = {record.name: record.pad_value for record in manifest.inputs}.get("input_ids")
    found = {spec.name: spec for spec in graph_input_specs(read_onnx(bundle.model_path).model) if spec.name in names}
    specs = [
        dataclasses.replace(found[record.name], axes=("batch", "sequence", *found[record.name].axes[1:]))
        if ragged and record.role is Role.PER_TOKEN
        else found[record.name]
        for record in manifest.inputs
        if record.name in found
    ]
    if ragged:
        specs.append(InputSpec(manifest.mask_input, np.dtype(np.int64), ("batch", "sequence"), "mask"))
        names.append(manifest.mask_input)

    def run(feeds: Arrays) -> Arrays:
        return session.run({name: feeds[name] for name in names if name in feeds})

    pad = None if ids is None else int(ids)
    imposed = ", ".join(sorted({mask["imposed"] for mask in manifest.mask_specs if mask.get("imposed")}))
    label = f"bundle {text} (an approximation: {imposed} is imposed)" if imposed else f"bundle {text}"
    return OpenModel(label, run, specs, pad, manifest.position_limit, ragged)


def _open_onnx(path: pathlib.Path, options: RunnerOptions) -> OpenModel:
    file = read_onnx(path)
    if {"cu_seqlens", "max_seqlen"} <= {value.name for value in file.model.graph.inputs}:
        raise InputError(f"{path}: takes packed tokens, whose meaning only a bundle records; compare the bundle")
    specs = graph_input_specs(file.model)
    return OpenModel(f"ONNX file {path}", onnx_file_runner(path, options.threads, options.providers), specs)


def _open_source(text: str, options: RunnerOptions) -> OpenModel:
    resolved = resolve_source(
        text,
        task=options.task,
        revision=options.revision,
        allow_pickle=options.allow_pickle,
        dtype=options.dtype,
    )
    if resolved.model is None:
        raise InputError(f"{text}: is no PyTorch source")
    source = wide_source(resolved.model)
    return OpenModel(
        f"PyTorch {text}", eager_runner(source), input_specs(source), resolved.pad_token_id, resolved.position_limit
    )
