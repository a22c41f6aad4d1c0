"""Options of ONNX Runtime's TensorRT providers, and what is checked because they would not say it."""

from __future__ import annotations

import pathlib
import subprocess

import pytest

from helpers.project import compiler
from raggedrt.errors import InputError, TargetError
from raggedrt.plugins.bundle.manifest import ShapeProfile
from raggedrt.plugins.contract.io_roles import Role, TensorRole
from raggedrt.plugins.tensorrt import provider_options
from raggedrt.plugins.tensorrt.profiles import SizeRange, Sizes, profile_of
from raggedrt.plugins.tensorrt.provider_options import (
    check_profiles,
    register_plugins,
    tensorrt_options,
    tensorrt_rtx_options,
)

pytestmark = pytest.mark.none
INPUTS = (
    TensorRole("input_ids", Role.PER_TOKEN, "int64", ("tokens",)),
    TensorRole("cu_seqlens", Role.CU_SEQLENS, "int32", ("batch+1",)),
    TensorRole("max_seqlen", Role.MAX_SEQLEN, "float32", ("sequence",)),
    TensorRole("scale", Role.OTHER, "float32", (1,)),
)


@pytest.fixture
def profiles() -> list[ShapeProfile]:
    small = SizeRange(Sizes(1, 1, 1), Sizes(4, 64, 32), Sizes(8, 256, 64))
    large = SizeRange(Sizes(1, 256, 1), Sizes(4, 512, 256), Sizes(8, 4096, 512))
    return [profile_of(INPUTS, sizes) for sizes in (small, large)]


@pytest.fixture(autouse=True)
def _fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_options, "_registered", [])


def test_profiles_follow_one_another_in_one_text(profiles: list[ShapeProfile]) -> None:
    options = tensorrt_options(profiles)
    assert options["trt_profile_max_shapes"] == (
        "input_ids:256,cu_seqlens:9,max_seqlen:64,scale:1,input_ids:4096,cu_seqlens:9,max_seqlen:512,scale:1"
    )
    assert options["trt_profile_min_shapes"].startswith("input_ids:1,cu_seqlens:2,max_seqlen:1,")
    rtx = tensorrt_rtx_options(profiles, cache=pathlib.Path("/c/kernels"))
    assert rtx["nv_profile_opt_shapes"] == options["trt_profile_opt_shapes"]
    assert rtx["nv_multi_profile_enable"] == "1"
    assert rtx["nv_runtime_cache_path"] == "/c/kernels"
    assert "nv_multi_profile_enable" not in tensorrt_rtx_options(profiles[:1])
    assert tensorrt_options([]) == {}


def test_caches_plugins_and_the_context_model_have_options(profiles: list[ShapeProfile]) -> None:
    options = tensorrt_options(profiles, plugin_libraries=["/a/x.so", "/b/y.so"], cache=pathlib.Path("/c"))
    assert options["trt_extra_plugin_lib_paths"] == "/a/x.so;/b/y.so"
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == "/c"
    options = tensorrt_options(profiles, cache=pathlib.Path("/c"), context=pathlib.Path("/d/model_ctx.onnx"))
    assert "trt_engine_cache_path" not in options  # the provider refuses an absolute one then
    assert (options["trt_engine_cache_enable"], options["trt_timing_cache_path"]) == ("True", "/c")
    assert options["trt_ep_context_file_path"] == "/d/model_ctx.onnx"
    assert options["trt_ep_context_embed_mode"] == "0"


def test_a_profile_without_an_input_is_noticed(profiles: list[ShapeProfile]) -> None:
    check_profiles(profiles, INPUTS, "the bundle")
    more = (*INPUTS, TensorRole("token_type_ids", Role.PER_TOKEN, "int64", ("tokens",)))
    with pytest.raises(InputError, match="profile 0 has no bounds for the input 'token_type_ids'"):
        check_profiles(profiles, more, "the bundle")


def test_a_missing_or_broken_plugin_library_is_noticed(tmp_path: pathlib.Path) -> None:
    with pytest.raises(TargetError, match=r"nowhere\.so, which is missing"):
        register_plugins([tmp_path / "nowhere.so"], "the bundle")
    (tmp_path / "broken.so").write_text("no library")
    with pytest.raises(TargetError, match="cannot be loaded here"):
        register_plugins([tmp_path / "broken.so"], "the bundle")


def test_a_second_session_with_other_plugins_is_noticed(tmp_path: pathlib.Path) -> None:
    if compiler() is None:
        pytest.skip("no C++ compiler")
    (tmp_path / "a.cc").write_text('extern "C" int answer() { return 42; }\n')
    for name in ("one.so", "two.so"):
        subprocess.run([str(compiler()), "-shared", "-fPIC", "a.cc", "-o", name], cwd=tmp_path, check=True)
    one, two = tmp_path / "one.so", tmp_path / "two.so"
    assert register_plugins([one], "first") == register_plugins([one], "second") == (str(one),)
    with pytest.raises(TargetError, match=r"third needs .*two\.so, and this process already runs .*one\.so"):
        register_plugins([two], "third")
    with pytest.raises(TargetError, match="needs the plugin libraries none"):
        register_plugins([], "fourth")
