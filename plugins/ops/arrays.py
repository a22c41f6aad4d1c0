"""Array types and number formats that the references share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from raggedrt.errors import RaggedRTError
from raggedrt.plugins.contract.op_definition import ElementType

Array = npt.NDArray[Any]
Inputs = Mapping[str, Array | None]
"""Arrays by input name; absent optional ones are left out or None."""
Attributes = Mapping[str, int | float | Sequence[int]]
"""Values by attribute name; defaults are left out."""


def required(inputs: Inputs, name: str) -> Array:
    """The input `name`.

    Raises:
        RaggedRTError: It is absent.
    """
    value = inputs.get(name)
    if value is None:
        raise RaggedRTError(f"The input {name!r} is absent; give it to the reference.")
    return value


NUMPY_TYPES: dict[ElementType, np.dtype[Any]] = {
    ElementType.FLOAT: np.dtype(np.float32),
    ElementType.INT32: np.dtype(np.int32),
    ElementType.INT64: np.dtype(np.int64),
    ElementType.BOOL: np.dtype(np.bool_),
    ElementType.FLOAT16: np.dtype(np.float16),
    ElementType.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
}
