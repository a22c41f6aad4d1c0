"""`rewrite`: graph passes on a finished ONNX model."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from raggedrt.errors import RaggedRTError
from raggedrt.graph_passes.pipeline import RewriteConfig
from raggedrt.graph_passes.pipeline import rewrite as rewrite_graph
from raggedrt.onnx_files import read_onnx, read_proto, write_onnx
from raggedrt.options import IO_KINDS, choose, parse_features, parse_shapes
from raggedrt.outputs import refuse_existing, refuse_input, write_json
from raggedrt.targets import find_target

if TYPE_CHECKING:
    from raggedrt.graph_passes.report import RewriteReport


def make_config(
    *, features: str | Sequence[str], target: str, io: str | None, allow_partial: bool, opt_shapes: str | None
) -> RewriteConfig:
    """The checked configuration of the graph passes.

    Raises:
        InputError: an unknown target, feature, I/O kind or malformed shape.
        TargetError: the target cannot be served yet.
    """
    row = find_target(target)
    lengths = [shape[1] for shape in parse_shapes("opt-shapes", opt_shapes).values() if len(shape) > 1]
    return RewriteConfig(
        features=parse_features(features),
        target=target,
        io=choose("io", io or row.default_io, IO_KINDS),
        allow_partial=allow_partial,
        opt_length=max(lengths, default=None),
    )


def run_passes(model: ir.Model, config: RewriteConfig, where: str) -> RewriteReport:
    """The graph passes in place; `where` names the model in errors."""
    try:
        return rewrite_graph(model, config)
    except RaggedRTError as error:
        raise type(error)(f"{where}: {error}") from error


def rewrite(
    onnx_model_or_path: onnx.ModelProto | str | os.PathLike[str],
    features: str | Sequence[str] = "auto",
    target: str = "ort-cpu",
    io: str | None = "padded",
    allow_partial: bool = False,
    opt_shapes: str | None = None,
) -> tuple[onnx.ModelProto, RewriteReport]:
    """Remove padding and fuse attention in an ONNX model.

    Args:
        onnx_model_or_path: a model (left as it is) or a file of any exporter.
        features: `"auto"`, or required features: `"pack,fuse"` or a sequence of names.
        target: where the result will run.
        io: `"padded"` (names, shapes and dtypes stay), `"ragged"`, or None for the target's default.
        allow_partial: a feature that matches nothing is no error; the report has the reasons.
        opt_shapes: typical shapes (`"input_ids:8x128"`) at which densities are stated.

    Returns:
        The rewritten model and the report. External data stays external, in `report.external_data_dir`.

    Raises:
        InputError: the model or an option is unusable.
        FeatureError: a required feature matched nothing or stopped early, or with `"auto"` nothing applied.
        TargetError: the target cannot be served yet.
    """
    config = make_config(features=features, target=target, io=io, allow_partial=allow_partial, opt_shapes=opt_shapes)
    if isinstance(onnx_model_or_path, onnx.ModelProto):
        model = read_proto(onnx_model_or_path)
        report = run_passes(model, config, "the model")
    else:
        file = read_onnx(pathlib.Path(onnx_model_or_path))
        model = file.model
        report = run_passes(model, config, str(file.path))
        if file.data_files:
            report.external_data_dir = str(file.path.parent.resolve())
    return ir.to_proto(model), report


def rewrite_file(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    features: str | Sequence[str] = "auto",
    target: str = "ort-cpu",
    io: str | None = "padded",
    opt_shapes: str | None = None,
    allow_partial: bool = False,
    report: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> RewriteReport:
    """`rewrite` from file to file: `output` appears whole or not at all, external data beside it.

    Raises:
        InputError: as `rewrite`, or `output` exists without `force`, or would overwrite an input.
        FeatureError: as `rewrite`.
        TargetError: as `rewrite`.
    """
    source, destination = pathlib.Path(model), pathlib.Path(output)
    config = make_config(features=features, target=target, io=io, allow_partial=allow_partial, opt_shapes=opt_shapes)
    refuse_input(destination, source)
    for path in (destination, *([pathlib.Path(report)] if report else [])):
        refuse_existing(path, force=force)
    file = read_onnx(source)
    refuse_input(destination.with_name(f"{destination.name}.data"), *file.data_files)
    written = run_passes(file.model, config, str(source))
    write_onnx(file.model, destination, external=bool(file.data_files))
    if report:
        write_json(pathlib.Path(report), written.to_json())
    return written
