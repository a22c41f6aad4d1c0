"""Loads a Hugging Face directory for a task, without ever running code from it and without inventing weights."""

from __future__ import annotations

import contextlib
import importlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raggedrt.errors import InputError, TargetError
from raggedrt.models.catalog import ModelAdapter, adapter_for
from raggedrt.models.checkpoint import CONFIG, read_json
from raggedrt.models.tasks import FEATURE_EXTRACTION, TEXT_GENERATION, Task

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)


def load_config(directory: Path) -> Any:
    """Returns the transformers configuration.

    Raises:
        InputError: config.json is damaged or its model_type is unknown.
        TargetError: transformers is not installed.
    """
    transformers = import_transformers(str(directory))
    raw = read_json(directory / CONFIG)
    model_type = raw.get("model_type")
    if model_type not in transformers.CONFIG_MAPPING:
        own_code = " It wants its own Python code (auto_map), which is never run." if raw.get("auto_map") else ""
        raise InputError(
            f"{directory / CONFIG}: model_type {model_type!r} is not one that transformers {transformers.__version__} "
            f"knows.{own_code} Name a supported model, or give a factory `package.module:function` that builds it."
        )
    if raw.get("auto_map"):
        logger.warning(
            "%s asks for its own Python code (auto_map), which is never run; transformers' class is used", directory
        )
    try:
        return transformers.AutoConfig.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # transformers raises many kinds for a bad configuration
        raise InputError(
            f"{directory / CONFIG}: transformers cannot read this configuration ({_first_line(error)})."
        ) from error


def load_model(directory: Path, config: Any, task: Task, *, allow_pickle: bool) -> tuple[Any, tuple[str, ...]]:
    """Loads the module for a task; returns it with the output names it can serve.

    Raises:
        InputError: The family has no such task, or the checkpoint lacks weights for it.
    """
    transformers = import_transformers(str(directory))
    adapter = adapter_for(config.model_type)
    check_task(adapter, config, task, str(directory))
    auto_class = getattr(transformers, _auto_class(config, task))
    if type(config) not in auto_class._model_mapping:
        raise InputError(
            f"{directory}: a {config.model_type} model has no form for the task {task.name} "
            f"(transformers' {auto_class.__name__} does not list it). Choose another --task."
        )
    with quiet_transformers():
        try:
            module, info = auto_class.from_pretrained(
                directory,
                config=config,
                attn_implementation=attention_implementation(adapter, auto_class._model_mapping[type(config)]),
                dtype="float32",
                use_safetensors=None if allow_pickle else True,
                weights_only=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
        except MemoryError:
            raise
        except Exception as error:  # damaged weights surface as many kinds
            if "can't allocate memory" in str(error):  # torch's own wording for the CPU
                raise MemoryError(str(error)) from error
            raise InputError(f"{directory}: the weights cannot be loaded ({_first_line(error)}).") from error
    missing = sorted({*info["missing_keys"], *(str(key[0]) for key in info["mismatched_keys"])})
    return module.eval(), _servable_outputs(directory, task, missing)


def _auto_class(config: Any, task: Task) -> str:
    """An encoder-decoder serves feature extraction through its encoder."""
    if getattr(config, "is_encoder_decoder", False) and task.auto_class == "AutoModel":
        return "AutoModelForTextEncoding"
    return task.auto_class


def check_task(adapter: ModelAdapter, config: Any, task: Task, where: str) -> None:
    """Refuses what would load but compute something else than the name says.

    Raises:
        InputError: Text generation from an encoder, or an encoder-decoder's decoder.
    """
    if task is TEXT_GENERATION and adapter.encoder and not getattr(config, "is_decoder", False):
        raise InputError(
            f"{where}: a {config.model_type} model whose configuration does not say is_decoder is an encoder and "
            "cannot generate text. Use --task fill-mask or feature-extraction."
        )
    if getattr(config, "is_encoder_decoder", False) and task.auto_class != "AutoModel":
        raise InputError(
            f"{where}: a {config.model_type} model is an encoder-decoder, which task {task.name} cannot export. "
            "Use --task feature-extraction for its encoder, or give a factory `package.module:function`."
        )


def attention_implementation(adapter: ModelAdapter, model_class: Any) -> str:
    """Returns the first implementation that the class supports: sdpa where it does, else eager."""
    supported = {"eager": True, "sdpa": bool(getattr(model_class, "_supports_sdpa", False))}
    return next((name for name in adapter.attention if supported.get(name)), "eager")


def _servable_outputs(directory: Path, task: Task, missing: list[str]) -> tuple[str, ...]:
    """Drops optional outputs whose weights are missing; any other missing weight is an error."""
    pooler = [name for name in missing if "pooler" in name.split(".")]
    others = [name for name in missing if name not in pooler]
    if others or (pooler and not task.optional_outputs and task.auto_class != "AutoModel"):
        shown = ", ".join((others or pooler)[:6]) + (", …" if len(others or pooler) > 6 else "")
        raise InputError(
            f"{directory}: the checkpoint has no weights for {shown}, which the task {task.name} needs; random weights "
            "are never used in their place. Choose the task the model was trained for, or another checkpoint."
        )
    if pooler and task is FEATURE_EXTRACTION:
        logger.warning("%s: no pooler weights in the checkpoint; pooler_output is left out", directory)
    dropped = task.optional_outputs if pooler else ()
    return tuple(name for name in task.outputs if name not in dropped)


def import_transformers(where: str) -> Any:
    """Imports transformers.

    Raises:
        TargetError: It is not installed.
    """
    try:
        import torch  # noqa: F401  (transformers imports without it and fails later)
        import transformers
    except ImportError as error:
        raise TargetError(
            f"{where}: PyTorch sources need torch and transformers ({error}); run `pip install 'raggedrt[hf]'`."
        ) from error
    return transformers


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silences the loading table and progress bars; what matters in them is checked and raised here."""
    transformers_logging: Any = importlib.import_module("transformers.utils.logging")
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    """Returns the first line of a message, at most 300 characters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]
