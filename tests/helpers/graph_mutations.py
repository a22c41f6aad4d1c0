"""Ways to break an ONNX graph, as tools, hands and transfers do. Each takes a model and a random generator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import helper, numpy_helper

Rng = np.random.Generator
HUGE = (0, -1, 1, 2**31, -(2**31), 2**62, -(2**62))
OPS = (
    "Relu",
    "MatMul",
    "Add",
    "Softmax",
    "Transpose",
    "Reshape",
    "Gather",
    "Concat",
    "If",
    "Conv",
    "Nonsense",
    "Where",
)
DEEP = 60
"""Functions or subgraphs within one another."""


def _pick(rng: Rng, items: Any) -> Any:
    items = list(items)
    return items[int(rng.integers(len(items)))] if items else None


def _values(model: onnx.ModelProto) -> list[str]:
    graph = model.graph
    names = [*(value.name for value in graph.input), *(tensor.name for tensor in graph.initializer)]
    return names + [name for node in graph.node for name in node.output if name]


def drop_node(model: onnx.ModelProto, rng: Rng) -> None:
    del model.graph.node[int(rng.integers(len(model.graph.node)))]


def skip_node(model: onnx.ModelProto, rng: Rng) -> None:
    """Readers of a node's output read its first input instead."""
    node = _pick(rng, [node for node in model.graph.node if node.input and node.output])
    for reader in model.graph.node if node is not None else ():
        for number, name in enumerate(reader.input):
            if name == node.output[0]:
                reader.input[number] = node.input[0]


def repeat_node(model: onnx.ModelProto, rng: Rng) -> None:
    number = int(rng.integers(len(model.graph.node)))
    copy = onnx.NodeProto()
    copy.CopyFrom(model.graph.node[number])
    if rng.random() < 0.5:
        del copy.output[:]
        copy.output.append(f"again_{number}")
        for reader in list(model.graph.node)[number + 1 :]:
            for place, name in enumerate(reader.input):
                if name in model.graph.node[number].output and rng.random() < 0.5:
                    reader.input[place] = copy.output[0]
    model.graph.node.insert(number + 1, copy)


def rewire(model: onnx.ModelProto, rng: Rng) -> None:
    """An input becomes any other value: of another shape, of a later node (a cycle), or none at all."""
    node = _pick(rng, [node for node in model.graph.node if node.input])
    if node is not None:
        node.input[int(rng.integers(len(node.input)))] = _pick(rng, [*_values(model), "", "nowhere"])


def rewire_alike(model: onnx.ModelProto, rng: Rng) -> None:
    """An input becomes one of another node of the same op: usually still a valid graph with other values."""
    node = _pick(rng, [node for node in model.graph.node if node.input])
    other = _pick(rng, [o for o in model.graph.node if o.op_type == node.op_type]) if node is not None else None
    if other is not None and node is not None:
        number = int(rng.integers(min(len(node.input), len(other.input))))
        node.input[number] = other.input[number]


def swap_inputs(model: onnx.ModelProto, rng: Rng) -> None:
    node = _pick(rng, [node for node in model.graph.node if len(node.input) > 1])
    if node is not None:
        first, second = rng.choice(len(node.input), 2, replace=False)
        node.input[first], node.input[second] = node.input[second], node.input[first]


def drop_input(model: onnx.ModelProto, rng: Rng) -> None:
    node = _pick(rng, [node for node in model.graph.node if node.input])
    if node is not None:
        del node.input[int(rng.integers(len(node.input)))]


def drop_outputs(model: onnx.ModelProto, rng: Rng) -> None:
    node = _pick(rng, model.graph.node)
    if rng.random() < 0.5:
        del node.output[:]
    else:
        node.output.append(_pick(rng, ["", "more", *_values(model)]))


def reorder(model: onnx.ModelProto, rng: Rng) -> None:
    nodes = list(model.graph.node)
    first, second = sorted(rng.choice(len(nodes), 2, replace=False))
    nodes[first], nodes[second] = nodes[second], nodes[first]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def other_op(model: onnx.ModelProto, rng: Rng) -> None:
    node = _pick(rng, model.graph.node)
    node.op_type = _pick(rng, [*OPS, *(other.op_type for other in model.graph.node)])


def other_domain(model: onnx.ModelProto, rng: Rng) -> None:
    node = _pick(rng, model.graph.node)
    node.domain = _pick(rng, ["com.example", "com.microsoft", "ai.onnx", "ai.onnx.ml", "raggedrt", "raggedrt.torch"])
    if rng.random() < 0.7:
        model.opset_import.append(helper.make_opsetid(node.domain, int(_pick(rng, [1, 2, 99]))))


