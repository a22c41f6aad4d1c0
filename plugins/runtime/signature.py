"""What a graph expects of its feeds, worked out once per session from the manifest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from raggedrt.errors import InputError
from raggedrt.plugins.bundle.manifest import InputRecord, Manifest
from raggedrt.plugins.contract.io_roles import Role

TOKEN_AXES = {"padded": 2, "ragged": 1}
"""Leading axes of a per-token tensor: [B, S, ...] or [T, ...]."""


@dataclasses.dataclass(frozen=True)
class Port:
    """One graph input. `inner` is the shape of one token or one sequence: what follows the leading axes."""

    name: str
    role: Role
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]
    inner: tuple[int | str, ...]
    default: int | float | None
    pad_value: int | float


@dataclasses.dataclass(frozen=True)
class Signature:
    """Inputs by name, outputs by role.

    Attributes:
        ports: inputs in graph order.
        roles: role of each output, in graph order.
        mask_name: name under which callers give `[B, S]` masks.
        position_limit: longest sequence in tokens.
        ragged: whether the graph takes packed tokens.
        least: least shape of each input, where there is an engine that takes no lesser one; else empty.
    """

    ports: dict[str, Port]
    roles: dict[str, Role]
    mask_name: str
    position_limit: int | None
    ragged: bool
    least: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    def with_role(self, role: Role) -> list[Port]:
        """Inputs of one role."""
        return [port for port in self.ports.values() if port.role is role]


def make_signature(manifest: Manifest) -> Signature:
    """Derive the signature.

    Raises:
        InputError: the manifest names an unknown dtype, or an input has fewer axes than its role.
    """
    masks = [record.name for record in manifest.inputs if record.role is Role.ATTENTION_MASK]
    return Signature(
        ports={record.name: _port(record, TOKEN_AXES[manifest.io]) for record in manifest.inputs},
        roles={record.name: record.role for record in manifest.outputs},
        mask_name=masks[0] if masks else manifest.mask_input,
        position_limit=manifest.position_limit,
        ragged=manifest.io == "ragged",
        least=manifest.profiles[0].minimum if manifest.profiles else {},
    )


def _port(record: InputRecord, token_axes: int) -> Port:
    leading = {Role.PER_TOKEN: token_axes, Role.PER_SEQUENCE: 1, Role.ATTENTION_MASK: 2}.get(record.role, 0)
    if len(record.shape) < leading:
        raise InputError(f"the manifest gives input {record.name!r} the role {record.role} but shape {record.shape}.")
    inner = record.shape[leading:]
    return Port(
        record.name, record.role, numpy_dtype(record.dtype), record.shape, inner, record.default, record.pad_value
    )


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The dtype of a numpy or ml_dtypes name.

    Raises:
        InputError: there is no such dtype.
    """
    try:
        return np.dtype(getattr(ml_dtypes, name, name))
    except TypeError:
        raise InputError(f"the manifest names the unknown dtype {name!r}; convert the model again.") from None
