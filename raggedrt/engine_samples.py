"""Inputs for tools that know nothing of packed tokens: `cu_seqlens` that they make up would lead kernels anywhere."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes  # noqa: F401 - numpy knows bfloat16 then
import numpy as np
import numpy.typing as npt

from raggedrt.errors import InputError
from raggedrt.plugins.bundle.manifest import ShapeProfile
from raggedrt.plugins.contract.io_roles import Role, TensorRole

Array = npt.NDArray[Any]
LOADER_NAME = "load.py"
_LOADER = '''"""The sample inputs of the first profile, for `polygraphy run --data-loader-script`."""

import pathlib

import numpy as np

INPUTS = {inputs}


def load_data():
    folder = pathlib.Path(__file__).resolve().parent / "0"
    yield {{
        name: np.fromfile(folder / file, dtype).reshape(shape) for name, (file, dtype, shape) in INPUTS.items()
    }}
'''


def sample_name(name: str) -> str:
    """File of an input; names of ONNX may have any character."""
    return "".join(letter if letter.isalnum() or letter in "_-." else "_" for letter in name) + ".bin"


def write_samples(folder: pathlib.Path, profiles: Sequence[ShapeProfile], inputs: Sequence[TensorRole]) -> None:
    """Write inputs at the best shapes of each profile as raw files, and a script that reads those of the first."""
    for number, profile in enumerate(profiles):
        place = folder / str(number)
        place.mkdir(parents=True, exist_ok=True)
        for name, array in sample_inputs(profile.optimum, inputs).items():
            array.tofile(place / sample_name(name))
    described = {
        role.name: (sample_name(role.name), role.dtype, tuple(profiles[0].optimum[role.name])) for role in inputs
    }
    (folder / LOADER_NAME).write_text(_LOADER.format(inputs=described), encoding="utf-8")


def sample_inputs(shapes: Mapping[str, tuple[int, ...]], inputs: Sequence[TensorRole]) -> dict[str, Array]:
    """Sequences as equal as these shapes allow. Every slot holds a token; ids are 0, which every vocabulary has."""
    arrays: dict[str, Array] = {}
    for role in inputs:
        dtype = np.dtype(role.dtype)
        is_index = dtype.kind in "iu" and role.role is not Role.ATTENTION_MASK
        arrays[role.name] = np.full(shapes[role.name], 0 if is_index else 1, dtype)
    tokens = next((shapes[role.name][0] for role in inputs if role.role is Role.PER_TOKEN), 0)
    for role in inputs:
        if role.role is Role.CU_SEQLENS:
            rows = shapes[role.name][0] - 1
            if rows < 1:
                raise InputError(f"{role.name!r} of a profile has room for no sequence; build the engine again")
            arrays[role.name] = (np.arange(rows + 1) * tokens // rows).astype(role.dtype)
    return arrays
