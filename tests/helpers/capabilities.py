"""What the op library can do, for tests of passes that must not wait for kernels."""

from __future__ import annotations

import dataclasses

import pytest

from raggedrt.plugins.contract.abi import Feature
from raggedrt.plugins.contract.capability import CAPABILITIES

EVERYTHING = Feature(sum(feature.value for feature in Feature))


def grant(monkeypatch: pytest.MonkeyPatch, features: Feature = EVERYTHING, target: str = "ort-cpu") -> None:
    """Let the passes hand over nodes with these features; function bodies serve all of them."""
    able = dataclasses.replace(CAPABILITIES[target], features=CAPABILITIES[target].features | features)
    monkeypatch.setitem(CAPABILITIES, target, able)


def require(features: Feature, target: str = "ort-cpu") -> None:
    """Skip where the op library itself cannot serve these features."""
    missing = CAPABILITIES[target].missing(features)
    if missing:
        pytest.skip(f"the op library of {target} does not serve {missing.name} yet")
