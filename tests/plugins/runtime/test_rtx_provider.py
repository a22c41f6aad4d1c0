"""TensorRT for RTX as a provider of ONNX Runtime: what a session says where package, driver or GPU are missing."""

from __future__ import annotations

import importlib.util
import pathlib

import numpy as np
import pytest

from helpers.provider_bundles import toy_profile
from helpers.toy_bundles import toy_bundle
from raggedrt import Session
from raggedrt.errors import InputError, TargetError
from raggedrt.plugins.runtime import rtx_provider

pytestmark = pytest.mark.ort_cpu


def test_a_bundle_with_our_ops_is_none_of_its(tmp_path: pathlib.Path) -> None:
    found = toy_bundle(tmp_path / "toy", "ragged", profiles=(toy_profile("ragged"),))
    with pytest.raises(InputError, match="runs bundles that were converted with --target tensorrt-rtx"):
        Session(found, providers=[rtx_provider.PROVIDER])


@pytest.mark.skipif(importlib.util.find_spec(rtx_provider.MODULE) is not None, reason="the package is installed")
def test_without_the_package_the_error_says_what_to_install() -> None:
    with pytest.raises(TargetError, match=r"pip install 'raggedrt\[ort-rtx\]'"):
        rtx_provider.rtx_devices("bundle x")


@pytest.mark.skipif(importlib.util.find_spec(rtx_provider.MODULE) is None, reason="the package is not installed")
def test_without_a_driver_or_gpu_the_error_says_so() -> None:
    try:
        devices = rtx_provider.rtx_devices("bundle x")
    except TargetError as error:
        assert "providers=['CPUExecutionProvider']" in str(error)  # noqa: PT017 - on a machine with a GPU there is none
    else:
        assert np.all([device.ep_name == rtx_provider.PROVIDER for device in devices])
