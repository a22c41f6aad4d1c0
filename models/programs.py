"""`torch.export` programs as a source: what a `.pt2` file, or a program in memory, says about itself."""

from __future__ import annotations

import contextlib
import logging
import zipfile
from typing import TYPE_CHECKING, Any

from raggedrt.errors import InputError
from raggedrt.models.contract import BATCH_AXIS, SEQUENCE_AXIS, ModelSource

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import torch

_PADDED_SLOTS = 12
_FACTORY_ADVICE = (
    "or give `package.module:function`, a function that imports what the program needs, loads it and returns it"
)


def load_program(path: Path) -> tuple[ModelSource, int | None]:
    """Loads a `.pt2` program; the caller has asked for permission to unpickle.

    Returns:
        The source, and the longest sequence that the program's own range constraints allow (tokens), if they say one.

    Raises:
        InputError: Not a program, or one that `program_source` refuses.
    """
    import torch

    with contextlib.suppress(ImportError):  # its import registers the output classes that a program may return
        import transformers.modeling_outputs  # noqa: F401
    with _collected_report() as report:
        try:
            program = torch.export.load(str(path))
        except MemoryError:
            raise
        except Exception as error:  # damaged archives surface as many kinds
            raise InputError(f"{path}: {_why_unreadable(path, error, report)}") from error
    return program_source(program, str(path))


def program_source(program: Any, name: str) -> tuple[ModelSource, int | None]:
    """Reads inputs, axes, outputs and mask of a `torch.export.ExportedProgram`.

    Numbers and flags among the inputs are part of the program and no inputs of the graph; None among the outputs is
    left out.

    Returns:
        The source, and the longest sequence that the program's range constraints allow (tokens), if they say one.

    Raises:
        InputError: It draws at random, changes its buffers, or has no example inputs or an output that is no tensor.
    """
    import torch

    _refuse_state(program, name)
    values = [leaf for leaf in _leaves(program.example_inputs) if isinstance(leaf, torch.Tensor)]
    names = _tensor_inputs(program)
    if not names or len(names) != len(values):
        raise InputError(f"{name}: expected a program with example inputs, one tensor for each of {names}.")
    examples = dict(zip(names, values, strict=True))
    _refuse_merged(examples, name)
    wanted = set(names)
    shapes = {node.name: node.meta["val"].shape for node in program.graph.nodes if node.name in wanted}
    symbols = _symbol_names([shapes[key] for key in names])
    axes = {
        key: {axis: symbols[str(size)] for axis, size in enumerate(shapes[key]) if isinstance(size, torch.SymInt)}
        for key in names
    }
    ranges = _ranges(program, [size for key in names for size in shapes[key]], symbols, name)
    lower, upper = ranges.get(SEQUENCE_AXIS, (1, None))
    source = ModelSource(
        program,
        examples,
        axes,
        _output_names(program, name),
        _mask_input(program, examples),
        # Verification pads rows of a dozen slots and more; where these are too short, rows of the length traced, too.
        long_length=_traced_length(axes, examples) if lower > _PADDED_SLOTS else None,
    )
    return source, upper


def _leaves(tree: Any) -> list[Any]:
    from torch.utils import _pytree as pytree

    return list(pytree.tree_leaves(tree))


@contextlib.contextmanager
def _collected_report() -> Iterator[list[str]]:
    """Keeps what torch logs while it loads (a traceback of its own, before it raises something vaguer)."""
    noisy = logging.getLogger("torch.export")
    lines: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.extend(record.getMessage().strip().splitlines())
            if record.exc_info and record.exc_info[1]:
                lines.append(str(record.exc_info[1]))

    before, propagate = list(noisy.handlers), noisy.propagate
    noisy.handlers, noisy.propagate = [Collector()], False
    try:
        yield lines
    finally:
        noisy.handlers, noisy.propagate = before, propagate


