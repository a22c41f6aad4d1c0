"""How an op is declared: once, as data. Schema, body, ORT adapter, tests and docs all read this.

Standard library only: it is imported while the package is being built.
"""

from __future__ import annotations

import dataclasses
import enum

DOMAIN = "raggedrt"
"""ONNX domain of every op, also its TensorRT plugin namespace."""
ORT_PLUGIN_DOMAIN = "trt.plugins"
"""ONNX Runtime's TensorRT provider hands nodes of this domain to TensorRT's plugin registry."""
OPSET_VERSION = 1


class ElementType(enum.Enum):
    """Element types by their ONNX `TensorProto.DataType` number."""

    FLOAT = 1
    INT32 = 6
    INT64 = 7
    BOOL = 9
    FLOAT16 = 10
    BFLOAT16 = 16


FLOATS = (ElementType.FLOAT, ElementType.FLOAT16, ElementType.BFLOAT16)
MASKS = (ElementType.INT32, ElementType.INT64, ElementType.BOOL, ElementType.FLOAT)
DATA = (*FLOATS, ElementType.INT32, ElementType.INT64, ElementType.BOOL)
INT32 = (ElementType.INT32,)
FLOAT32 = (ElementType.FLOAT,)


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """One input or output. `axes` are symbols (`"B"`, `"T"`, `"N*H"`); `"..."` stands for any further axes.

    Tensors of one op with the same `type_name` have the same element type.
    """

    name: str
    type_name: str
    element_types: tuple[ElementType, ...]
    axes: tuple[str, ...]
    optional: bool = False
    doc: str = ""


@dataclasses.dataclass(frozen=True)
class AttributeSpec:
    """One attribute. `default is None` means required."""

    name: str
    default: int | float | tuple[int, ...] | None
    doc: str = ""

    @property
    def onnx_type(self) -> str:
        """`INT`, `FLOAT` or `INTS`; required attributes are all integers."""
        if isinstance(self.default, tuple):
            return "INTS"
        return "FLOAT" if isinstance(self.default, float) else "INT"


@dataclasses.dataclass(frozen=True)
class OpDefinition:
    """A custom op of domain `raggedrt`."""

    name: str
    doc: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    attributes: tuple[AttributeSpec, ...] = ()

    def input_index(self, name: str) -> int:
        """Position of the input called `name`."""
        return [tensor.name for tensor in self.inputs].index(name)

    def attribute(self, name: str) -> AttributeSpec:
        """The attribute called `name`."""
        return next(a for a in (*self.attributes, *GUARD_ATTRIBUTES) if a.name == name)


GUARD_ATTRIBUTES = (
    AttributeSpec("abi", None, "op ABI version the node was written for"),
    AttributeSpec("features", None, "bits of every `Feature` the node uses"),
)
"""Carried by every node. ORT ignores unknown attributes and domain versions, so a kernel checks these itself."""
