"""The plugin form loads in ONNX Runtime where ops are declared as its TensorRT provider declares plugins."""

from __future__ import annotations

import pathlib
import subprocess
from typing import Any

import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from helpers.encoder_graphs import EncoderSpec, build_encoder
from helpers.encoder_runs import rewritten
from helpers.project import compiler
from raggedrt.errors import RaggedRTError, TargetError
from raggedrt.plugins.contract.op_definition import ORT_PLUGIN_DOMAIN
from raggedrt.plugins.native.build import find_ort_headers
from raggedrt.plugins.registry import BY_NAME
from raggedrt.plugins.tensorrt.form import LSE_PLUGINS
from raggedrt.plugins.tensorrt.plugin_model import PLUGIN_MODEL_NAME, write_plugin_model
from raggedrt.provider_bundle import require_types

pytestmark = pytest.mark.ort_cpu
SOURCE = pathlib.Path(__file__).with_name("declared_ops.cc")


@pytest.fixture(scope="module")
def declarations(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    program = compiler()
    try:
        headers = find_ort_headers()
    except TargetError:
        headers = None
    if program is None or headers is None:
        pytest.skip("no C++ compiler, or no headers of ONNX Runtime (raggedrt doctor --build-ops obtains them)")
    library = tmp_path_factory.mktemp("declared") / "declared.so"
    names = ", ".join(f'"{name}"' for name in (*BY_NAME, *LSE_PLUGINS.values()))
    flags = ["-std=c++17", "-shared", "-fPIC", "-DORT_API_MANUAL_INIT", f"-DOP_NAMES={names}", f"-I{headers}"]
    subprocess.run([program, *flags, str(SOURCE), "-o", str(library)], check=True, timeout=600)
    return library


def load(path: pathlib.Path, declarations: pathlib.Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(declarations))
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def plugin_form(folder: pathlib.Path, io: str, **changes: Any) -> pathlib.Path:
    native = folder / "model.onnx"
    ir.save(rewritten(build_encoder(EncoderSpec(**changes)), target="ort-trt", io=io).model, native)
    write_plugin_model(native, folder / PLUGIN_MODEL_NAME, ORT_PLUGIN_DOMAIN)
    return folder / PLUGIN_MODEL_NAME


@pytest.mark.parametrize("io", ["padded", "ragged"])
@pytest.mark.parametrize(
    "changes",
    [{"head": "two"}, {"mask": "window"}, {"attention": "disentangled"}, {"dtype": ir.DataType.FLOAT16}],
    ids=["two heads", "window", "disentangled", "float16"],
)
def test_the_plugin_form_needs_nothing_inferred(
    changes: dict[str, Any], io: str, declarations: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    form = plugin_form(tmp_path, io, **changes)
    native = onnx.load(tmp_path / "model.onnx").graph
    session = load(form, declarations)
    assert [value.name for value in session.get_inputs()] == [value.name for value in native.input]
    assert [value.name for value in session.get_outputs()] == [value.name for value in native.output]
    require_types(onnx.load(form), form.name)


def test_without_the_types_in_the_file_it_would_not_load(declarations: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """What the test above is for: plugins say nothing of types."""
    form = plugin_form(tmp_path, "padded")
    model = onnx.load(form)
    del model.graph.value_info[:]
    onnx.save(model, form)
    with pytest.raises(RaggedRTError, match="whose type is not known"):
        require_types(model, form.name)
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.Fail, match="type inference failed"):
        load(form, declarations)
