"""`rewrite`: graph passes on a finished ONNX model."""

from __future__ import annotations

import os
import pathlib
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from raggedrt.approximation import measure_approximation
from raggedrt.errors import FeatureError, InputError, NumericsError, RaggedRTError, TargetError
from raggedrt.graph_passes.impose import check_imposable
from raggedrt.graph_passes.masks.short_spec import parse_mask
from raggedrt.graph_passes.masks.spec import MaskSpec
from raggedrt.graph_passes.pipeline import NOT_ACCEPTED, RewriteConfig
from raggedrt.graph_passes.pipeline import rewrite as rewrite_graph
from raggedrt.onnx_files import read_onnx, read_proto, write_onnx
from raggedrt.options import IO_KINDS, choose, parse_features, parse_shapes
from raggedrt.outputs import refuse_collisions, refuse_existing, refuse_input, workspace, write_json
from raggedrt.plans import read_plan
from raggedrt.plans import write_plan as save_plan
from raggedrt.targets import find_target

if TYPE_CHECKING:
    from raggedrt.graph_passes.report import RewriteReport


def make_config(
    *,
    features: str | Sequence[str] = "auto",
    target: str = "ort-cpu",
    io: str | None = None,
    allow_partial: bool = False,
    opt_shapes: str | None = None,
    sparsity: str | MaskSpec | None = None,
    plan: str | os.PathLike[str] | None = None,
    accept_approximation: bool = False,
    mask_input: str | None = None,
    prefill: bool = False,
) -> RewriteConfig:
    """The checked configuration of the graph passes.

    Raises:
        InputError: an unknown target, feature, I/O kind, a malformed shape, mask or plan, or an approximation that is
            not accepted.
        TargetError: the target cannot be served yet.
    """
    row = find_target(target)
    shapes = parse_shapes("opt-shapes", opt_shapes)
    lengths = [shape[1] for shape in shapes.values() if len(shape) > 1]
    if sparsity is not None and plan is not None:
        raise InputError("--sparsity and --plan: give one of them; a plan says what is imposed on every site")
    config = RewriteConfig(
        features=parse_features(features),
        target=target,
        io=choose("io", io or row.default_io, IO_KINDS),
        allow_partial=allow_partial,
        opt_length=max(lengths, default=None),
        opt_inputs=tuple(shapes),
        sparsity=parse_sparsity(sparsity),
        plan=() if plan is None else read_plan(pathlib.Path(plan)),
        accept_approximation=accept_approximation,
        mask_input=mask_input,
        prefill=prefill,
    )
    if config.imposes and not accept_approximation:
        raise InputError(NOT_ACCEPTED)
    return config


def parse_sparsity(sparsity: str | MaskSpec | None) -> MaskSpec | None:
    """The mask to impose, from a short spec.

    Raises:
        InputError: it does not parse (the message shows where), or cannot be imposed.
    """
    if sparsity is None:
        return None
    try:
        return check_imposable(parse_mask(sparsity) if isinstance(sparsity, str) else sparsity)
    except InputError as error:
        raise InputError(f"--sparsity: {error}") from error


def run_passes(model: ir.Model, config: RewriteConfig, where: str) -> RewriteReport:
    """The graph passes in place; `where` names the model in errors.

    Raises:
        RaggedRTError: of the classes that `rewrite` names, and where the passes themselves fail on a graph.
    """
    try:
        return rewrite_graph(model, config)
    except (InputError, FeatureError, NumericsError, TargetError) as error:
        raise type(error)(f"{where}: {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # graphs of any origin come here, and libraries below raise many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise RaggedRTError(
            f"{where}: the graph passes failed ({type(error).__name__}: {reason}). Check the model with onnx.checker; "
            "if it is valid, this is a fault of RaggedRT: please report it with what `raggedrt inspect` says of it."
        ) from error