def other_attribute(model: onnx.ModelProto, rng: Rng) -> None:
    node = _pick(rng, [node for node in model.graph.node if node.attribute])
    if node is None:
        return
    attribute = _pick(rng, node.attribute)
    kind = int(rng.integers(4))
    if kind == 0:
        node.attribute.remove(attribute)
    elif kind == 1:
        attribute.type = int(_pick(rng, range(1, 15)))
    else:
        value = _pick(rng, HUGE)
        name = attribute.name
        node.attribute.remove(attribute)
        node.attribute.append(helper.make_attribute(name, _pick(rng, [value, [value], [value] * 9, "text", 1e30])))


def new_attribute(model: onnx.ModelProto, rng: Rng) -> None:
    node = _pick(rng, model.graph.node)
    name = _pick(
        rng, ["axis", "perm", "to", "keepdims", "scale", "num_heads", "is_causal", "allowzero", "softcap", "x"]
    )
    if name not in [attribute.name for attribute in node.attribute]:
        node.attribute.append(helper.make_attribute(name, _pick(rng, [*HUGE, [0, 0], [5], 0.5, float("nan"), "x"])))


def cut_weights(model: onnx.ModelProto, rng: Rng) -> None:
    tensor = _pick(rng, [t for t in model.graph.initializer if len(t.raw_data) > 1])
    if tensor is not None:
        tensor.raw_data = tensor.raw_data[: int(rng.integers(len(tensor.raw_data)))]


def other_weights(model: onnx.ModelProto, rng: Rng) -> None:
    """Another shape, type or extreme numbers in a constant."""
    tensor = _pick(rng, model.graph.initializer)
    if tensor is None:
        return
    kind = int(rng.integers(5))
    if kind == 0 and tensor.dims:
        tensor.dims[int(rng.integers(len(tensor.dims)))] = _pick(rng, HUGE)
    elif kind == 1:
        tensor.data_type = int(_pick(rng, [0, 1, 2, 6, 7, 8, 9, 10, 11, 14, 16, 23, 99]))
    elif kind == 2:
        tensor.dims.append(1)
    else:
        array = numpy_helper.to_array(tensor).copy()
        if array.size and array.dtype.kind in "if":
            extreme = [np.nan, np.inf, 1e30, 0.0, -1.0] if array.dtype.kind == "f" else HUGE
            with np.errstate(all="ignore"):
                array.reshape(-1)[int(rng.integers(array.size))] = np.array(_pick(rng, extreme)).astype(array.dtype)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def cut_constant(model: onnx.ModelProto, rng: Rng) -> None:
    """A constant with rows removed, consistently: valid ONNX of another size."""
    tensor = _pick(rng, [t for t in model.graph.initializer if t.dims and t.dims[0] > 0])
    if tensor is not None:
        array = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(array[: int(rng.integers(len(array)))].copy(), tensor.name))


def other_input(model: onnx.ModelProto, rng: Rng) -> None:
    value = _pick(rng, model.graph.input)
    if value is None:
        return
    tensor = value.type.tensor_type
    kind = int(rng.integers(6))
    if kind == 0:
        tensor.elem_type = int(_pick(rng, [0, 1, 7, 9, 8, 10, 99]))
    elif kind == 1:
        tensor.ClearField("shape")
    elif kind == 2:
        tensor.shape.dim.add().dim_param = "extra"
    elif kind == 3 and tensor.shape.dim:
        del tensor.shape.dim[0]
    elif kind == 4 and tensor.shape.dim:
        _pick(rng, tensor.shape.dim).dim_value = _pick(rng, [*HUGE, 7])
    else:
        value.name = _pick(rng, ["", "mask", "renamed"])


def other_output(model: onnx.ModelProto, rng: Rng) -> None:
    value = _pick(rng, model.graph.output)
    kind = int(rng.integers(3))
    if value is None or kind == 0:
        model.graph.output.append(helper.make_empty_tensor_value_info(_pick(rng, [*_values(model), "nowhere"])))
    elif kind == 1:
        model.graph.output.remove(value)
    else:
        value.type.tensor_type.shape.dim.add().dim_value = 3


def other_opset(model: onnx.ModelProto, rng: Rng) -> None:
    if model.opset_import and rng.random() < 0.8:
        model.opset_import[0].version = int(_pick(rng, [*range(12, 28), 0, -1, 2**40]))
    else:
        del model.opset_import[:]


