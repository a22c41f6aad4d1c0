"""Weights beside a model are copied byte by byte, wherever they lay, and holes stay holes."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from raggedrt.external_data import write_with_external_data

pytestmark = pytest.mark.none

HOLE = 1 << 22


def _model(tensors: dict[str, Any]) -> ir.Model:
    values = []
    for name, tensor in tensors.items():
        if not isinstance(tensor, ir.ExternalTensor):
            tensor = ir.Tensor(tensor, name=name)
        shape, kind = ir.Shape(tensor.shape), ir.TensorType(tensor.dtype)
        values.append(ir.Value(name=name, shape=shape, type=kind, const_value=tensor))
    nodes = [ir.Node("", "Identity", [value], num_outputs=1) for value in values]
    for node in nodes:
        node.outputs[0].name = f"{node.inputs[0].name}_out"
    outputs = [node.outputs[0] for node in nodes]
    graph = ir.Graph([], outputs, nodes=nodes, initializers=values, opset_imports={"": 20}, name="g")
    return ir.Model(graph, ir_version=10)


def _read(path: Path) -> dict[str, Any]:
    model = onnx.load(str(path))
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def _arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "scalar": np.array(2.0, np.float32),
        "float": rng.standard_normal((70, 300)).astype(np.float32),
        "half": rng.standard_normal(5000).astype(np.float16),
        "brain": rng.standard_normal((9, 33)).astype(ml_dtypes.bfloat16),
        "flags": rng.random(999) < 0.5,
        "empty": np.zeros((0, 4), np.float32),
    }


def test_weights_in_memory_are_written(tmp_path: Path) -> None:
    arrays = _arrays()
    model = _model(arrays)
    before = ir.to_proto(model)
    write_with_external_data(model, tmp_path / "m.onnx", "m.onnx.data")
    assert ir.to_proto(model) == before
    found = _read(tmp_path / "m.onnx")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def _with_hole(folder: Path) -> tuple[ir.Model, Any]:
    """A tensor in a file: numbers, a hole, numbers, and it begins behind other bytes."""
    array = np.zeros(HOLE, np.float32)
    array[:3], array[-5:] = (1, 2, 3), (5, 6, 7, 8, 9)
    with (folder / "w.bin").open("wb") as handle:
        os.pwrite(handle.fileno(), array[:3].tobytes(), 100)
        os.pwrite(handle.fileno(), array[-5:].tobytes(), 100 + array.nbytes - 20)
    shape = ir.Shape([HOLE])
    tensor = ir.ExternalTensor("w.bin", 100, array.nbytes, ir.DataType.FLOAT, shape=shape, name="w", base_dir=folder)
    return _model({"small": np.ones(300, np.float32), "w": tensor}), array


def test_weights_in_a_file_are_copied_and_their_holes_stay(tmp_path: Path) -> None:
    model, array = _with_hole(tmp_path)
    write_with_external_data(model, tmp_path / "m.onnx", "m.data")
    np.testing.assert_array_equal(_read(tmp_path / "m.onnx")["w"], array)
    used = os.stat(tmp_path / "m.data").st_blocks * 512
    source = os.stat(tmp_path / "w.bin").st_blocks * 512
    assert used <= source + 3 * 4096 or source > array.nbytes // 2  # some file systems have no holes


@pytest.mark.parametrize("code", [errno.EXDEV, errno.ENOSYS])
def test_a_file_system_that_does_not_copy_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "copy_file_range", refuse)
    model, array = _with_hole(tmp_path)
    write_with_external_data(model, tmp_path / "m.onnx", "m.data")
    np.testing.assert_array_equal(_read(tmp_path / "m.onnx")["w"], array)


def test_a_file_that_ends_too_early_is_an_error(tmp_path: Path) -> None:
    model, _ = _with_hole(tmp_path)
    os.truncate(tmp_path / "w.bin", 104)
    tensor = model.graph.initializers["w"].const_value
    with pytest.raises(OSError, match="ends before 'w' does"):
        write_with_external_data(model, tmp_path / "m.onnx", "m.data")
    assert model.graph.initializers["w"].const_value is tensor
