"""Roundings that ONNX Runtime's CPU provider leaves out, put back.

It multiplies 16-bit matrices in float32. Where the product is then read as float32, as scores are that a softmax takes,
it never rounds it to 16 bits. A GPU does, and weights of scores of a hundred move by percents; a check on the CPU has
to see it.
"""

from __future__ import annotations

import onnx_ir as ir

PRODUCTS = ("MatMul", "Gemm")


def rounded_products(model: ir.Model) -> list[ir.Node]:
    """Products that nobody but a cast to float32 reads, and that are not float32 as far as is known."""
    return [
        node
        for graph in (*model.graphs(), *model.functions.values())
        for node in graph
        if node.op_type in PRODUCTS and node.outputs[0].dtype is not ir.DataType.FLOAT and _is_widened(node.outputs[0])
    ]


def keep_roundings(products: list[ir.Node]) -> None:
    """Let these products be rounded, in place."""
    for node in products:
        value = node.outputs[0]
        ((reader, place),) = value.uses()
        rounded = ir.node("Max", [value])  # an op that the CPU provider computes in 16 bits
        assert node.graph is not None
        node.graph.insert_after(node, rounded)
        reader.replace_input_with(place, rounded.outputs[0])


def _is_widened(value: ir.Value) -> bool:
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output() or uses[0].node.op_type != "Cast":
        return False
    return uses[0].node.attributes["to"].as_int() == int(ir.DataType.FLOAT)
