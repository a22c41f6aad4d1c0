"""SOURCE of the command line to a `ResolvedSource`: finds it, checks it, loads it for a task."""

from __future__ import annotations

import importlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raggedrt.errors import InputError
from raggedrt.models import checkpoint, hub
from raggedrt.models.catalog import GENERIC, INPUT_DEFAULTS, adapter_for, position_limit
from raggedrt.models.code_sources import call_factory, is_factory, weights_digest
from raggedrt.models.contract import ModelSource, ResolvedSource
from raggedrt.models.onnx_file import onnx_digest
from raggedrt.models.programs import load_program, program_source
from raggedrt.models.sentence_transformers import load_head, read_modules
from raggedrt.models.tasks import FEATURE_EXTRACTION, SENTENCE_EMBEDDING, Task, task_from_architectures, task_named

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

logger = logging.getLogger(__name__)
DTYPE_NAMES = ("fp32", "fp16", "bf16")


def resolve(
    source: str | os.PathLike[str] | ModelSource | nn.Module,
    *,
    task: str = "auto",
    revision: str | None = None,
    allow_pickle: bool = False,
    dtype: str = "fp32",
) -> ResolvedSource:
    """Finds, checks and loads a source.

    Args:
        source: A model directory, Hub id, `package.module:factory`, `.onnx` or `.pt2` file; from Python also a module.
        task: One of `tasks.TASK_NAMES`.
        revision: Branch, tag or commit of a Hub id.
        allow_pickle: Permits formats whose loading can run code: pickled checkpoints and `.pt2` programs.
        dtype: Floating-point type of the weights: fp32, fp16 or bf16.

    Raises:
        InputError: The source cannot be found, is damaged, or does not fit the task.
        TargetError: torch or transformers is needed and not installed.
    """
    chosen = task_named(task)
    if dtype not in DTYPE_NAMES:
        raise InputError(f"Unknown dtype '{dtype}'; expected one of {', '.join(DTYPE_NAMES)}.")
    if not isinstance(source, (str, os.PathLike)):
        return _from_object(source, type(source).__name__, chosen, dtype)
    text = os.fspath(source)
    path = Path(text)
    if path.suffix in (".onnx", ".pt2") and not path.is_dir() and dtype != "fp32":
        raise InputError(f"{path}: --dtype {dtype} applies to PyTorch modules; this file's dtype is fixed.")
    if path.suffix == ".onnx" and not path.is_dir():
        return _from_onnx(path)
    if path.suffix == ".pt2" and not path.is_dir():
        return _from_program(path, chosen, allow_pickle)
    if is_factory(text) and not path.exists():
        return _from_object(call_factory(text), text, chosen, dtype)
    if hub.is_hub_id(text):
        path = hub.snapshot(text, revision=revision, allow_pickle=allow_pickle)
    elif revision is not None:
        raise InputError(f"{text}: --revision applies to Hub ids only, and this is a local path.")
    return _from_directory(path, chosen, dtype, allow_pickle=allow_pickle)


def _from_onnx(path: Path) -> ResolvedSource:
    """Checks an ONNX file; a tokenizer and a padding id are taken from what lies beside it."""
    digest = onnx_digest(path)
    config = path.parent / checkpoint.CONFIG
    pad = checkpoint.read_json(config).get("pad_token_id") if config.is_file() else None
    return ResolvedSource(
        "onnx",
        None,
        path,
        digest,
        f"ONNX file {path}",
        tokenizer_dir=checkpoint.tokenizer_directory(path.parent),
        pad_token_id=pad if isinstance(pad, int) else 0,
        input_defaults=_defaults(INPUT_DEFAULTS),
    )


def _from_directory(root: Path, chosen: Task | None, dtype: str, *, allow_pickle: bool) -> ResolvedSource:
    """Loads a Hugging Face or sentence-transformers directory."""
    modules = read_modules(root) if root.is_dir() else None
    directory = modules.transformer if modules else root
    checkpoint.check_directory(directory)
    weights = checkpoint.weight_files(directory, allow_pickle=allow_pickle)

    from raggedrt.models.transformers_loader import load_config, load_model

    config = load_config(directory)
    if chosen is None:
        plain = modules is not None
        chosen = FEATURE_EXTRACTION if plain else task_from_architectures(config.architectures, str(directory))
    if chosen is SENTENCE_EMBEDDING and modules is None:
        raise InputError(
            f"{root}: task sentence-embedding needs a sentence-transformers directory (modules.json), which says how "
            "to pool. Use --task feature-extraction."
        )
    logger.info("loading %s (%s) for %s", root, config.model_type, chosen.name)
    module, outputs = load_model(directory, config, chosen, allow_pickle=allow_pickle)
    head = load_head(modules) if chosen is SENTENCE_EMBEDDING and modules else None
    files = checkpoint.model_files(root, directory, weights)
    if modules:
        files += [file for _, folder in modules.modules for file in folder.glob("*.*") if file.is_file()]
    return _transformers_source(
        module,
        config,
        chosen,
        outputs,
        dtype,
        head=head,
        path=root,
        digest=checkpoint.digest_of(root, files),
        tokenizer_dir=checkpoint.tokenizer_directory(directory, root),
        truncate_to=_truncation(directory),
    )


