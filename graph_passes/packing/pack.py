"""Build the packed graph: from the outputs back, everything behind attention moves to packed tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from raggedrt.graph_passes.axes.atoms import Kind, has
from raggedrt.graph_passes.axes.rule import PackingRefused, describe_node
from raggedrt.graph_passes.axes.rules import rule_for
from raggedrt.graph_passes.biases import SiteBias
from raggedrt.graph_passes.lowering import lower_site
from raggedrt.graph_passes.masks.pairs import OWN
from raggedrt.graph_passes.masks.spec import MaskSpec
from raggedrt.graph_passes.packing.io import RaggedInputs, make_ragged_inputs, ragged_output
from raggedrt.graph_passes.packing.kept import checked
from raggedrt.graph_passes.packing.plan import KeptSlots, PlanValues
from raggedrt.graph_passes.packing.readers import find_slot_read, prefix_sum, read_slot
from raggedrt.graph_passes.packing.region import PackedRegion
from raggedrt.graph_passes.packing.tape import Tape
from raggedrt.graph_passes.sites.find import Understanding
from raggedrt.graph_passes.sites.site import AttentionSite

NO_MASK_INPUT = "attention_mask"
NO_MASK_REASON = (
    "the graph has no attention_mask input [batch, sequence], so it has no padding to remove (if its mask has another "
    "name than attention_mask, input_mask or mask, say which with --mask-input)"
)


@dataclasses.dataclass
class PackingJob:
    """What is to be packed: the graph, what is understood of it, and the mask of every site that can be lowered."""

    graph: ir.Graph
    understanding: Understanding
    masks: Mapping[ir.Value, MaskSpec]
    """By the site's output."""
    biases: Mapping[ir.Value, Sequence[SiteBias]]
    """By the site's output."""
    refused: Mapping[ir.Value, tuple[AttentionSite, str]]
    """Sites that cannot be lowered, by output, with the reason."""
    ragged: bool
    key_lengths: Mapping[ir.Value, ir.Value | None] = dataclasses.field(default_factory=dict)
    """By the site's output: int [B] where its mask counts the tokens of a row."""


def pack(job: PackingJob) -> int:
    """Pack the graph in place; returns how many sites were lowered.

    Raises:
        PackingRefused: Something behind attention mixes tokens or reads padded slots; the graph is unchanged.
    """
    mask_name = job.understanding.analysis.inputs.attention_mask
    mask = next((value for value in job.graph.inputs if value.name == mask_name), None)
    if mask is None:
        raise PackingRefused(NO_MASK_INPUT, NO_MASK_REASON)
    tape = Tape(job.graph)
    try:
        builder = _Builder(job, tape, mask)
        outputs = [builder.output(value) for value in job.graph.outputs]
    except PackingRefused:
        tape.drop()
        raise
    tape.join()
    builder.replace_inputs()
    _replace_outputs(job.graph, outputs, keep_shapes=not job.ragged)
    job.graph.sort()
    common_passes.RemoveUnusedNodesPass()(ir.Model(job.graph, ir_version=10))
    return builder.lowered


