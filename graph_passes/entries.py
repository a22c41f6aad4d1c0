"""Facts about the rewritten graph for reports and manifests: attention entries, roles of inputs and outputs, limits."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from raggedrt.graph_passes.axes.analysis import AxisAnalysis
from raggedrt.graph_passes.axes.atoms import Kind, has
from raggedrt.graph_passes.lowering import SiteMask
from raggedrt.graph_passes.packing.io import CU_SEQLENS, MAX_SEQLEN
from raggedrt.graph_passes.report import AttentionEntry, RewriteReport
from raggedrt.graph_passes.sites.find import Understanding
from raggedrt.plugins.contract.io_roles import Role, TensorRole

DEFAULT_LENGTH = 4096
"""Length in tokens that densities are reported at where nothing else is known."""


def attention_entries(
    understanding: Understanding,
    masks: Mapping[ir.Value, SiteMask],
    report: RewriteReport,
    *,
    packed: bool,
    config_length: int | None,
) -> list[AttentionEntry]:
    """One entry per attention site found, in graph order (unknown ones last)."""
    length = understanding.analysis.inputs.sequence or config_length or DEFAULT_LENGTH
    stopped = next((refusal for refusal in report.record("pack").refused), None)
    general = (
        "removing padding was not asked for"
        if stopped is None
        else f"packing stopped at {stopped.node}: {stopped.reason}"
    )
    entries = []
    for site in understanding.sites:
        mask = masks[site.output]
        dtype = site.query.value.dtype
        entry = AttentionEntry(
            node=site.name,
            form=site.form,
            mask=None if mask.spec is None else mask.spec.describe(),
            heads=site.num_heads,
            kv_heads=site.kv_num_heads,
            head_size=site.head_size,
            dtype=None if dtype is None else str(dtype.numpy()),
            density=None if mask.spec is None else mask.spec.density(length),
            density_at=None if mask.spec is None else length,
            op="RaggedAttention" if packed else None,
            reason=None if packed else (mask.reason or "; ".join(site.unsupported) or general),
            proved=None if mask.spec is None else mask.proved,
        )
        entries.append(entry)
    entries += [
        AttentionEntry(node=site.name, form=site.form, reason=f"not a known form: {site.reason}")
        for site in understanding.unknown_sites
    ]
    return entries


def io_roles(
    graph: ir.Graph, analysis: AxisAnalysis, *, ragged: bool
) -> tuple[tuple[TensorRole, ...], tuple[TensorRole, ...]]:
    """Roles of the graph's inputs and outputs, as a session needs them."""
    special = {CU_SEQLENS: Role.CU_SEQLENS, MAX_SEQLEN: Role.MAX_SEQLEN} if ragged else {}
    if not ragged and analysis.inputs.attention_mask is not None:
        special[analysis.inputs.attention_mask] = Role.ATTENTION_MASK
    return (
        tuple(_role(value, special.get(value.name or ""), analysis) for value in graph.inputs),
        tuple(_role(value, None, analysis) for value in graph.outputs),
    )


def _role(value: ir.Value, role: Role | None, analysis: AxisAnalysis) -> TensorRole:
    dims = [] if value.shape is None else list(value.shape)
    shape = tuple(dim if isinstance(dim, int) else (dim.value or "?") for dim in dims)
    if role is None:
        role = _role_from_dims(value, shape, analysis)
    dtype = "float32" if value.dtype is None else str(value.dtype.numpy())
    return TensorRole(value.name or "", role, dtype, shape)


def _role_from_dims(value: ir.Value, shape: tuple[int | str, ...], analysis: AxisAnalysis) -> Role:
    if shape[:1] == ("tokens",):
        return Role.PER_TOKEN
    axes = analysis.axes.get(value)
    if axes is None:
        names = analysis.inputs
        if (
            len(shape) >= 2
            and shape[0] in names.batch_symbols | {"batch"}
            and shape[1] in names.sequence_symbols | {"sequence"}
        ):
            return Role.PER_TOKEN
        return Role.PER_SEQUENCE if shape and shape[0] in names.batch_symbols | {"batch"} else Role.OTHER
    if has(axes[:1], Kind.BATCH) and has(axes[1:2], Kind.TOKEN):
        return Role.PER_TOKEN
    return Role.PER_SEQUENCE if has(axes[:1], Kind.BATCH) and not has(axes, Kind.TOKEN) else Role.OTHER


def position_limit(understanding: Understanding) -> int | None:
    """The longest sequence that position tables in the graph allow: constants cut to the sequence length."""
    limits = []
    for value, axes in understanding.analysis.axes.items():
        node = value.producer()
        source = None if node is None or node.op_type != "Slice" else node.inputs[0]
        if source is None or source.const_value is None or axes is None or source.shape is None:
            continue
        limits += [
            dim
            for dim, axis in zip(source.shape, axes, strict=False)
            if isinstance(dim, int) and has((axis,), Kind.TOKEN) and dim > 1
        ]
    return min(limits, default=None)
