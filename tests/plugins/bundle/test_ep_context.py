"""What EPContext nodes say, and that nothing outside the model's folder is taken for their content."""

from __future__ import annotations

import pathlib

import onnx
import pytest
from onnx import TensorProto, helper

from helpers.context_models import context_model, context_node
from raggedrt.errors import InputError
from raggedrt.plugins.bundle.ep_context import check_context_files, context_problem, ep_contexts, is_context_model

pytestmark = pytest.mark.none


def contexts_of(folder: pathlib.Path, **attributes: object) -> tuple:
    return ep_contexts(onnx.load(context_model(folder / "model_ctx.onnx", [context_node(**attributes)])))


def test_a_context_of_the_built_in_provider(tmp_path: pathlib.Path) -> None:
    (tmp_path / "part.engine").write_bytes(b"ftrt")
    (context,) = contexts_of(
        tmp_path,
        embed_mode=0,
        ep_cache_context="part.engine",
        hardware_architecture="89",
        onnx_model_filename="model.trt.onnx",
    )
    assert context.provider == "TensorrtExecutionProvider"
    assert (context.hardware, context.original, context.sdk_version) == ("89", "model.trt.onnx", None)
    assert check_context_files([context], tmp_path, "the model") == ("part.engine",)


def test_a_context_that_names_its_source_and_is_embedded(tmp_path: pathlib.Path) -> None:
    (context,) = contexts_of(
        tmp_path,
        name="part",
        source="NvTensorRTRTXExecutionProvider",
        ep_sdk_version="1.7.1.116",
        ep_cache_context=b"\x00\xffengine",
        partition_name="NvTensorRTRTX_1",
    )
    assert (context.provider, context.sdk_version) == ("NvTensorRTRTXExecutionProvider", "1.7.1.116")
    assert (context.partition, context.file, context.embedded_bytes) == ("NvTensorRTRTX_1", None, 8)
    assert check_context_files([context], tmp_path, "the model") == ()


def test_a_node_that_shares_the_content_of_another_names_no_file(tmp_path: pathlib.Path) -> None:
    (context,) = contexts_of(tmp_path, embed_mode=0, main_context=0, ep_cache_context="ignored.bin")
    assert context.file is None
    assert check_context_files([context], tmp_path, "the model") == ()


def test_contexts_in_branches_count(tmp_path: pathlib.Path) -> None:
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    branch = helper.make_graph([context_node(embed_mode=0, ep_cache_context="../x")], "b", [], [value])
    node = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    model = onnx.load(context_model(tmp_path / "m.onnx", [node]))
    assert is_context_model(model)
    assert len(ep_contexts(model)) == 2


def test_nodes_of_other_domains_are_none(tmp_path: pathlib.Path) -> None:
    node = helper.make_node("EPContext", ["x"], ["y"], domain="someone")
    assert not is_context_model(onnx.load(context_model(tmp_path / "m.onnx", [node])))


@pytest.mark.parametrize("place", ["../part.engine", "/etc/passwd", "a/../../part.engine", "a\\b", "./part.engine", ""])
def test_a_file_outside_the_folder_is_refused(tmp_path: pathlib.Path, place: str) -> None:
    (tmp_path / "part.engine").write_bytes(b"ftrt")
    folder = tmp_path / "model"
    (folder / "a").mkdir(parents=True)
    contexts = contexts_of(folder, embed_mode=0, ep_cache_context=place)
    with pytest.raises(InputError, match="a file outside its folder"):
        check_context_files(contexts, folder, "the model")


def test_links_and_missing_files_are_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "real.engine").write_bytes(b"ftrt")
    (tmp_path / "link.engine").symlink_to("real.engine")
    (linked,) = contexts_of(tmp_path, embed_mode=0, ep_cache_context="link.engine")
    assert "is a link" in str(context_problem(linked, tmp_path))
    (missing,) = contexts_of(tmp_path, embed_mode=0, ep_cache_context="gone.engine")
    assert "is missing" in str(context_problem(missing, tmp_path))


def test_a_context_without_content_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="has no content"):
        check_context_files(contexts_of(tmp_path), tmp_path, "the model")