def external_weights(model: onnx.ModelProto, rng: Rng) -> None:
    tensor = _pick(rng, model.graph.initializer)
    if tensor is not None:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        places = ["", "missing.bin", "../outside.bin", "/etc/passwd", "m.onnx", ".", "x" * 300, "a\0b", "./m.onnx"]
        numbers = ["0", "-5", "x", "1.5", "", *map(str, (2**31, 2**63 - 1, 2**64 - 64, 2**70))]
        for key, text in (
            ("location", _pick(rng, places)),
            ("offset", _pick(rng, numbers)),
            *([("length", _pick(rng, [*numbers, "4", str(len(tensor.raw_data))]))] if rng.random() < 0.7 else []),
        ):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, text
        if rng.random() < 0.5:
            tensor.ClearField("raw_data")


def other_ir_version(model: onnx.ModelProto, rng: Rng) -> None:
    model.ClearField("ir_version")
    version = _pick(rng, [None, 0, 1, 2, 3, 7, 13, 99, -3, 2**40])
    if version is not None:
        model.ir_version = version


def stands_twice(model: onnx.ModelProto, rng: Rng) -> None:
    """An input, output, initializer, opset or node that is there already, sometimes changed a little."""
    graph = model.graph
    values = _pick(rng, [graph.input, graph.output, graph.initializer, graph.node, model.opset_import, model.functions])
    entry = _pick(rng, values)
    if entry is not None:
        copy = type(entry).FromString(entry.SerializeToString())
        if values is model.opset_import and rng.random() < 0.5:
            copy.version = int(_pick(rng, [17, 18, 22, 24]))
        values.append(copy)


def doubling_functions(model: onnx.ModelProto, rng: Rng) -> None:
    """Functions that call the one before twice: few lines, 2 to the power of their number nodes when inlined."""
    node = _pick(rng, [n for n in model.graph.node if n.output and n.output[0]])
    if node is None:
        return
    opsets = [*model.opset_import, helper.make_opsetid("twice", 1)]
    for level in range(int(_pick(rng, [2, 4, 40]))):
        op, domain = ("Identity", "") if level == 0 else (f"d{level - 1}", "twice")
        calls = [helper.make_node(op, [a], [b], domain=domain) for a, b in (("x", "between"), ("between", "y"))]
        model.functions.append(helper.make_function("twice", f"d{level}", ["x"], ["y"], calls, opsets))
    name, number = node.output[0], list(model.graph.node).index(node)
    node.output[0] = f"{name}_once"
    model.graph.node.insert(number + 1, helper.make_node(f"d{level}", [f"{name}_once"], [name], domain="twice"))
    if "twice" not in [item.domain for item in model.opset_import]:
        model.opset_import.append(helper.make_opsetid("twice", 1))


def into_functions(model: onnx.ModelProto, rng: Rng) -> None:
    """A node becomes a call of a function of a function …; sometimes one that calls itself."""
    node = _pick(rng, [n for n in model.graph.node if len(n.output) == 1 and n.input and "" not in n.input])
    if node is None:
        return
    depth = int(_pick(rng, [1, 3, DEEP]))
    body = onnx.NodeProto.FromString(node.SerializeToString())
    opsets = [*model.opset_import, helper.make_opsetid("local", 1)]
    names = [f"i{number}" for number in range(len(node.input))]
    inner = onnx.NodeProto.FromString(body.SerializeToString())
    inner.input[:], inner.output[:] = names, ["o"]
    for level in range(depth):
        model.functions.append(helper.make_function("local", f"f{level}", names, ["o"], [inner], opsets))
        inner = helper.make_node(f"f{level}", names, ["o"], domain="local")
    if rng.random() < 0.2:
        model.functions[-depth].node[0].CopyFrom(inner)
    node.ClearField("attribute")
    node.op_type, node.domain = f"f{depth - 1}", "local"
    if "local" not in [item.domain for item in model.opset_import]:
        model.opset_import.append(helper.make_opsetid("local", 1))


