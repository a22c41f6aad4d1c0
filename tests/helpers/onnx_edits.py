"""Small changes to ONNX files that tests compare with the original."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper


def perturb(source: Path, target: Path) -> Path:
    """Save `source` as `target` with noise on its largest weight."""
    model = onnx.load(str(source))
    tensor = max(model.graph.initializer, key=lambda item: len(item.raw_data))
    array = onnx.numpy_helper.to_array(tensor)
    noise = np.random.default_rng(0).normal(0, 0.1, array.shape).astype(array.dtype)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array + noise, tensor.name))
    onnx.save(model, target)
    return target
