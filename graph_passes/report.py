"""What a rewrite found, did and refused: returned to callers, written as report.json."""

from __future__ import annotations

import dataclasses
from typing import Any

from raggedrt.plugins.contract.io_roles import TensorRole


@dataclasses.dataclass(frozen=True)
class Refusal:
    """A node that something could not be done for, and why."""

    node: str
    reason: str


@dataclasses.dataclass
class PassRecord:
    """How often a pass matched, and what it refused."""

    name: str
    matched: int = 0
    refused: list[Refusal] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class AttentionEntry:
    """One attention site found, lowered or not.

    Attributes:
        node: the anchor node.
        form: the spelling it was found in.
        mask: the mask in words; None where it is not understood.
        mask_spec: the mask as data (`MaskSpec.to_json`); None where it is not understood.
        bias: the bias in words; None where there is none.
        heads: query heads; `kv_heads`: key/value heads (None where not known).
        head_size: of query and key; `value_head_size`: of the value.
        dtype: element type of the query, a numpy name.
        density: kept share of the query-key pairs without padding; None where the mask is not understood.
        density_at: the length in tokens that the density is for.
        op: the op it was lowered to; None where it was left alone.
        reason: why it was left alone; None where it was lowered.
        proved: the mask was read symbolically, not only tested.
        sparsity: the mask that was imposed on the site's own, as a short spec; `mask` and `density` include it.
        original_density: density of the site's own mask where one was imposed; `original_mask_spec`: that mask as data.
    """

    node: str
    form: str
    mask: str | None = None
    bias: str | None = None
    heads: int | None = None
    kv_heads: int | None = None
    head_size: int | None = None
    dtype: str | None = None
    density: float | None = None
    density_at: int | None = None
    op: str | None = None
    reason: str | None = None
    proved: bool | None = None
    mask_spec: dict[str, Any] | None = None
    value_head_size: int | None = None
    sparsity: str | None = None
    original_density: float | None = None
    original_mask_spec: dict[str, Any] | None = None


@dataclasses.dataclass
class RewriteReport:
    """The whole rewrite.

    Attributes:
        passes: one record per pass, in order.
        attention: one entry per attention site found.
        refusals: everything refused, by any pass.
        inputs: graph inputs with roles; `outputs`: graph outputs with roles.
        nodes_before: nodes of the main graph before; `nodes_after`: after.
        position_limit: longest sequence in tokens that tables in the graph allow; None: no limit was seen.
        approximation: how far what was imposed moves the outputs; None where nothing was, or nothing was run.
        external_data_dir: folder that external tensors of the returned model are relative to.
    """

    passes: list[PassRecord] = dataclasses.field(default_factory=list)
    attention: list[AttentionEntry] = dataclasses.field(default_factory=list)
    inputs: tuple[TensorRole, ...] = ()
    outputs: tuple[TensorRole, ...] = ()
    nodes_before: int = 0
    nodes_after: int = 0
    position_limit: int | None = None
    approximation: dict[str, Any] | None = None
    external_data_dir: str | None = None

    @property
    def refusals(self) -> list[Refusal]:
        """Every refusal of every pass, then the sites left alone, each once."""
        found = [refusal for record in self.passes for refusal in record.refused]
        found += [Refusal(entry.node, entry.reason) for entry in self.attention if entry.reason]
        return list(dict.fromkeys(found))

    def record(self, name: str) -> PassRecord:
        """The record of a pass, made when first asked for."""
        existing = next((record for record in self.passes if record.name == name), None)
        if existing is None:
            existing = PassRecord(name)
            self.passes.append(existing)
        return existing

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries and lists."""
        document = dataclasses.asdict(self)
        for side in ("inputs", "outputs"):
            document[side] = [{**dataclasses.asdict(role), "role": str(role.role)} for role in getattr(self, side)]
        document["refusals"] = [dataclasses.asdict(refusal) for refusal in self.refusals]
        return document