def _transformers_source(
    module: nn.Module, config: Any, task: Task, outputs: tuple[str, ...], dtype: str, *, head: Any = None, **facts: Any
) -> ResolvedSource:
    """Wraps a transformers model for its task; `facts` are further fields of the result."""
    from raggedrt.models.task_modules import SentenceEmbedding
    from raggedrt.models.wrap import DTYPES, present_outputs, text_source, wrap_transformers

    adapter = adapter_for(config.model_type)
    limit = position_limit(adapter, config)
    if adapter.sparse_module:
        module = importlib.import_module(adapter.sparse_module).with_sparse_attention(module)
    long_length: int | None = getattr(module, "long_length", None)
    wrapped, examples = wrap_transformers(module, config, adapter, limit)
    if head is None:
        wrapped.outputs = outputs = present_outputs(wrapped, examples, outputs, task.optional_outputs)
        whole: nn.Module = wrapped
    else:
        whole = SentenceEmbedding(wrapped, *head)
    family = adapter.name if adapter is not GENERIC else f"{config.model_type} (no row in the catalog; generic path)"
    return ResolvedSource(
        kind="torch",
        model=text_source(whole.to(DTYPES[dtype]).eval(), examples, outputs, long_length=long_length),
        description=f"{family}, {task.name}, {dtype}: {', '.join(outputs)}",
        position_limit=limit,
        pad_token_id=getattr(config, "pad_token_id", None) or 0,
        input_defaults=_defaults(examples),
        task=task.name,
        **facts,
    )


def _from_object(value: Any, name: str, chosen: Task | None, dtype: str) -> ResolvedSource:
    """Takes what a factory returned: a `ModelSource` or a module."""
    import torch

    from raggedrt.models.wrap import DTYPES, in_dtype, source_in_dtype, wrap_module

    if isinstance(value, torch.export.ExportedProgram):
        if dtype != "fp32" or chosen is not None:
            raise InputError(f"{name}: --dtype and --task apply to PyTorch modules; a program is fixed.")
        model, limit = program_source(value, name)
        return _program(model, limit, name, None, weights_digest(name, value))
    if not isinstance(value, (ModelSource, torch.nn.Module)):
        raise InputError(f"{name}: expected an nn.Module or a raggedrt.ModelSource, found {type(value).__name__}.")
    wanted = DTYPES[dtype]
    source = source_in_dtype(value, wanted) if isinstance(value, ModelSource) else None
    module: Any = source.module if source is not None else in_dtype(value, wanted)
    if isinstance(module, torch.nn.Module):
        module.eval()
    digest = weights_digest(name, module)
    config = getattr(value, "config", None)
    if source is None and hasattr(config, "model_type"):
        task = chosen or task_from_architectures([type(value).__name__], name)
        return _transformers_source(module, config, task, task.outputs, dtype, path=None, digest=digest)
    if chosen is not None:
        raise InputError(f"{name}: --task applies to transformers models; this factory says itself what it returns.")
    model = source or wrap_module(module)
    description = f"{name}, {dtype}: {', '.join(model.output_names)}"
    return ResolvedSource("torch", model, None, digest, description, input_defaults=_defaults(model.example_inputs))


def _from_program(path: Path, chosen: Task | None, allow_pickle: bool) -> ResolvedSource:
    """Loads a `.pt2` program if unpickling is permitted."""
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    if not allow_pickle:
        raise InputError(
            f"{path}: a .pt2 program is code (it contains pickled objects). Pass --allow-pickle (allow_pickle=True) if "
            "you trust where it is from."
        )
    if chosen is not None:
        logger.warning("%s: --task is left aside, for a program is exported as it is", path)
    model, limit = load_program(path)
    return _program(model, limit, str(path), path, checkpoint.digest_of(path.parent, [path]))


def _program(model: ModelSource, limit: int | None, name: str, path: Path | None, digest: str) -> ResolvedSource:
    return ResolvedSource(
        "pt2",
        model,
        path,
        digest,
        f"torch.export program {name}: {', '.join(model.output_names)}",
        position_limit=limit,
        input_defaults=_defaults(model.example_inputs),
    )


def _defaults(names: Iterable[str]) -> dict[str, int]:
    """Returns what fills those inputs that a caller may leave out."""
    return {name: INPUT_DEFAULTS[name] for name in names if name in INPUT_DEFAULTS and name != "input_ids"}


def _truncation(directory: Path) -> int | None:
    """Returns the length, in tokens, at which a sentence-transformers directory cuts texts."""
    path = directory / "sentence_bert_config.json"
    value = checkpoint.read_json(path).get("max_seq_length") if path.is_file() else None
    return value if isinstance(value, int) else None
