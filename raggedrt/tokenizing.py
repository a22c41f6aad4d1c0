"""Texts to token ids, with the tokenizer that lies in a bundle; no torch, no transformers."""

from __future__ import annotations

import pathlib
import shutil
from typing import TYPE_CHECKING

import numpy as np

from raggedrt.errors import InputError

if TYPE_CHECKING:
    import tokenizers

    from raggedrt.plugins.bundle.reader import Bundle

FIELDS = {"input_ids": "ids", "token_type_ids": "type_ids", "attention_mask": "attention_mask"}
"""Graph input -> attribute of an encoding."""


def read_texts(path: pathlib.Path) -> list[str]:
    """The non-empty lines of a UTF-8 file, one text per line.

    Raises:
        InputError: unreadable, not UTF-8, or empty.
    """
    try:
        texts = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error}); give a text file") from error
    if not texts:
        raise InputError(f"{path}: holds no text; write one text per line")
    return texts


def tokenize(bundle: Bundle, texts: list[str], max_length: int | None = None) -> list[dict[str, np.ndarray]]:
    """Token ids of each text, cut at `max_length` tokens and at the model's position limit.

    Returns:
        Per text: `input_ids`, `token_type_ids` and `attention_mask`, int64 [tokens].

    Raises:
        InputError: the bundle has no usable tokenizer.
    """
    tokenizer = load_tokenizer(bundle)
    tokenizer.no_padding()
    limits = [limit for limit in (max_length, bundle.manifest.position_limit) if limit]
    if limits:
        tokenizer.enable_truncation(max_length=min(limits))
    else:
        tokenizer.no_truncation()
    return [
        {name: np.asarray(getattr(encoding, field), np.int64) for name, field in FIELDS.items()}
        for encoding in tokenizer.encode_batch(texts)
    ]


def load_tokenizer(bundle: Bundle) -> tokenizers.Tokenizer:
    """The tokenizer of `bundle`.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    import tokenizers

    folder = bundle.tokenizer_path
    file = folder / "tokenizer.json" if folder else None
    if file is None or not file.is_file():
        raise InputError(
            f"{bundle.path}: has no tokenizer/tokenizer.json, so texts cannot be tokenised; "
            "give token ids with --inputs"
        )
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises the bare class
        raise InputError(f"{file}: is not a tokenizer ({error}); convert the model again") from error


def copy_tokenizer(source: pathlib.Path | None, destination: pathlib.Path) -> bool:
    """Copy the tokenizer files of a model directory, if it has any, and say whether it had."""
    from raggedrt.models.checkpoint import TOKENIZER_FILES

    files = [source / name for name in TOKENIZER_FILES if (source / name).is_file()] if source else []
    if files:
        destination.mkdir()
    for file in files:
        shutil.copyfile(file, destination / file.name)
    return bool(files)
