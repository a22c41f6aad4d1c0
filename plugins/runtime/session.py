"""`Session`: run a bundle on padded arrays, on lists of sequences or on packed tokens."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from raggedrt.errors import InputError, TargetError
from raggedrt.plugins.bundle.reader import Bundle, open_bundle
from raggedrt.plugins.contract.io_roles import Role, TensorRole
from raggedrt.plugins.runtime.cuda_device import require_cuda_device
from raggedrt.plugins.runtime.feeds import (
    CU_SEQLENS,
    Array,
    PackedFeeds,
    PaddedFeeds,
    bind_lists,
    bind_padded,
    bind_ragged,
)
from raggedrt.plugins.runtime.layouts import (
    Outputs,
    blank_packed,
    blank_padded,
    pack,
    pad,
    split,
    unpack,
    unpad,
    zero_rows,
)
from raggedrt.plugins.runtime.model_input import ModelInput
from raggedrt.plugins.runtime.ort import CUDA_PROVIDER, Native, Providers, create_session, find_library
from raggedrt.plugins.runtime.ort_errors import RUN_ERRORS, translated
from raggedrt.plugins.runtime.ort_values import BFLOAT16, run_with_values
from raggedrt.plugins.runtime.signature import make_signature, numpy_dtype
from raggedrt.plugins.tensorrt.engine_file import require_runnable
from raggedrt.plugins.tensorrt.runner import EngineRunner, open_engine

if TYPE_CHECKING:
    import onnxruntime

TARGET_PROVIDERS: dict[str, tuple[str, ...]] = {
    "ort-cpu": ("CPUExecutionProvider",),
    "ort-cuda": (CUDA_PROVIDER, "CPUExecutionProvider"),
    "ort-trt": ("TensorrtExecutionProvider", CUDA_PROVIDER, "CPUExecutionProvider"),
}


class Session:
    """An ONNX Runtime session over a bundle. Thread-safe: `run` may be called from many threads.

    Args:
        path: a bundle's directory, or a `Bundle` that was opened.
        providers: ONNX Runtime execution providers; by default those of the bundle's target.
        provider_options: one mapping per provider.
        session_options: an `onnxruntime.SessionOptions`, used as given.
        threads: threads of one operator; not together with `session_options`.
        trust_bundle: load the op library that the bundle carries instead of the installed one. It is code.
        verify: hash weights above 1 GB too before they are used.
        native: `"auto"` warns where function bodies serve for want of an op library; True makes that an error; False
            uses bodies alone.

    Attributes:
        bundle: the opened bundle, `bundle.manifest` its manifest.
        inputs, outputs: what the graph takes and gives, as tuples of `TensorRole`.
        ort: the raw `onnxruntime.InferenceSession`; where an engine serves, what runs that.
        native: whether the op library serves.

    Raises:
        InputError: the bundle fails verification, or its model is invalid.
        TargetError: ONNX Runtime, a provider, the target's device or (with `native=True`) the op library is missing,
            or too old.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | Bundle,
        providers: Providers | None = None,
        provider_options: Sequence[Mapping[str, Any]] | None = None,
        session_options: onnxruntime.SessionOptions | None = None,
        threads: int | None = None,
        trust_bundle: bool = False,
        verify: bool = False,
        *,
        native: Native = "auto",
    ) -> None:
        bundle = path if isinstance(path, Bundle) else open_bundle(path, verify)
        if verify and not bundle.verified:
            bundle = open_bundle(bundle.path, verify=True)
        manifest = bundle.manifest
        if providers is None:
            require_target(bundle)
            providers = TARGET_PROVIDERS.get(manifest.target, ())
        self.bundle = bundle
        self.inputs: tuple[TensorRole, ...] = tuple(record.tensor_role for record in manifest.inputs)
        self.outputs: tuple[TensorRole, ...] = tuple(record.tensor_role for record in manifest.outputs)
        self._signature = make_signature(manifest)
        self._output_names = [record.name for record in manifest.outputs]
        self._beyond_numpy = any(numpy_dtype(r.dtype) == BFLOAT16 for r in (*manifest.inputs, *manifest.outputs))
        if not providers and manifest.engines:
            self.native = False
            self.ort: Any = open_engine(bundle, trusted=trust_bundle)
            _check_graph(bundle, self.ort)
            return
        library = _choose_library(bundle, native, trust_bundle)
        self.native = library is not None
        self.ort = create_session(
            ModelInput(os.fspath(bundle.model_path), None, bundle.facts, str(bundle.model_path)),
            library,
            warn_bodies=native == "auto",
            providers=providers,
            provider_options=provider_options,
            session_options=session_options,
            threads=threads,
        )
        _check_graph(bundle, self.ort)

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Run the model once.

        Args:
            feeds: by input name, in one of three forms, whatever I/O the bundle was converted with:
                padded arrays [B, S, ...] with `attention_mask` [B, S] -> arrays, zero at padded slots;
                lists of unpadded sequences [n, ...] -> lists of [n, ...] for per-token outputs, arrays [B, ...] else;
                packed arrays [T, ...] with `cu_seqlens` [B+1] (bundles with ragged I/O only) -> arrays [T, ...].
                Integers are converted where they fit. Inputs with a default may be left out.

        Returns:
            Outputs by name. A sequence without tokens gives zeros.

        Raises:
            InputError: a name, dtype, rank, shape or length is wrong; the message says which.
            RaggedRTError: ONNX Runtime failed, for example for want of memory.
        """
        if not isinstance(feeds, Mapping):
            raise InputError(f"feeds are a mapping of input names to arrays or lists, not {type(feeds).__name__}.")
        signature = self._signature
        if signature.ragged and CU_SEQLENS in feeds:
            return self._run_packed(bind_ragged(signature, feeds))
        if any(isinstance(feeds.get(p.name), (list, tuple)) for p in signature.with_role(Role.PER_TOKEN)):
            batch = bind_lists(signature, feeds)
            if signature.ragged:
                return split(signature, self._run_packed(batch), batch.lengths)
            return unpad(signature, self._run_padded(pad(signature, batch)), batch.lengths)
        padded = bind_padded(signature, feeds)
        if not signature.ragged:
            return self._run_padded(padded)
        batch = pack(signature, padded)
        return unpack(signature, self._run_packed(batch), batch.lengths, padded.slots)

    def __repr__(self) -> str:
        return f"Session({str(self.bundle.path)!r}, native={self.native})"

    def _run_padded(self, batch: PaddedFeeds) -> Outputs:
        """Padded graph: outputs [B, S, ...] and [B, ...]."""
        mask = np.ones((batch.rows, batch.slots), bool) if batch.mask is None else batch.mask
        occupied = np.any(mask, axis=1)
        if not occupied.any():
            return blank_padded(self._signature, batch, self._call)
        outputs = self._call(batch.arrays)
        if not occupied.all():
            zero_rows(self._signature, outputs, np.flatnonzero(~occupied))
        return outputs

    def _run_packed(self, batch: PackedFeeds) -> Outputs:
        """Ragged graph: outputs [T, ...] and [B, ...]. Sequences without tokens never reach the graph."""
        occupied = batch.lengths > 0
        if not occupied.any():
            return blank_packed(self._signature, batch, self._call)
        lengths = batch.lengths[occupied]
        offsets = np.zeros(len(lengths) + 1, np.int32)
        np.cumsum(lengths, out=offsets[1:])
        feeds = {**batch.tokens, **batch.rest}
        for port in self._signature.ports.values():
            if port.role is Role.CU_SEQLENS:
                feeds[port.name] = offsets
            elif port.role is Role.MAX_SEQLEN:
                feeds[port.name] = np.zeros(int(lengths.max()), port.dtype)
            elif port.role is Role.PER_SEQUENCE and len(lengths) < len(occupied):
                feeds[port.name] = feeds[port.name][occupied]
        outputs = self._call(feeds)
        if len(lengths) < len(occupied):
            for name, role in self._signature.roles.items():
                if role is Role.PER_SEQUENCE:
                    whole = np.zeros((len(occupied), *outputs[name].shape[1:]), outputs[name].dtype)
                    whole[occupied] = outputs[name]
                    outputs[name] = whole
        return outputs

    def _call(self, arrays: dict[str, Array]) -> Outputs:
        with translated("the model failed", RUN_ERRORS, ""):
            if self._beyond_numpy:
                values = run_with_values(self.ort, self._output_names, arrays)
            else:
                values = self.ort.run(self._output_names, arrays)
        return dict(zip(self._output_names, values, strict=True))


def require_target(bundle: Bundle) -> None:
    """Check that the bundle's target can be served on this machine.

    Raises:
        TargetError: no session serves the target, or its device is missing.
    """
    target = bundle.manifest.target
    if bundle.manifest.engines:
        engine = bundle.manifest.engines[0]
        require_runnable(engine, str(bundle.path / engine.file))
        return
    if target not in TARGET_PROVIDERS:
        raise TargetError(f"{bundle.path} was built for {target!r}, which no Session serves yet.")
    if CUDA_PROVIDER in TARGET_PROVIDERS[target]:
        require_cuda_device(f"{bundle.path} (target {target})")


def _choose_library(bundle: Bundle, native: Native, trust_bundle: bool) -> pathlib.Path | None:
    if trust_bundle and bundle.libraries and native is not False:
        return bundle.libraries[0]
    return find_library(native)


def _check_graph(bundle: Bundle, session: onnxruntime.InferenceSession | EngineRunner) -> None:
    manifest = bundle.manifest
    for what, records, values in (
        ("inputs", manifest.inputs, session.get_inputs()),
        ("outputs", manifest.outputs, session.get_outputs()),
    ):
        listed, real = {record.name for record in records}, {value.name for value in values}
        if listed != real:
            raise InputError(
                f"the manifest of {bundle.path} lists {what} {sorted(listed)}, and its model has {sorted(real)}; "
                "convert the model again."
            )
