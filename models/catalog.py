"""Model families that have been checked, as one explicit table.

Other families that `transformers` knows go through `GENERIC`, which reads the same facts from the forward's signature
and the configuration; a row is needed only where those facts mislead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Positions = Literal["from_zero", "after_padding_id", "unlimited"]

# Inputs that this package knows how to make; a value is what fills the input when a caller leaves it out.
INPUT_DEFAULTS: Mapping[str, int] = {"input_ids": 0, "attention_mask": 1, "token_type_ids": 0}


@dataclass(frozen=True)
class ModelAdapter:
    """What exporting a family needs to know beyond `transformers`' own classes.

    Attributes:
        name: Family name as people write it.
        model_types: Values of `config.model_type`.
        inputs: Inputs of the forward, in the order of the exported graph; `token_type_ids` only counts where the
            configuration has more than one type.
        positions: Where position ids start: the padding id + 1 takes rows off the position table (RoBERTa).
        attention: Attention implementations in order of preference.
        encoder: Text generation is refused unless the configuration says decoder.
        note: Further models of the family.
        sparse_module: Module of this package whose `with_sparse_attention(model)` replaces attention that `torch.onnx`
            cannot export by one that it can; "" where it can.
    """

    name: str
    model_types: tuple[str, ...]
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")
    positions: Positions = "from_zero"
    attention: tuple[str, ...] = ("sdpa", "eager")
    encoder: bool = True
    note: str = ""
    sparse_module: str = ""


_WITH_TYPES = ("input_ids", "attention_mask", "token_type_ids")

ADAPTERS: tuple[ModelAdapter, ...] = (
    ModelAdapter("BERT", ("bert",), _WITH_TYPES, note="MiniLM and most sentence-transformers models"),
    ModelAdapter(
        "RoBERTa",
        ("roberta", "xlm-roberta", "camembert"),
        _WITH_TYPES,
        positions="after_padding_id",
        note="XLM-RoBERTa, CamemBERT",
    ),
    ModelAdapter("DistilBERT", ("distilbert",)),
    ModelAdapter("ALBERT", ("albert",), _WITH_TYPES),
    ModelAdapter("MPNet", ("mpnet",), positions="after_padding_id", attention=("eager",)),
    ModelAdapter("ModernBERT", ("modernbert",), note="local and global layers"),
    ModelAdapter("Mistral", ("mistral",), encoder=False, note="causal window"),
    ModelAdapter(
        "BigBird",
        ("big_bird",),
        _WITH_TYPES,
        note="block_sparse and original_full",
        sparse_module="raggedrt.models.big_bird",
    ),
    ModelAdapter(
        "Longformer",
        ("longformer",),
        _WITH_TYPES,
        positions="after_padding_id",
        note="window, and a global first token for text classification",
        sparse_module="raggedrt.models.longformer",
    ),
)

GENERIC = ModelAdapter("any transformers model with input_ids and attention_mask", (), _WITH_TYPES, encoder=False)

LENGTHS = ("max_position_embeddings", "max_seq_len")
"""What configurations call the number of positions that they have a table for; MPT has the latter."""

_BY_TYPE = {model_type: adapter for adapter in ADAPTERS for model_type in adapter.model_types}


def adapter_for(model_type: str) -> ModelAdapter:
    """Returns the family's row, or `GENERIC`."""
    return _BY_TYPE.get(model_type, GENERIC)


def position_limit(adapter: ModelAdapter, config: Any) -> int | None:
    """Returns the longest sequence the configuration allows, in tokens; None when it names no limit."""
    rows = next((rows for name in LENGTHS if (rows := getattr(config, name, None)) is not None), None)
    if not isinstance(rows, int) or rows <= 0 or adapter.positions == "unlimited":
        return None
    if adapter.positions == "after_padding_id":
        return rows - (getattr(config, "pad_token_id", None) or 0) - 1
    return rows
