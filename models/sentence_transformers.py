"""sentence-transformers directories: modules.json says which modules follow the transformer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raggedrt.errors import InputError
from raggedrt.models.checkpoint import check_safetensors, read_json

if TYPE_CHECKING:
    from torch import nn

    from raggedrt.models.task_modules import Pooling

MODULES = "modules.json"
_LEGACY_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True)
class SentenceTransformer:
    """What modules.json says.

    Attributes:
        root: The directory of modules.json.
        transformer: The directory of the transformer inside it (often the same).
        modules: (class name, directory) of the modules after the transformer.
    """

    root: Path
    transformer: Path
    modules: tuple[tuple[str, Path], ...]


def read_modules(root: Path) -> SentenceTransformer | None:
    """Returns the modules of a sentence-transformers directory, None for any other directory.

    Raises:
        InputError: modules.json is damaged or does not start with a Transformer.
    """
    path = root / MODULES
    if not path.is_file():
        return None
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        modules = [(entry["type"].rpartition(".")[2], root / entry["path"]) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: expected a list of modules with type and path ({error}). Get the file again."
        ) from error
    for _, folder in modules:
        if not folder.resolve().is_relative_to(root.resolve()):
            raise InputError(f"{path}: names a module outside the model directory ({folder}).")
    if not modules or modules[0][0] != "Transformer":
        found = modules[0][0] if modules else "nothing"
        raise InputError(f"{path}: expected a Transformer as the first module, found {found}; it cannot be exported.")
    return SentenceTransformer(root, modules[0][1], tuple(modules[1:]))


def pooling_modes(config: dict[str, Any]) -> tuple[str, ...]:
    """Returns the pooling modes of a Pooling configuration, in the old or the new spelling."""
    modes = config.get("pooling_mode")
    if modes is not None:
        return (modes,) if isinstance(modes, str) else tuple(modes)
    return tuple(mode for key, mode in _LEGACY_MODES.items() if config.get(key)) or ("mean",)


def load_head(source: SentenceTransformer) -> tuple[Pooling, nn.Sequential]:
    """Builds the modules after the transformer.

    Raises:
        InputError: A module or a pooling mode that cannot be exported.
    """
    from torch import nn

    from raggedrt.models.task_modules import POOLING_MODES, Normalize, Pooling

    if not source.modules or source.modules[0][0] != "Pooling":
        raise InputError(
            f"{source.root / MODULES}: expected a Pooling module after the Transformer for sentence-embedding."
        )
    config_path = source.modules[0][1] / "config.json"
    modes = pooling_modes(read_json(config_path))
    for mode in modes:
        if mode not in POOLING_MODES:
            raise InputError(f"{config_path}: pooling mode '{mode}' is not known; expected {', '.join(POOLING_MODES)}.")
    head: list[nn.Module] = []
    for name, folder in source.modules[1:]:
        if name == "Normalize":
            head.append(Normalize())
        elif name == "Dense":
            head.append(_load_dense(folder))
        elif name != "Dropout":  # does nothing at inference
            raise InputError(
                f"{source.root / MODULES}: the module {name} cannot be exported (Pooling, Dense, Normalize can). "
                "Use --task feature-extraction for the transformer alone."
            )
    return Pooling(modes), nn.Sequential(*head)


def _load_dense(folder: Path) -> nn.Module:
    """Builds a Dense module from its safetensors file."""
    from safetensors.torch import load_file
    from torch import nn

    config = read_json(folder / "config.json")
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    kind = getattr(nn, activation.rpartition(".")[2], None)
    if not activation.startswith("torch.nn.") or kind is None:
        raise InputError(f"{folder / 'config.json'}: the activation {activation} is not one of torch.nn's.")
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise InputError(f"{folder}: expected model.safetensors with the weights of the Dense module.")
    check_safetensors(weights)
    linear = nn.Linear(config["in_features"], config["out_features"], bias=config.get("bias", True))
    tensors = {name.removeprefix("linear."): tensor for name, tensor in load_file(weights).items()}
    linear.load_state_dict(tensors)
    return nn.Sequential(linear, kind())
