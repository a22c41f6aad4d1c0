"""Plans: a YAML file with one entry per attention site, which says what is imposed on it and whether it is kept."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import yaml

from raggedrt.errors import InputError
from raggedrt.graph_passes.impose import SiteChoice, check_imposable
from raggedrt.graph_passes.masks.short_spec import parse_mask
from raggedrt.outputs import staged

if TYPE_CHECKING:
    from raggedrt.graph_passes.report import RewriteReport

VERSION = 1
CHOICES = ("sparsity", "keep")
FACTS = ("form", "mask", "density", "density_at", "op", "reason")
"""What is written for the reader's sake and ignored when a plan is read."""
MAX_BYTES = 4 * 2**20
HEADER = """\
# One entry per attention site, in graph order. Edit `sparsity` and `keep`; the rest is for your information.
#   sparsity: null, or a mask that is and-ed with the site's own: window(256), causal & window(128),
#             longformer(window=512, global=[0]), bigbird(block=64), blocks(layout.npz).
#             Positions count a row's own tokens; end with of=padded to count slots of the padded row.
#   keep:     true leaves the site as it is (and with it everything that would have to be packed around it).
# Use it with: raggedrt rewrite IN.onnx -o OUT.onnx --plan FILE --accept-approximation
"""


def write_plan(path: pathlib.Path, report: RewriteReport) -> None:
    """Write the sites of a report as a plan that changes nothing."""
    sites = [
        {
            "node": entry.node,
            "sparsity": entry.sparsity,
            "keep": False,
            **{name: getattr(entry, name) for name in FACTS},
        }
        for entry in report.attention
    ]
    text = yaml.safe_dump({"version": VERSION, "sites": sites}, sort_keys=False, width=10_000, allow_unicode=True)
    with staged(path) as written:
        written.write_text(HEADER + text, encoding="utf-8")


def read_plan(path: pathlib.Path) -> tuple[SiteChoice, ...]:
    """Read a plan.

    Raises:
        InputError: it is no YAML, or has a key, a value or a mask that is not known; the message has the line.
    """
    root = _compose(path)
    top = dict(_fields(root, path, ("version", "sites")))
    if "sites" not in top or _value(top.get("version")) != VERSION:
        raise InputError(f"{path}, line 1: expected 'version: {VERSION}' and 'sites'; write a plan with --write-plan.")
    sites = top["sites"]
    if not isinstance(sites, yaml.SequenceNode):
        raise InputError(f"{_at(path, sites)}: expected a list of sites, each with a node.")
    choices = [_choice(node, path) for node in sites.value]
    for number, choice in enumerate(choices):
        if any(choice.node == other.node for other in choices[:number]):
            raise InputError(f"{choice.where}: the site '{choice.node}' is listed twice.")
    return tuple(choices)


def _compose(path: pathlib.Path) -> yaml.Node | None:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: larger than {MAX_BYTES} bytes, so it is no plan.")
        return yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the plan cannot be read ({error}).") from error
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f", line {mark.line + 1}"
        problem = getattr(error, "problem", None) or "nested too deeply"
        raise InputError(f"{path}{line}: the plan is no valid YAML ({problem}).") from error


def _choice(node: yaml.Node, path: pathlib.Path) -> SiteChoice:
    fields = dict(_fields(node, path, ("node", *CHOICES, *FACTS)))
    where = _at(path, node)
    name, sparsity, keep = (_value(fields.get(key)) for key in ("node", *CHOICES))
    if not isinstance(name, str):
        raise InputError(f"{where}: a site needs 'node', the name that the plan was written with.")
    if keep not in (None, True, False):
        raise InputError(f"{_at(path, fields['keep'])}: keep is true or false, not {_shown(keep)}.")
    if sparsity is None:
        return SiteChoice(name, None, bool(keep), where)
    place = _at(path, fields["sparsity"])
    if not isinstance(sparsity, str):
        raise InputError(f"{place}: sparsity is null or a mask such as window(256), not {_shown(sparsity)}.")
    if keep:
        raise InputError(f"{place}: the site '{name}' cannot have a sparsity and be kept as it is.")
    try:
        return SiteChoice(name, check_imposable(parse_mask(sparsity)), where=place)
    except InputError as error:
        raise InputError(f"{place}: {error}") from error


def _fields(node: yaml.Node | None, path: pathlib.Path, known: tuple[str, ...]) -> Iterator[tuple[str, yaml.Node]]:
    if not isinstance(node, yaml.MappingNode):
        raise InputError(f"{_at(path, node)}: expected the keys {', '.join(known)}; write a plan with --write-plan.")
    seen = set[str]()
    for key, value in node.value:
        if key.value not in known:
            raise InputError(f"{_at(path, key)}: unknown key '{key.value}'; the keys are {', '.join(known)}.")
        if key.value in seen:
            raise InputError(f"{_at(path, key)}: the key '{key.value}' is given twice.")
        seen.add(key.value)
        yield key.value, value


def _value(node: yaml.Node | None) -> Any:
    """The plain value of a scalar; lists and mappings, which no key takes, are an empty tuple."""
    if node is None:
        return None
    return yaml.safe_load(yaml.serialize(node)) if isinstance(node, yaml.ScalarNode) else ()


def _shown(value: Any) -> str:
    return "a list or a mapping" if value == () else repr(value)


def _at(path: pathlib.Path, node: yaml.Node | None) -> str:
    return f"{path}, line {1 if node is None else node.start_mark.line + 1}"