def _why_unreadable(path: Path, error: Exception, report: list[str]) -> str:
    """One paragraph about a file that torch does not load."""
    import torch

    members = _members(path)
    if any("data/aotinductor" in member for member in members):
        return "is an AOTInductor package, which is compiled code; give the program that it was compiled from."
    if not members:
        return "cannot be read as a torch.export program: it is no archive, or cut off. Save it again."
    cause = report[-1] if report else f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    cause = cause.rstrip(". ")
    written = _writer(path, members)
    by = f" (written by torch {written}, this is torch {torch.__version__})" if written else ""
    return (
        f"cannot be read as a torch.export program{by}: {cause[:300]}. Save it again with this version of torch, "
        f"{_FACTORY_ADVICE}."
    )


def _members(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return []


def _writer(path: Path, members: list[str]) -> str | None:
    """The version of torch that wrote an archive, if it says so."""
    import json

    for member in members:
        if member.endswith(".json") and "/models/" in member:
            with contextlib.suppress(OSError, ValueError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
                facts = json.loads(archive.read(member))
                if isinstance(facts, dict) and isinstance(facts.get("torch_version"), str):
                    return str(facts["torch_version"])
    return None


def _refuse_state(program: Any, name: str) -> None:
    """Refuses what no ONNX graph says: numbers at random, and buffers that change from call to call."""
    signature = program.graph_signature
    kept = {**signature.inputs_to_buffers, **signature.inputs_to_parameters}
    changed = [*signature.buffers_to_mutate.values(), *_changed_in_place(program, kept)]
    drawn = next((node for node in program.graph.nodes if node.op == "call_function" and _draws(node)), None)
    if drawn is not None:
        raise InputError(
            f"{name}: node '{drawn.name}' ({drawn.target}) draws at random: the program was exported in training mode. "
            "Call model.eval() before torch.export.export."
        )
    if changed:
        raise InputError(
            f"{name}: the program changes its buffer '{changed[0]}' at every call, which an ONNX graph cannot; make it "
            "an input and an output, or export in evaluation mode (model.eval())."
        )


def _draws(node: Any) -> bool:
    """Whether an operator uses the random generator with these arguments."""
    import torch

    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    arguments = node.target._schema.arguments
    given = {argument.name: argument.default_value for argument in arguments}
    given |= dict(zip((argument.name for argument in arguments), node.args, strict=False)) | node.kwargs
    return all(bool(given[key]) for key in ("train", "training", "p", "dropout_p", "dropout") if key in given)


def _changed_in_place(program: Any, kept: Mapping[str, str]) -> list[str]:
    """Buffers and parameters that an operator writes to: programs before decomposition still have such operators."""
    found = []
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if node.op == "call_function" and schema is not None and schema.is_mutable:
            written = [value for value, argument in zip(node.args, schema.arguments, strict=False) if argument.is_write]
            found += [kept[value.name] for value in written if getattr(value, "name", None) in kept]
    return found


def _refuse_merged(examples: Mapping[str, torch.Tensor], name: str) -> None:
    """One tensor as the example of two inputs: torch.export takes uses of the one for uses of the other."""
    seen: dict[int, str] = {}
    for key, tensor in examples.items():
        other = seen.setdefault(tensor.data_ptr(), key) if tensor.numel() else key
        if other != key:
            raise InputError(
                f"{name}: one tensor was the example of the inputs '{other}' and '{key}', which torch.export mixes up; "
                "export the program again with an example of its own for each."
            )


def _tensor_inputs(program: Any) -> list[str]:
    from torch.export.graph_signature import InputKind, TensorArgument

    specs = program.graph_signature.input_specs
    user = [spec.arg for spec in specs if spec.kind is InputKind.USER_INPUT]
    return [argument.name for argument in user if isinstance(argument, TensorArgument)]


def _symbol_names(shapes: list[Any]) -> dict[str, str]:
    """Names the sizes: batch and sequence are the first two axes of the first input that has both, as everywhere else.

    Others keep the symbols of the program.
    """
    import torch

    dynamic = [[str(size) if isinstance(size, torch.SymInt) else "" for size in shape] for shape in shapes]
    names = {symbol: symbol for shape in dynamic for symbol in shape if symbol}
    anchors = sorted((shape for shape in dynamic if any(shape[:2])), key=lambda shape: not all(shape[:2]))
    for shape in anchors[:1]:
        names |= {symbol: name for symbol, name in zip(shape, (BATCH_AXIS, SEQUENCE_AXIS), strict=False) if symbol}
    return names


def _ranges(program: Any, sizes: list[Any], names: Mapping[str, str], name: str) -> dict[str, tuple[int, int | None]]:
    """The least and greatest size of each dynamic axis by its name.

    Raises:
        InputError: An axis is an expression, such as a multiple of eight.
    """
    import torch

    ranges: dict[str, tuple[int, int | None]] = {}
    for size in sizes:
        if isinstance(size, torch.SymInt):
            found = program.range_constraints.get(size.node.expr)
            if found is None or not size.node.expr.is_Symbol:
                raise InputError(
                    f"{name}: a dynamic axis of the inputs is {size}, and torch.onnx exports plain symbols only; "
                    "export the program with torch.export.Dim.DYNAMIC for it."
                )
            upper = int(found.upper) if found.upper.is_Integer else None  # else infinity, of one kind or another
            ranges[names[str(size)]] = (max(int(found.lower), 1), upper)
    return ranges


def _traced_length(axes: Mapping[str, Mapping[int, str]], examples: Mapping[str, torch.Tensor]) -> int | None:
    found = ((key, axis) for key, named in axes.items() for axis, name in named.items() if name == SEQUENCE_AXIS)
    return next((int(examples[key].shape[axis]) for key, axis in found), None)


def _mask_input(program: Any, examples: Mapping[str, torch.Tensor]) -> str | None:
    """An input [batch, sequence] named a mask, else the only one of zeros and ones that is no table's index."""
    import torch

    named = [name for name, tensor in examples.items() if "mask" in name and tensor.dim() == 2]
    if named:
        return named[0]
    users = {node.name: node.users for node in program.graph.nodes if node.op == "placeholder"}
    flags = [
        name
        for name, tensor in examples.items()
        if tensor.dim() == 2
        and tensor.dtype in (torch.int64, torch.int32, torch.bool)
        and tensor.numel()
        and set(tensor.flatten().tolist()) <= {0, 1}
        and not any("embedding" in str(user.target) for user in users[name])
    ]
    return flags[0] if len(flags) == 1 else None


def _output_names(program: Any, name: str) -> list[str]:
    """The keys of what is returned, joined by underscores where it is nested; numbers where there are no keys.

    Raises:
        InputError: A number is returned.
    """
    from torch.export.graph_signature import OutputKind, TensorArgument

    specs = [spec for spec in program.graph_signature.output_specs if spec.kind is OutputKind.USER_OUTPUT]
    for number, spec in enumerate(specs):
        value = getattr(spec.arg, "value", None)
        if not isinstance(spec.arg, TensorArgument) and value is not None:
            raise InputError(f"{name}: output {number} of the program is {value!r}; have forward return tensors only.")
    keys = _keys(program.call_spec.out_spec)
    if len(keys) != len(specs):
        keys = [()] * len(specs)
    chosen = [key for key, spec in zip(keys, specs, strict=True) if isinstance(spec.arg, TensorArgument)]
    names = ["_".join(("output", *key) if key[:1] and key[0].isdigit() else key) for key in chosen]
    if len(set(names)) == len(names) and all(names):
        return names
    return [f"output_{index}" for index in range(len(chosen))] if len(chosen) > 1 else ["output"]


def _keys(spec: Any, before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The path of keys and numbers to each leaf of a tree specification."""
    if spec is None or spec.is_leaf():
        return [before]
    children = spec.children() if hasattr(spec, "children") else spec.children_specs  # torch before 2.10
    context = spec.context
    for names in (context, context[0] if isinstance(context, (list, tuple)) and context else None):
        # A dictionary has its keys there, a dataclass a list of its fields first.
        if isinstance(names, list) and len(names) == len(children) and all(isinstance(name, str) for name in names):
            break
    else:
        names = [str(number) for number in range(len(children))]
    return [key for name, child in zip(names, children, strict=True) for key in _keys(child, (*before, str(name)))]
