"""Hub ids: `org/name` becomes a local directory through huggingface_hub's cache and offline switches."""

from __future__ import annotations

import re
from pathlib import Path

from raggedrt.errors import InputError, TargetError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WANTED = ("*.json", "*.safetensors", "*.txt", "*.model")
_PICKLED = ("pytorch_model*.bin",)
_UNWANTED = ("onnx/*", "openvino/*", "original/*", "coreml/*", "flax_model*", "tf_model*")


def is_hub_id(source: str) -> bool:
    """Says whether `source` has the form `org/name`: one slash, no leading dot or slash, no such path here."""
    return _HUB_ID.fullmatch(source) is not None and not Path(source).exists()


def download_command(repo_id: str, revision: str | None) -> str:
    """Returns the command that fills the cache, to be run where the Hub can be reached."""
    return f"hf download {repo_id}" + (f" --revision {revision}" if revision else "")


def snapshot(repo_id: str, *, revision: str | None = None, allow_pickle: bool = False) -> Path:
    """Returns the directory of a model from the Hub or from the local cache.

    Raises:
        InputError: Neither cached nor reachable, or no such model or revision.
        TargetError: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError as error:
        raise TargetError(f"{repo_id}: Hub ids need huggingface_hub; run `pip install 'raggedrt[hf]'`.") from error
    try:
        return Path(
            snapshot_download(
                repo_id,
                revision=revision,
                allow_patterns=[*_WANTED, *(_PICKLED if allow_pickle else ())],
                ignore_patterns=list(_UNWANTED),
            )
        )
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{repo_id}: no such path here, and as a Hub id it is neither in the local cache nor reachable ({reason}). "
            f"Run `{download_command(repo_id, revision)}` where the Hub can be reached, or give a local directory."
        ) from error
