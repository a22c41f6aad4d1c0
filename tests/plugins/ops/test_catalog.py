"""Every registered op has everything that an op needs."""

from __future__ import annotations

import pytest

from raggedrt.plugins.bodies import BODIES
from raggedrt.plugins.ops.case import Group
from raggedrt.plugins.ops.catalog import CASES, REFERENCES
from raggedrt.plugins.registry import BY_NAME, OPS

pytestmark = pytest.mark.none

EMPTY = {"no_token", "dense_no_token", "causal_no_token"}


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(OPS)


@pytest.mark.parametrize("table", [BODIES, REFERENCES, CASES], ids=["body", "reference", "cases"])
def test_every_op_has_one(table: dict[str, object]) -> None:
    assert table.keys() == BY_NAME.keys()


@pytest.mark.parametrize("op", BY_NAME)
def test_cases_cover_every_group_and_the_empty_batch(op: str) -> None:
    names = [case.name for case in CASES[op]]
    assert len(set(names)) == len(names)
    assert {case.group for case in CASES[op]} == set(Group)
    assert EMPTY & set(names)


@pytest.mark.parametrize("op", BY_NAME)
def test_cases_use_names_of_the_definition(op: str) -> None:
    definition = BY_NAME[op]
    for case in CASES[op]:
        assert set(case.attributes) <= {spec.name for spec in definition.attributes}
        assert set(case.outputs) <= {spec.name for spec in definition.outputs if spec.optional}
