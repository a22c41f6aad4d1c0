"""`Session`: run a bundle on padded arrays, on lists of sequences or on packed tokens."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from raggedrt.errors import InputError
from raggedrt.plugins.bundle.reader import Bundle, open_bundle
from raggedrt.plugins.contract.io_roles import Role, TensorRole
from raggedrt.plugins.runtime.buckets import bucket_of, check_capacity, filled_rows, filled_up
from raggedrt.plugins.runtime.calls import Caller, Place, place_of
from raggedrt.plugins.runtime.device_tensors import DeviceTensor, is_tensor, take
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
from raggedrt.plugins.runtime.ort import CUDA_PROVIDER, Native, Providers
from raggedrt.plugins.runtime.ort_values import BFLOAT16
from raggedrt.plugins.runtime.served import served
from raggedrt.plugins.runtime.signature import make_signature, numpy_dtype
from raggedrt.plugins.runtime.targets import (
    TARGET_PROVIDERS,
    captures_graphs,
    configured_providers,
    require_target,
)
from raggedrt.plugins.tensorrt.runner import EngineRunner, open_engine

if TYPE_CHECKING:
    import onnxruntime

HOST_ROLES = (Role.ATTENTION_MASK, Role.CU_SEQLENS, Role.MAX_SEQLEN)
"""Inputs that say where tokens are."""
EMPTY_ON_DEVICE = "a sequence has no token; leave it out, or take the outputs on the host, where it gives zeros."


class Session:
    """An ONNX Runtime session over a bundle. Thread-safe: `run` may be called from many threads.

    Args:
        path: a bundle's directory, or a `Bundle` that was opened.
        providers: ONNX Runtime execution providers; by default those of the bundle's target. A bundle for TensorRT for
            RTX runs its ONNX file on `["NvTensorRTRTXExecutionProvider"]` where that package is installed.
        provider_options: one mapping per provider.
        session_options: an `onnxruntime.SessionOptions`, used as given.
        threads: threads of one operator; not together with `session_options`.
        trust_bundle: load libraries and engines that the bundle carries instead of what is installed. They are code.
        verify: hash weights above 1 GB too before they are used.
        capacity: with ragged I/O: fill batches up to a multiple of this many tokens, so that few shapes occur. It lets
            `provider_options=[{"enable_cuda_graph": True}, {}]` replay CUDA graphs.
        stream: handle of a CUDA stream (`torch.cuda.Stream().cuda_stream`) to enqueue on; with outputs left on the
            device nothing is then waited for. Without it a session has streams of its own, and `run` waits.
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
        capacity: int | None = None,
        stream: int | None = None,
    ) -> None:
        bundle = path if isinstance(path, Bundle) else open_bundle(path, verify)
        if verify and not bundle.verified:
            bundle = open_bundle(bundle.path, verify=True)
        manifest = bundle.manifest
        if providers is None:
            require_target(bundle)
            if manifest.target in TARGET_PROVIDERS:
                providers, provider_options = configured_providers(manifest.target, provider_options, stream), None
            else:
                providers = ()
        self.bundle = bundle
        self.inputs: tuple[TensorRole, ...] = tuple(record.tensor_role for record in manifest.inputs)
        self.outputs: tuple[TensorRole, ...] = tuple(record.tensor_role for record in manifest.outputs)
        self._signature = make_signature(manifest)
        self._output_names = [record.name for record in manifest.outputs]
        if stream == 0:
            raise InputError("stream is 0, the default stream, which has no handle; make one: torch.cuda.Stream().")
        self._capacity, self._stream = capacity, stream
        self._beyond_numpy = any(numpy_dtype(r.dtype) == BFLOAT16 for r in (*manifest.inputs, *manifest.outputs))
        if capacity is not None:
            check_capacity(capacity, manifest.position_limit)
        fixed = captures_graphs([*providers, *(("", o) for o in provider_options or ())])
        _check_fixed_shapes(bundle, fixed=fixed, capacity=capacity)
        if not providers and manifest.engines:
            self.native = False
            self.ort: Any = open_engine(bundle, trusted=trust_bundle)
            self._call = Caller(self.ort, self._output_names, Place(), beyond_numpy=False)  # it takes them itself
            _check_graph(bundle, self.ort)
            return
        chosen = served(bundle, providers, provider_options, native, trusted=trust_bundle)
        self.native = chosen.library is not None
        self.ort = chosen.open(session_options, threads, warn_bodies=native == "auto")
        _check_graph(bundle, self.ort)
        ordinal = int(self.ort.get_provider_options().get(CUDA_PROVIDER, {}).get("device_id", 0))
        self._call = Caller(
            self.ort,
            self._output_names,
            place_of(self.ort, ordinal, stream),
            beyond_numpy=self._beyond_numpy,
            fixed=fixed,
            guard=chosen.guard,
        )

    def run(self, feeds: Mapping[str, Any], *, on_device: bool = False) -> dict[str, Any]:
        """Run the model once.

        Args:
            feeds: by input name, in one of three forms, whatever I/O the bundle was converted with:
                padded arrays [B, S, ...] with `attention_mask` [B, S] -> arrays, zero at padded slots;
                lists of unpadded sequences [n, ...] -> lists of [n, ...] for per-token outputs, arrays [B, ...] else;
                packed arrays [T, ...] with `cu_seqlens` [B+1] (bundles with ragged I/O only) -> arrays [T, ...].
                Integers are converted where they fit. Inputs with a default may be left out.
                Padded and packed arrays may be tensors of a CUDA device (`torch.Tensor`, or what has `__dlpack__`),
                which are read where they are; the mask and `cu_seqlens` are needed on the host too, so give them there.
            on_device: leave outputs where the model computes them, as `DeviceTensor`s (`torch.from_dlpack` takes them);
                with padded and packed arrays, each sequence with a token. With `capacity` they have the bucket's size:
                rows past the last token and sequences past the last one mean nothing; and with `enable_cuda_graph` the
                next call of the same shapes writes them again.

        Returns:
            Outputs by name. A sequence without tokens gives zeros.

        Raises:
            InputError: a name, dtype, rank, shape or length is wrong; the message says which.
            RaggedRTError: ONNX Runtime failed, for example for want of memory.
        """
        if not isinstance(feeds, Mapping):
            raise InputError(f"feeds are a mapping of input names to arrays or lists, not {type(feeds).__name__}.")
        signature = self._signature
        feeds = {name: self._taken(name, value) for name, value in feeds.items()}
        if signature.ragged and CU_SEQLENS in feeds:
            filled = self._capacity is not None and any(isinstance(value, DeviceTensor) for value in feeds.values())
            return self._run_packed(bind_ragged(signature, feeds, filled=filled), on_device=on_device)
        lists = any(isinstance(feeds.get(p.name), (list, tuple)) for p in signature.with_role(Role.PER_TOKEN))
        if on_device and (lists or signature.ragged):
            raise InputError(
                "on_device needs outputs in the model's own layout: give "
                + ("packed arrays with cu_seqlens." if signature.ragged else "padded arrays.")
            )
        if lists:
            batch = bind_lists(signature, feeds)
            if signature.ragged:
                return split(signature, self._run_packed(batch), batch.lengths)
            return unpad(signature, self._run_padded(pad(signature, batch)), batch.lengths)
        padded = bind_padded(signature, feeds)
        if not signature.ragged:
            return self._run_padded(padded, on_device=on_device)
        if any(isinstance(array, DeviceTensor) for array in padded.arrays.values()):
            raise InputError("this bundle takes packed tokens; tensors of a device are given packed, with cu_seqlens.")
        batch = pack(signature, padded)
        return unpack(signature, self._run_packed(batch), batch.lengths, padded.slots)

    def __repr__(self) -> str:
        return f"Session({str(self.bundle.path)!r}, native={self.native})"

    def bucket_tokens(self, lengths: Sequence[int]) -> int:
        """Tokens of the bucket of a batch, to which packed tensors of a device have to be filled up.

        Raises:
            InputError: the session has no `capacity`.
        """
        if self._capacity is None:
            raise InputError("the session has no buckets; open it with capacity.")
        occupied = np.array([length for length in lengths if length > 0], np.int64)
        bucket = bucket_of(occupied, self._capacity, self._signature.position_limit)
        return int(occupied.sum() + bucket.filler.sum())

    def _taken(self, name: str, value: Any) -> Any:
        """Tensors of a device as such; those that say where tokens are, on the host."""
        if not is_tensor(value):
            return value
        tensor = take(name, value, self._stream)
        port = self._signature.ports.get(name)
        on_host = name == self._signature.mask_name or (port is not None and port.role in HOST_ROLES)
        return tensor.numpy() if on_host else tensor

    def _run_padded(self, batch: PaddedFeeds, *, on_device: bool = False) -> Outputs:
        """Padded graph: outputs [B, S, ...] and [B, ...]."""
        mask = np.ones((batch.rows, batch.slots), bool) if batch.mask is None else batch.mask
        occupied = np.any(mask, axis=1)
        if on_device and not occupied.all():
            raise InputError(EMPTY_ON_DEVICE)
        if not occupied.any():
            return blank_padded(self._signature, batch, self._call)
        outputs = self._call(batch.arrays, on_device=on_device)
        if not occupied.all():
            zero_rows(self._signature, outputs, np.flatnonzero(~occupied))
        return outputs

    def _run_packed(self, batch: PackedFeeds, *, on_device: bool = False) -> Outputs:
        """Ragged graph: outputs [T, ...] and [B, ...]. Sequences without tokens never reach the graph."""
        occupied = batch.lengths > 0
        if on_device and not occupied.all():
            raise InputError(EMPTY_ON_DEVICE)
        if not occupied.any():
            return blank_packed(self._signature, batch, self._call)
        outputs = self._call(self._graph_feeds(batch, occupied), on_device=on_device)
        return outputs if on_device else self._without_filler(outputs, batch.lengths, occupied)

    def _graph_feeds(self, batch: PackedFeeds, occupied: Array) -> dict[str, Any]:
        """What the ragged graph takes: sequences that have tokens, and with `capacity` those that fill the bucket."""
        lengths = batch.lengths[occupied]
        longest, filler = int(lengths.max()), np.zeros(0, np.int64)
        if self._capacity is not None:
            bucket = bucket_of(lengths, self._capacity, self._signature.position_limit)
            longest, filler = bucket.longest, bucket.filler
        offsets = np.zeros(len(lengths) + len(filler) + 1, np.int32)
        np.cumsum([*lengths, *filler], out=offsets[1:])
        feeds: dict[str, Any] = dict(batch.rest)
        for port in self._signature.ports.values():
            if port.role is Role.CU_SEQLENS:
                feeds[port.name] = offsets
            elif port.role is Role.MAX_SEQLEN:
                feeds[port.name] = np.zeros(longest, port.dtype)
            elif port.role is Role.PER_TOKEN:
                feeds[port.name] = filled_up(port, batch.tokens[port.name], int(offsets[-1]))
            elif port.role is Role.PER_SEQUENCE:
                feeds[port.name] = filled_rows(port, batch.rest[port.name], occupied, len(filler))
        return feeds

    def _without_filler(self, outputs: Outputs, lengths: Array, occupied: Array) -> Outputs:
        """Outputs of the batch's own tokens and sequences; zeros where a sequence has no token."""
        tokens, rows = int(lengths.sum()), int(occupied.sum())
        for name, role in self._signature.roles.items():
            if role is Role.PER_TOKEN:
                outputs[name] = outputs[name][:tokens]
            elif role is Role.PER_SEQUENCE:
                outputs[name] = outputs[name][:rows]
                if rows < len(occupied):
                    whole = np.zeros((len(occupied), *outputs[name].shape[1:]), outputs[name].dtype)
                    whole[occupied] = outputs[name]
                    outputs[name] = whole
        return outputs


def _check_fixed_shapes(bundle: Bundle, *, fixed: bool, capacity: int | None) -> None:
    """CUDA graphs need few shapes, and only packed tokens can be brought to few."""
    if bundle.manifest.io != "ragged" and (fixed or capacity is not None):
        raise InputError(
            f"{bundle.path} has padded inputs, whose token count differs from call to call; capacity and "
            "enable_cuda_graph need a bundle that was converted with --io ragged."
        )
    if fixed and capacity is None:
        raise InputError("enable_cuda_graph needs few shapes: give capacity, for example Session(..., capacity=1024).")


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
