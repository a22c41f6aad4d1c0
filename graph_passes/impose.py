"""Sparsity that a user imposes: every site's own mask, and-ed with a spec. The result is an approximation."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from raggedrt.errors import InputError
from raggedrt.graph_passes.lowering import SiteMask
from raggedrt.graph_passes.masks.algebra import And, Bias, Or, QueryPadding, SameSegment, Term
from raggedrt.graph_passes.masks.bigbird import BigBird
from raggedrt.graph_passes.masks.block_list import BlockList
from raggedrt.graph_passes.masks.expressions import leaves
from raggedrt.graph_passes.masks.pairs import OWN, PADDED
from raggedrt.graph_passes.masks.spec import EVERYTHING, MaskSpec
from raggedrt.graph_passes.sites.site import AttentionSite, UnknownSite
from raggedrt.graph_passes.tiles import TILE_MULTIPLE, tile_form

logger = logging.getLogger(__name__)

NOT_IMPOSABLE: dict[type, str] = {
    SameSegment: "which tokens are of one document differs from sample to sample, and no input of the model tells",
    QueryPadding: "padding is the model's own business and is removed anyway",
    Bias: "a bias hides nothing; there is nothing to skip",
}
"""Terms that only describe what a model does, and why none can be asked for."""


@dataclasses.dataclass(frozen=True)
class SiteChoice:
    """What a plan says of one attention site.

    Attributes:
        node: the site's name in reports.
        sparsity: the mask to impose on it; None: that of the configuration.
        keep: leave the site as it is.
        where: the place in the plan, for messages.
    """

    node: str
    sparsity: MaskSpec | None = None
    keep: bool = False
    where: str = "the plan"


@dataclasses.dataclass(frozen=True)
class ModelLengths:
    """What is known of sequence lengths, in tokens; None where it is not.

    Attributes:
        static: the graph's only length.
        limit: longest sequence that the graph allows.
        typical: what the user says is typical.
    """

    static: int | None = None
    limit: int | None = None
    typical: int | None = None

    @property
    def longest(self) -> int | None:
        """No sequence is longer."""
        return self.static or self.limit


def check_imposable(spec: MaskSpec) -> MaskSpec:
    """The spec, if its terms can be imposed at all.

    Raises:
        InputError: a term says something that nothing in a model tells, or tiles of a size that no kernel has.
    """
    for term in leaves(spec.expression):
        reason = NOT_IMPOSABLE.get(type(term))
        if reason is not None:
            raise InputError(f"The mask '{term}' cannot be imposed: {reason}. Leave it out of the sparsity.")
        if isinstance(term, BlockList | BigBird) and term.block % TILE_MULTIPLE:
            raise InputError(
                f"The mask '{term}' cannot be imposed: kernels take tiles of a multiple of {TILE_MULTIPLE} tokens, and "
                f"its blocks have {term.block}; choose another block size."
            )
    form = dataclasses.replace(spec, pattern=_drawn(spec.pattern, 1))
    if form.analytic() is None and tile_form(form) is None:
        raise InputError(
            f"The mask '{spec}' cannot be imposed: it has neither a form in attributes nor one in tiles. Simplify it "
            "(a block layout or BigBird stands alone or is and-ed with causal), or write it as blocks(FILE)."
        )
    return spec


def impose(
    sites: Sequence[AttentionSite],
    masks: Mapping[ir.Value, SiteMask],
    choices: Mapping[str, SiteChoice],
    sparsity: MaskSpec | None,
    lengths: ModelLengths,
    *,
    ragged: bool,
) -> dict[ir.Value, SiteMask]:
    """The mask of every site with what is imposed on it.

    Args:
        sites: all that were found.
        masks: what the graph says, by the site's output.
        choices: of the plan, by site name.
        sparsity: for the sites that the plan does not name; None: nothing.
        lengths: what patterns made for one length are checked against.
        ragged: rows have no padding, so slots and own tokens are counted alike.
    """
    _warn_of_ends(sparsity, choices, lengths)
    result = {}
    for site in sites:
        mask, choice = masks[site.output], choices.get(site.name)
        wanted = sparsity if choice is None or choice.sparsity is None else choice.sparsity
        if choice is not None and choice.keep:
            mask = dataclasses.replace(mask, kept=f"it is to be kept as it is ({choice.where})")
        elif wanted is not None:
            mask = _imposed(mask, wanted, lengths, ragged=ragged)
        result[site.output] = mask
    return result


def choices_by_site(
    plan: Sequence[SiteChoice], sites: Sequence[AttentionSite], unknown: Sequence[UnknownSite]
) -> dict[str, SiteChoice]:
    """The plan by site.

    Raises:
        InputError: it names a site that the graph does not have, or imposes on one whose form is not known.
    """
    names = [site.name for site in sites]
    unknown_names = {site.name: site for site in unknown}
    for choice in plan:
        if choice.node in unknown_names and choice.sparsity is not None:
            reason = unknown_names[choice.node].reason
            raise InputError(
                f"{choice.where}: sparsity cannot be imposed on '{choice.node}', whose form is not known ({reason}); "
                "set it to null."
            )
        if choice.node not in names and choice.node not in unknown_names:
            known = ", ".join(f"'{name}'" for name in [*names, *unknown_names]) or "none"
            raise InputError(
                f"{choice.where}: the graph has no attention site '{choice.node}'; its sites are {known}. Write a new "
                "plan with --write-plan."
            )
    return {choice.node: choice for choice in plan}


def _imposed(mask: SiteMask, wanted: MaskSpec, lengths: ModelLengths, *, ragged: bool) -> SiteMask:
    """The mask of a site and-ed with what is wanted; where it cannot be, there is none, and a reason."""
    own = mask.spec
    if own is None:
        return dataclasses.replace(mask, imposed=wanted)
    positional = own.pattern != EVERYTHING or bool(mask.biases)
    if ragged and positional:
        wanted = dataclasses.replace(wanted, of=PADDED)
    wanted = dataclasses.replace(wanted, pattern=_drawn(wanted.pattern, lengths.longest or lengths.typical))
    reason = _too_short(wanted, lengths)
    if positional and wanted.of == OWN:
        what = own.describe() if own.pattern != EVERYTHING else mask.biases[0].bias.describe()
        reason = (
            f"its own mask counts slots of the padded row ({what}) and the imposed one the row's own tokens "
            f"({wanted}); impose '{wanted} of=padded', or use ragged inputs and outputs"
        )
    if reason is not None:
        return dataclasses.replace(mask, spec=None, reason=reason, imposed=wanted)
    # Masked queries are those at padding, whatever positions count.
    both = dataclasses.replace(own, padded_queries_masked=False).conjoined(wanted)
    opened = own.unattended_rows_open and both.shows_itself
    spec = dataclasses.replace(
        both, padded_queries_masked=own.padded_queries_masked, unattended_rows_open=opened
    )  # fmt: skip
    return dataclasses.replace(mask, spec=spec, imposed=wanted, original=own)


def _warn_of_ends(sparsity: MaskSpec | None, choices: Mapping[str, SiteChoice], lengths: ModelLengths) -> None:
    """A layout has an end, and a model without a limit may be given longer sequences."""
    wanted = [sparsity, *(choice.sparsity for choice in choices.values())]
    terms = (term for spec in wanted if spec is not None for term in leaves(spec.pattern))
    for term in dict.fromkeys(term for term in terms if isinstance(term, BlockList)):
        if lengths.longest is None:
            logger.warning(
                "the layout '%s' ends at %d tokens and the model has no limit: tokens behind its end would see nothing",
                term,
                term.length,
            )


def _too_short(wanted: MaskSpec, lengths: ModelLengths) -> str | None:
    """Why a pattern made for one length does not serve a model."""
    for term in leaves(wanted.pattern):
        if isinstance(term, BlockList) and lengths.longest is not None and lengths.longest > term.length:
            return (
                f"the layout '{term}' is made for {term.length} tokens and sequences have up to {lengths.longest}; "
                "tokens behind its end would see nothing. Give a layout of that length"
            )
        if isinstance(term, BigBird) and term.random and not term.length:
            return (
                f"'{term}' draws blocks for one length, and the model has no limit on it; say it, as in "
                "bigbird(..., length=4096), or give --opt-shapes"
            )
    return None


def _drawn(pattern: Term, length: int | None) -> Term:
    """Blocks at random are drawn once, for the longest sequence."""
    if isinstance(pattern, And | Or):
        return dataclasses.replace(pattern, operands=tuple(_drawn(operand, length) for operand in pattern.operands))
    if isinstance(pattern, BigBird) and pattern.random and not pattern.length and length is not None:
        return dataclasses.replace(pattern, length=length)
    return pattern
