"""Facts about the rewritten graph for reports and manifests: attention entries, roles of inputs and outputs, limits."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import onnx_ir as ir

from raggedrt.graph_passes.axes.analysis import AxisAnalysis
from raggedrt.graph_passes.axes.atoms import Kind, count, has
from raggedrt.graph_passes.lowering import SiteMask
from raggedrt.graph_passes.masks.inputs import GraphInputs
from raggedrt.graph_passes.masks.spec import MaskSpec
from raggedrt.graph_passes.packing.io import CU_SEQLENS, MAX_SEQLEN
from raggedrt.graph_passes.packing.tape import TOKENS
from raggedrt.graph_passes.report import AttentionEntry, RewriteReport
from raggedrt.graph_passes.sites.by_shape import row_length
from raggedrt.graph_passes.sites.find import Understanding
from raggedrt.plugins.contract.io_roles import Role, TensorRole

DEFAULT_LENGTH = 4096
"""Length in tokens that densities are reported at where nothing else is known."""


def attention_entries(
    understanding: Understanding,
    masks: Mapping[ir.Value, SiteMask],
    report: RewriteReport,
    lowered: Collection[ir.Node],
    config_length: int | None,
) -> list[AttentionEntry]:
    """One entry per attention site found, in graph order (unknown ones last); `lowered` are anchors of sites."""
    chosen = understanding.analysis.inputs.sequence or config_length
    refused = _refused_sites(report)
    stopped = next((refusal for refusal in report.record("pack").refused), None)
    general = (
        "removing padding was not asked for"
        if stopped is None
        else f"packing stopped at {stopped.node}: {stopped.reason}"
    )
    entries = []
    for site in understanding.sites:
        mask = masks[site.output]
        rows = None if site.unpackable is None else row_length(site, understanding.analysis)
        length = rows or chosen or max(DEFAULT_LENGTH, 0 if mask.spec is None else 8 * mask.spec.largest_constant)
        dtype = site.query.value.dtype
        entry = AttentionEntry(
            node=site.name,
            form=site.form,
            mask=None if mask.spec is None else mask.spec.describe(),
            bias=_bias_text(mask, lowered=site.anchor in lowered),
            heads=site.num_heads,
            kv_heads=site.kv_num_heads,
            head_size=site.head_size,
            value_head_size=site.value_head_size,
            dtype=None if dtype is None else str(dtype.numpy()),
            density=None if mask.spec is None else mask.spec.density(length),
            density_at=None if mask.spec is None else length,
            op="RaggedAttention" if site.anchor in lowered else None,
            reason=None
            if site.anchor in lowered
            else (mask.kept or refused.get(site.name) or mask.reason or "; ".join(site.unsupported) or general),
            proved=None if mask.spec is None else mask.proved,
            mask_spec=None if mask.spec is None else mask.spec.to_json(),
            sparsity=None if mask.imposed is None else imposed_text(mask.imposed),
            original_density=None if mask.original is None else mask.original.density(length),
            original_mask_spec=None if mask.original is None else mask.original.to_json(),
        )
        entries.append(entry)
    entries += [
        AttentionEntry(site.name, site.form, op="RaggedAttention")
        if site.anchor in lowered
        else AttentionEntry(site.name, site.form, reason=f"not a known form: {site.reason}")
        for site in understanding.unknown_sites
    ]
    return entries


def _bias_text(mask: SiteMask, *, lowered: bool) -> str | None:
    if mask.spec is None and lowered:
        return "its mask, as the graph computes it"
    return "; ".join(found.bias.describe() for found in mask.biases) or None


def _refused_sites(report: RewriteReport) -> dict[str, str]:
    """By node; what lowers attention by itself comes last and knows best."""
    records = [record for record in report.passes if record.name in ("pack", "sparse")]
    return {refusal.node: refusal.reason for record in records for refusal in record.refused}


def imposed_text(spec: MaskSpec) -> str:
    """An imposed spec as it is written on the command line."""
    return f"{spec} of={spec.of}"


def io_roles(
    graph: ir.Graph, analysis: AxisAnalysis, original_outputs: Sequence[ir.Value], *, ragged: bool
) -> tuple[tuple[TensorRole, ...], tuple[TensorRole, ...]]:
    """Roles of the graph's inputs and outputs, as a session needs them.

    Args:
        graph: the rewritten graph.
        analysis: of the graph before packing.
        original_outputs: the graph's outputs before packing, in order; their axes say what the new ones are.
        ragged: per-token tensors are packed.
    """
    special = {CU_SEQLENS: Role.CU_SEQLENS, MAX_SEQLEN: Role.MAX_SEQLEN} if ragged else {}
    if not ragged and analysis.inputs.attention_mask is not None:
        special[analysis.inputs.attention_mask] = Role.ATTENTION_MASK
    inputs = tuple(
        _tensor_role(value, special.get(value.name or "") or _role(value, value, analysis)) for value in graph.inputs
    )
    outputs = tuple(
        _tensor_role(value, _role(value, original, analysis))
        for value, original in zip(graph.outputs, original_outputs, strict=True)
    )
    return inputs, outputs


def _tensor_role(value: ir.Value, role: Role) -> TensorRole:
    dims = [] if value.shape is None else list(value.shape)
    shape = tuple(dim if isinstance(dim, int) else (dim.value or "?") for dim in dims)
    dtype = "float32" if value.dtype is None else str(value.dtype.numpy())
    return TensorRole(value.name or "", role, dtype, shape)


def _role(value: ir.Value, original: ir.Value, analysis: AxisAnalysis) -> Role:
    if value.shape is not None and list(value.shape)[:1] == [ir.SymbolicDim(TOKENS)]:
        return Role.PER_TOKEN  # packed, whatever the axis order was
    axes = analysis.axes_of(original)
    if axes is None:
        return _role_from_dims(value, analysis.inputs)
    if has(axes, Kind.TOKEN):
        leads = has(axes[:1], Kind.BATCH) and has(axes[1:2], Kind.TOKEN)
        return Role.PER_TOKEN if leads and count(axes, Kind.TOKEN) == 1 else Role.OTHER
    return Role.PER_SEQUENCE if has(axes[:1], Kind.BATCH) else Role.OTHER


def _role_from_dims(value: ir.Value, names: GraphInputs) -> Role:
    """For a value that the analysis does not understand: dimension names are all there is."""
    dims = [] if value.shape is None else [dim if isinstance(dim, int) else dim.value for dim in value.shape]
    if not dims or dims[0] not in names.batch_symbols | {"batch"}:
        return Role.OTHER
    slots = [number for number, dim in enumerate(dims) if dim in names.sequence_symbols | {"sequence"}]
    return Role.PER_SEQUENCE if not slots else Role.PER_TOKEN if slots == [1] else Role.OTHER


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
