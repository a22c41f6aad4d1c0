"""The file that TensorRT's parser takes: a model in plugin form beside the native one, with the same weights."""

from __future__ import annotations

import pathlib

import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from raggedrt.plugins.bundle.model_facts import OPS_METADATA
from raggedrt.plugins.contract.op_definition import DOMAIN
from raggedrt.plugins.tensorrt.form import to_plugins
from raggedrt.plugins.tensorrt.lengths_plan import OP_NAME, plan_from_lengths

PLUGIN_MODEL_NAME = "model.trt.onnx"


def write_plugin_model(model: pathlib.Path, path: pathlib.Path, domain: str = DOMAIN) -> None:
    """Write the plugin form of the ONNX file `model` to `path` in the same folder.

    Weights are not written again: both files name the same file of external data.

    Args:
        model: a file in native form, as the graph passes write it.
        path: file to write.
        domain: of the plugin nodes; `ORT_PLUGIN_DOMAIN` for ONNX Runtime's TensorRT provider.

    Raises:
        FeatureError: a node that no plugin serves.
    """
    assert path.parent == model.parent, "external data is named relative to the folder of the file"
    form = ir.load(model)
    to_plugins(form, domain)
    form.metadata_props.pop(OPS_METADATA, None)  # it counts nodes by the names of the native form
    ir.save(form, path)


def plan_without_mask(model: ir.Model) -> bool:
    """Let the packing plan of ragged inputs come from lengths alone, in place, which leaves no data-dependent size.

    Models that were converted for a target with plugins have it so already. Returns whether anything was changed.
    """
    if not plan_from_lengths(model):
        return False
    common_passes.InlinePass(lambda function: function.name == OP_NAME)(model)
    common_passes.RemoveUnusedNodesPass()(model)
    return True
