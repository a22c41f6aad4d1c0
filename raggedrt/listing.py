"""`list`: the registries, as tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from raggedrt.errors import InputError

Table = tuple[tuple[str, ...], Sequence[tuple[str, ...]]]


def _ops() -> Table:
    from raggedrt.plugins.registry import OPS

    rows = [
        (
            op.name,
            op.doc.strip().splitlines()[0],
            ", ".join(f"{t.name}{'?' if t.optional else ''}" for t in op.outputs),
            ", ".join(f"{t.name}{'?' if t.optional else ''}" for t in op.inputs),
        )
        for op in OPS
    ]
    return ("op", "meaning", "outputs", "inputs"), rows


def _targets() -> Table:
    from raggedrt.targets import TARGETS

    rows = [(t.name, "yes" if t.built else "not yet", t.default_io, t.needs) for t in TARGETS]
    return ("target", "available", "default io", "needs"), rows


def _patterns() -> Table:
    from raggedrt.graph_passes.sites import decomposed, fused_ops

    rows = [(name, "lowered to RaggedAttention") for name in (decomposed.EAGER, decomposed.SDPA)]
    rows += [(_op_name(*key), "lowered to RaggedAttention") for key in fused_ops.MATCHERS]
    rows += [(_op_name(*key), reason) for key, reason in fused_ops.UNKNOWN.items()]
    return ("attention pattern", "what becomes of it"), rows


def _op_name(domain: str, op_type: str) -> str:
    return f"{domain or 'onnx'}.{op_type}"


def _models() -> Table:
    from raggedrt.models.catalog import ADAPTERS, GENERIC

    rows = [(a.name, ", ".join(a.model_types), a.note) for a in ADAPTERS]
    return ("family", "model types", "note"), [*rows, (GENERIC.name, "", "not checked one by one")]


REGISTRIES: dict[str, Callable[[], Table]] = {
    "ops": _ops,
    "targets": _targets,
    "patterns": _patterns,
    "models": _models,
}


def list_registry(what: str) -> Table:
    """Column names and rows of the registry `what`.

    Raises:
        InputError: there is no such registry.
    """
    if what not in REGISTRIES:
        raise InputError(f"list {what}: not known; choose one of {', '.join(REGISTRIES)}")
    return REGISTRIES[what]()