def into_subgraph(model: onnx.ModelProto, rng: Rng) -> None:
    """A node moves into a branch of an If, or of Ifs within one another."""
    node = _pick(rng, [n for n in model.graph.node if len(n.output) == 1 and n.output[0] and n.input and n.input[0]])
    if node is None:
        return
    inner = onnx.NodeProto.FromString(node.SerializeToString())
    for level in range(int(_pick(rng, [1, 2, DEEP // 2]))):
        result = f"{node.output[0]}_in_{level}"
        inner.output[0] = result
        branch = helper.make_graph([inner], f"branch_{level}", [], [helper.make_empty_tensor_value_info(result)])
        same = helper.make_node("Identity", [node.input[0]], [result])  # a second copy would double at every level
        other = helper.make_graph([same], f"other_{level}", [], [helper.make_empty_tensor_value_info(result)])
        inner = helper.make_node("If", ["condition"], [node.output[0]], then_branch=branch, else_branch=other)
    node.CopyFrom(inner)
    if "condition" not in [tensor.name for tensor in model.graph.initializer]:
        model.graph.initializer.append(numpy_helper.from_array(np.array(True), "condition"))


def long_chain(model: onnx.ModelProto, rng: Rng) -> None:
    """Thousands of nodes in a row, each reading the last."""
    node = _pick(rng, [n for n in model.graph.node if n.output and n.output[0]])
    if node is None:
        return
    name, number = node.output[0], list(model.graph.node).index(node)
    op_type = _pick(rng, ["Identity", "Neg", "Not", "Softmax"])
    links = [helper.make_node(op_type, [f"{name}_{i}"], [f"{name}_{i + 1}" if i < 1999 else name]) for i in range(2000)]
    node.output[0] = f"{name}_0"
    rest = [onnx.NodeProto.FromString(n.SerializeToString()) for n in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([*rest[: number + 1], *links, *rest[number + 1 :]])


def other_names(model: onnx.ModelProto, rng: Rng) -> None:
    """Two values get one name, or a value the name of something that rewriting adds."""
    node = _pick(rng, [n for n in model.graph.node if n.output])
    if node is not None:
        node.output[0] = _pick(rng, [*_values(model), "cu_seqlens", "token_index", "", "a b\n", "é" * 300])


def wrong_shapes(model: onnx.ModelProto, rng: Rng) -> None:
    shape = [int(_pick(rng, [0, 1, 3, 7, 2**40])) for _ in range(int(rng.integers(5)))]
    kind = int(_pick(rng, [1, 7, 9]))
    model.graph.value_info.append(helper.make_tensor_value_info(_pick(rng, _values(model)), kind, shape))


def unknown_op_between(model: onnx.ModelProto, rng: Rng) -> None:
    node = _pick(rng, [n for n in model.graph.node if n.output and n.output[0]])
    if node is not None:
        name, number = node.output[0], list(model.graph.node).index(node)
        node.output[0] = f"{name}_before"
        model.graph.node.insert(
            number + 1, helper.make_node("Strange", [f"{name}_before"], [name], domain="com.example")
        )
        model.opset_import.append(helper.make_opsetid("com.example", 1))


MUTATIONS: tuple[Callable[[onnx.ModelProto, Rng], None], ...] = (
    drop_node, skip_node, skip_node, repeat_node, rewire, rewire_alike, rewire_alike, rewire_alike, swap_inputs,
    drop_input, drop_outputs, reorder, other_op, other_domain, other_attribute, new_attribute, cut_weights,
    other_weights, other_weights, cut_constant, other_input, other_output, other_opset, external_weights,
    into_functions, into_subgraph, long_chain, other_names, wrong_shapes, unknown_op_between, other_ir_version,
    stands_twice, doubling_functions,
)  # fmt: skip
"""Those that often leave a valid graph with other values are named more than once."""


def mutated(model: onnx.ModelProto, rng: Rng) -> tuple[bytes, list[str]]:
    """One to three mutations of a copy, serialised; sometimes bytes of the file are changed, too. And what was done."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    done = []
    for _ in range(int(rng.integers(1, 4))):
        mutation = _pick(rng, MUTATIONS)
        before = copy.SerializeToString()
        try:
            if copy.graph.node:
                mutation(copy, rng)
                copy.SerializeToString()
                done.append(mutation.__name__)
        except (
            ValueError,
            TypeError,
            DecodeError,
            EncodeError,
        ):  # what an earlier mutation left cannot be changed this way
            copy = onnx.ModelProto.FromString(before)
    data = bytearray(copy.SerializeToString())
    if rng.random() < 0.05:
        done.append("bytes")
        for place in rng.integers(len(data), size=3):
            data[place] = int(rng.integers(256))
        if rng.random() < 0.5:
            del data[int(rng.integers(len(data))) :]
    return bytes(data), done