class _Builder:
    def __init__(self, job: PackingJob, tape: Tape, mask: ir.Value) -> None:
        self.job = job
        self.analysis = job.understanding.analysis
        self.sites = {site.output: site for site in job.understanding.sites}
        self.cache = {
            present: source
            for site in job.understanding.sites
            if site.output in job.masks
            for present, source in site.cache.items()
        }
        self.lowered = 0
        self.inputs: RaggedInputs | None = (
            make_ragged_inputs(job.graph, self.analysis, tape, mask) if job.ragged else None
        )
        behind_inputs = set() if self.inputs is None else set(self.inputs.tokens)
        self.behind = self._behind_attention(behind_inputs)
        self.needed = self._needed_nodes()
        if not any(output in self.needed_values for output in job.masks):
            self._refuse_control_flow()
            raise PackingRefused("attention", "no attention site that an output depends on can be lowered")
        plan_mask = mask if self.inputs is None else self.inputs.mask
        cu_seqlens = None if self.inputs is None else self.inputs.cu_seqlens
        max_seqlen = None if self.inputs is None else self.inputs.max_seqlen
        kept = KeptSlots()
        if not job.ragged:
            kept = checked(self._kept_slots(), self._served_sites(), self.analysis.inputs)
        plan = PlanValues(tape, plan_mask, max_seqlen, cu_seqlens, kept)
        self.region = PackedRegion(tape, self.analysis, plan, self.behind)
        if self.inputs is not None:
            self.region.packed_forms.update(self.inputs.tokens)
        for node in self.needed:
            self._convert(node)

    # --- what has to be built -------------------------------------------------------------------------------------

    def _behind_attention(self, start: set[ir.Value]) -> set[ir.Value]:
        behind = start | set(self.job.masks) | set(self.cache)
        for node in self.job.graph:
            if any(value in behind for value in node.inputs):
                behind.update(node.outputs)
        return behind

    def _operands(self, value: ir.Value) -> list[ir.Value]:
        """What a value is built from: a site's operands, or its producer's inputs."""
        if value in self.cache:
            return [self.cache[value]]
        site = self.sites.get(value)
        if site is not None and value in self.job.masks:
            return [site.query.value, site.key.value, site.value.value]
        node = value.producer()
        return [] if node is None else [operand for operand in node.inputs if operand is not None]

    def _needed_nodes(self) -> list[ir.Node]:
        todo, needed = [value for value in self.job.graph.outputs if value in self.behind], set()
        while todo:
            value = todo.pop()
            if value in needed:
                continue
            needed.add(value)
            if value in self.job.refused:
                site, reason = self.job.refused[value]
                raise PackingRefused(site.name, reason)
            todo += [operand for operand in self._operands(value) if operand in self.behind]
        self.needed_values = needed
        return [node for node in self.job.graph if any(output in needed for output in node.outputs)]

    def _refuse_control_flow(self) -> None:
        """Name the If or Loop whose subgraphs read what attention gives; its inputs do not show them."""
        for node in self.job.graph:
            graphs = [a.as_graph() for a in node.attributes.values() if a.type is ir.AttributeType.GRAPH]
            inner = (value for graph in graphs for one in graph.all_nodes() for value in one.inputs)
            if any(value in self.behind for value in inner):
                raise PackingRefused(
                    node,
                    f"control flow ({node.op_type}) that depends on data reads packed values; compute both branches "
                    "and choose with Where, or export the branch that is taken",
                )

    def _kept_slots(self) -> KeptSlots:
        numbers: set[int] = set()
        chosen: list[ir.Value] = []
        for node in self.needed:
            if not node.inputs or node.inputs[0] not in self.behind or node.outputs[0] in self.job.masks:
                continue
            read = find_slot_read(node, self.analysis)
            if read is None:
                continue
            if isinstance(read.slot, int):
                numbers.add(read.slot)
            elif read.slot in self.behind:
                raise PackingRefused(node, "it reads a slot that is computed from packed values")
            else:
                chosen.append(read.slot)
        return KeptSlots(frozenset(numbers), tuple(dict.fromkeys(chosen)), self._key_lengths())

    def _key_lengths(self) -> ir.Value | None:
        """The lengths that every site's mask counts keys by, or None where none does."""
        used = {output: self.job.key_lengths.get(output) for output in self.job.masks if output in self.needed_values}
        found = next((lengths for lengths in used.values() if lengths is not None), None)
        for output, lengths in used.items():
            if lengths is not found:
                reason = "its mask looks where tokens stand, and another site's counts them from the row's start"
                raise PackingRefused(self.sites[output].name, reason)
            if lengths is not None and self.job.masks[output].of == OWN:
                reason = "its mask counts a row's own tokens, and key lengths do not say which slots those are"
                raise PackingRefused(self.sites[output].name, reason)
        return found

    def _served_sites(self) -> list[tuple[AttentionSite, MaskSpec]]:
        """Sites that are lowered and whose queries without a visible key are left to chance, with their masks."""
        pairs = [(self.sites[output], spec) for output, spec in self.job.masks.items()]
        return [(site, spec) for site, spec in pairs if not site.zero_where_unattended]

    # --- building -------------------------------------------------------------------------------------------------

    def _convert(self, node: ir.Node) -> None:
        output = node.outputs[0]
        if output in self.job.masks:
            for present in node.outputs:
                if present in self.cache and present in self.needed_values:
                    self.region.packed_forms[present] = self.region.packed(self.cache[present])
            if output not in self.needed_values:
                return
            self.region.packed_forms[output] = lower_site(
                self.sites[output], self.job.masks[output], self.job.biases.get(output, ()), self.region
            )
            self.lowered += 1
            return
        if has(self.analysis.axes_of(output), Kind.TOKEN):
            self._convert_tokens(node)
            return
        read = find_slot_read(node, self.analysis)
        if read is not None:
            self.region.exact_forms[output] = read_slot(node, read, self.region)
        else:
            self._convert_exactly(node)

    def _convert_tokens(self, node: ir.Node) -> None:
        rule = rule_for(node)
        try:
            if rule is None:
                raise PackingRefused(node, f"{node.op_type} has no transfer rule")
            forms = rule.pack(node, self.region)
        except PackingRefused as refusal:
            if self.job.ragged and prefix_sum(node, self.region):
                return
            try:
                self._convert_exactly(node)
            except PackingRefused:
                raise refusal from None
            return
        self.region.packed_forms.update(zip(node.outputs, forms, strict=False))

    def _convert_exactly(self, node: ir.Node) -> None:
        """Run the original op on operands whose padded slots are known to be the original's."""
        operands = [None if value is None else self.region.exact(value, node) for value in node.inputs]
        new = self.region.tape.copy(node, operands, {})
        for old, output in zip(node.outputs, new.outputs, strict=True):
            output.shape = old.shape
            self.region.exact_forms[old] = output

    def output(self, value: ir.Value) -> ir.Value:
        """The new value of a graph output."""
        region = self.region
        if value in region.exact_forms:
            return region.exact_forms[value]
        axes = self.analysis.axes_of(value)
        if self.job.ragged and has(axes, Kind.TOKEN) and axes is not None:
            return ragged_output(region, value, axes)
        if value not in self.behind:
            return value
        if value not in region.packed_forms or axes is None:
            producer = value.producer()
            name = f"'{value.name}'" if producer is None else describe_node(producer)
            raise PackingRefused(name, f"the output '{value.name}' could not be packed")
        return region.padded(value, axes, value.producer() or f"'{value.name}'")

    def replace_inputs(self) -> None:
        """With ragged I/O, give the graph its new inputs."""
        if self.inputs is not None:
            self.inputs.install(self.job.graph)


def _replace_outputs(graph: ir.Graph, new: list[ir.Value], *, keep_shapes: bool) -> None:
    """Outputs keep their names, and with padded I/O the dimensions that the original states."""
    for number, value in enumerate(new):
        old = graph.outputs[number]
        if value is old:
            continue
        name = old.name
        old.name = f"{name}_before_packing"
        if value.is_graph_output() or value.producer() is None:
            copy = ir.Node("", "Identity", [value], num_outputs=1, name=f"{name}_copy")
            copy.outputs[0].type, copy.outputs[0].shape = value.type, value.shape
            graph.append(copy)
            value = copy.outputs[0]
        value.name = name
        value.type = value.type or old.type
        if keep_shapes and old.shape is not None and all(_named(dim) for dim in old.shape):
            value.shape = old.shape
        graph.outputs[number] = value


def _named(dim: int | ir.SymbolicDim) -> bool:
    return isinstance(dim, int) or dim.value is not None
