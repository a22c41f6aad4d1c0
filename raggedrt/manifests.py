"""What `convert` knows, in the form of `manifest.json` and `report.json`."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import TYPE_CHECKING, Any

from raggedrt.models.catalog import INPUT_DEFAULTS
from raggedrt.plugins.bundle.manifest import (
    TOKENIZER_NAME,
    InputRecord,
    ManifestDraft,
    OutputError,
    SourceRecord,
    TensorRecord,
    Verification,
)
from raggedrt.plugins.bundle.model_facts import load_proto, model_facts
from raggedrt.plugins.contract.io_roles import Role, TensorRole
from raggedrt.verification import DTYPES
from raggedrt.version import __version__

if TYPE_CHECKING:
    from raggedrt.graph_passes.pipeline import RewriteConfig
    from raggedrt.graph_passes.report import RewriteReport
    from raggedrt.sources import Original
    from raggedrt.verification import Verified

TOKEN_IDS = "input_ids"


def report_json(report: RewriteReport, verified: Verified) -> dict[str, Any]:
    """The content of `report.json`."""
    record = verification_record(verified).model_dump(mode="json")
    return {
        **report.to_json(),
        "verification": {**record, "op_library": verified.native, "reference": verified.reference},
    }


def verification_record(verified: Verified) -> Verification:
    """The errors as the manifest states them."""
    return Verification(
        verified_on=verified.device,
        atol=max((error.atol for error in verified.outputs), default=0.0),
        rtol=max((error.rtol for error in verified.outputs), default=0.0),
        cases=verified.cases,
        outputs={e.output: OutputError(max_abs=e.max_abs, max_rel=e.max_rel) for e in verified.outputs},
    )


def draft_manifest(
    source: object,
    original: Original,
    report: RewriteReport,
    verified: Verified,
    model: pathlib.Path,
    *,
    config: RewriteConfig,
    dtype: str,
    tokenizer: bool,
) -> ManifestDraft:
    """Everything the manifest says beside the file list."""
    resolved = original.resolved
    features: dict[str, int] = {}
    for node in model_facts(load_proto(model)).nodes:
        features[node.op_type] = features.get(node.op_type, 0) | (node.features or 0)
    masks = {
        (site.mask, site.proved, site.sparsity): site.mask_spec for site in report.attention if site.mask is not None
    }
    limits = [limit for limit in (resolved.position_limit, report.position_limit) if limit]
    return ManifestDraft(
        toolchain_version=__version__,
        target=config.target,
        io="ragged" if config.io == "ragged" else "padded",
        inputs=tuple(_input_record(role, original) for role in report.inputs),
        outputs=tuple(TensorRecord(**dataclasses.asdict(role)) for role in report.outputs),
        source=SourceRecord(
            kind=resolved.kind,
            description=resolved.description,
            digest=resolved.digest,
            location=source_location(source, resolved.path),
            task=resolved.task,
        ),
        dtype=_float_type(report) if resolved.kind == "onnx" else dtype,
        op_features=features,
        mask_specs=tuple(
            {"mask": mask, "proved": proved, "imposed": imposed, "spec": spec}
            for (mask, proved, imposed), spec in masks.items()
        ),
        position_limit=min(limits, default=None),
        mask_input=original.mask_input or "attention_mask",
        verification=verification_record(verified),
        tokenizer=TOKENIZER_NAME if tokenizer else None,
    )


def _float_type(report: RewriteReport) -> str:
    """The element type of an ONNX file, as `--dtype` names it: that of its first floating-point output."""
    names = {numpy_name: name for name, numpy_name in DTYPES.items()}
    return next((names[role.dtype] for role in report.outputs if role.dtype in names), "fp32")


def source_location(source: object, path: pathlib.Path | None) -> str:
    """A SOURCE that means the same from any working directory; empty for an object of the calling program."""
    if not isinstance(source, str | os.PathLike):
        return ""
    text = os.fspath(source)
    return str(path.resolve()) if path is not None and pathlib.Path(text).exists() else text


def _input_record(role: TensorRole, original: Original) -> InputRecord:
    defaults = {name: value for name, value in INPUT_DEFAULTS.items() if name != TOKEN_IDS}
    defaults |= original.resolved.input_defaults
    optional = role.role in (Role.PER_TOKEN, Role.ATTENTION_MASK)
    return InputRecord(
        **dataclasses.asdict(role),
        default=defaults.get(role.name) if optional else None,
        pad_value=original.resolved.pad_token_id if role.name == TOKEN_IDS else 0,
    )