def rewrite(
    onnx_model_or_path: onnx.ModelProto | str | os.PathLike[str],
    features: str | Sequence[str] = "auto",
    target: str = "ort-cpu",
    io: str | None = "padded",
    allow_partial: bool = False,
    opt_shapes: str | None = None,
    sparsity: str | MaskSpec | None = None,
    plan: str | os.PathLike[str] | None = None,
    accept_approximation: bool = False,
    mask_input: str | None = None,
    prefill: bool = False,
) -> tuple[onnx.ModelProto, RewriteReport]:
    """Remove padding and fuse attention in an ONNX model.

    Args:
        onnx_model_or_path: a model (left as it is) or a file of any exporter.
        features: `"auto"`, or required features: `"pack,fuse"` or a sequence of names.
        target: where the result will run.
        io: `"padded"` (names, shapes and dtypes stay), `"ragged"`, or None for the target's default.
        allow_partial: a feature that matches nothing is no error; the report has the reasons.
        opt_shapes: typical shapes (`"input_ids:8x128"`) at which densities are stated.
        sparsity: mask to impose on every attention site on top of its own, such as `"window(256)"`.
        plan: YAML file that says it site by site, as `rewrite_file(..., write_plan=...)` writes it.
        accept_approximation: outputs may move because of it; `report.approximation` says how far.
        mask_input: the input [batch, sequence] that says which slots hold tokens (non-zero); None: attention_mask,
            input_mask or mask, if there is one.
        prefill: every call starts without a cache: inputs with keys and values of earlier calls are left out, the mask
            covers the tokens of the call.

    Returns:
        The rewritten model and the report. External data stays external, in `report.external_data_dir`.

    Raises:
        InputError: the model or an option is unusable.
        FeatureError: a required feature matched nothing or stopped early, or with `"auto"` nothing applied.
        NumericsError: with imposed sparsity: the op library and the function bodies differ.
        TargetError: the target cannot be served yet.
    """
    config = make_config(
        features=features,
        target=target,
        io=io,
        allow_partial=allow_partial,
        opt_shapes=opt_shapes,
        sparsity=sparsity,
        plan=plan,
        accept_approximation=accept_approximation,
        mask_input=mask_input,
        prefill=prefill,
    )
    if isinstance(onnx_model_or_path, onnx.ModelProto):
        model, where, folder = read_proto(onnx_model_or_path), "the model", None
        before = read_proto(onnx_model_or_path) if config.imposes else None
    else:
        file = read_onnx(pathlib.Path(onnx_model_or_path))
        model, where = file.model, str(file.path)
        folder = str(file.path.parent.resolve()) if file.data_files else None
        before = read_onnx(file.path).model if config.imposes else None
    report = run_passes(model, config, where)
    if before is not None:
        with tempfile.TemporaryDirectory(prefix="raggedrt-rewrite-") as temporary:
            measure_approximation(before, model, report, config, pathlib.Path(temporary))
    report.external_data_dir = folder
    return ir.to_proto(model), report


def rewrite_file(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    features: str | Sequence[str] = "auto",
    target: str = "ort-cpu",
    io: str | None = "padded",
    opt_shapes: str | None = None,
    allow_partial: bool = False,
    sparsity: str | MaskSpec | None = None,
    plan: str | os.PathLike[str] | None = None,
    write_plan: str | os.PathLike[str] | None = None,
    accept_approximation: bool = False,
    mask_input: str | None = None,
    prefill: bool = False,
    report: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> RewriteReport:
    """`rewrite` from file to file: `output` appears whole or not at all, external data beside it.

    With `write_plan` the attention sites are written to that YAML file; without `output` nothing else is.

    Raises:
        InputError: as `rewrite`, or `output` exists without `force`, or would overwrite an input.
        FeatureError: as `rewrite`.
        NumericsError: as `rewrite`.
        TargetError: as `rewrite`.
    """
    source = pathlib.Path(model)
    destination = None if output is None else pathlib.Path(output)
    if destination is None and write_plan is None:
        raise InputError("rewrite: name the file to write with -o, or a plan to write with --write-plan")
    config = make_config(
        features=features,
        target=target,
        io=io,
        allow_partial=allow_partial or destination is None,
        opt_shapes=opt_shapes,
        sparsity=sparsity,
        plan=plan,
        accept_approximation=accept_approximation,
        mask_input=mask_input,
        prefill=prefill,
    )
    outputs = [pathlib.Path(name) for name in (output, report, write_plan) if name is not None]
    refuse_collisions(*outputs)
    for path in outputs:
        refuse_input(path, source, *([pathlib.Path(plan)] if plan is not None else []))
        refuse_existing(path, force=force)
    file = read_onnx(source)
    if destination is not None:
        refuse_input(destination.with_name(f"{destination.name}.data"), *file.data_files)
    written = run_passes(file.model, config, str(source))
    if destination is not None:
        if config.imposes:
            with workspace(destination) as folder:
                measure_approximation(read_onnx(source).model, file.model, written, config, folder)
        write_onnx(file.model, destination, external=bool(file.data_files))
    if write_plan is not None:
        save_plan(pathlib.Path(write_plan), written)
    if report:
        write_json(pathlib.Path(report), written.to_json())
    return written
