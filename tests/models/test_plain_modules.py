from __future__ import annotations

import pytest
import torch
from torch import nn

from raggedrt.errors import InputError
from raggedrt.models.resolve import resolve

pytestmark = pytest.mark.ort_cpu


class Embedder(nn.Module):
    def __init__(self, vocabulary: int, positions: int, *, reach: int = 0) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, 4)
        self.positions = nn.Embedding(positions, 4)
        self.reach = reach

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        slots = torch.arange(input_ids.shape[1])
        return (self.words(input_ids + self.reach) + self.positions(slots)) * attention_mask[..., None]


def test_a_vocabulary_smaller_than_the_position_table_is_found() -> None:
    source = resolve(Embedder(10, 64)).model
    assert source is not None
    assert int(source.example_inputs["input_ids"].max()) < 10


def test_a_module_that_takes_none_of_the_ids_is_bad_input() -> None:
    with pytest.raises(InputError, match="ModelSource with example_inputs"):
        resolve(Embedder(10, 64, reach=1000))


class Broken(Embedder):
    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return super().forward(input_ids, attention_mask) @ torch.zeros(5, 4)


def test_a_module_that_fails_in_pytorch_is_bad_input() -> None:
    with pytest.raises(InputError, match=r"Broken: .*input_ids \[\d, \d+\].*RuntimeError.*shapes cannot be multiplied"):
        resolve(Broken(10, 64))
