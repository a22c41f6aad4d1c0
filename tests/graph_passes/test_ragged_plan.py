"""Positions from cu_seqlens instead of a mask, for targets that plan on a device: the same values, no PackingPlan."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from helpers.encoder_graphs import EncoderSpec, build_encoder
from helpers.encoder_runs import assert_same_ragged, rewritten, run
from helpers.tolerances import EXACT, assert_close
from raggedrt.graph_passes.ragged_plan import plan_from_offsets
from raggedrt.plugins.bodies import attach_function_bodies
from raggedrt.plugins.contract.io_roles import Role, TensorRole
from raggedrt.plugins.node import make_node
from raggedrt.plugins.runtime.ort import ort_session

pytestmark = pytest.mark.ort_cpu

SPECS = {
    "buffer": {"positions": "buffer"},
    "rotary": {"positions": "none", "rope": True, "attention": "sdpa"},
    "counted": {"positions": "cumsum"},
    "window": {"mask": "window"},
    "pooled": {"head": "slot"},
    "opset 17": {"opset": 17},
}


@pytest.mark.usefixtures("op_library")
@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("target", ["ort-cuda", "tensorrt"])
def test_a_ragged_graph_for_a_gpu_has_no_mask_to_read(name: str, target: str) -> None:
    spec = EncoderSpec(**SPECS[name])
    pair = rewritten(build_encoder(spec), target=target, io="ragged")
    assert "PackingPlan" not in pair.ops
    assert not (target == "tensorrt" and "ScatterElements" in pair.ops)
    per_sequence = tuple(role.name for role in pair.report.outputs if role.role is Role.PER_SEQUENCE)
    for native in (False, True):
        assert_same_ragged(pair, spec, native=native, per_sequence=per_sequence)


def test_other_targets_and_padded_graphs_keep_their_plan() -> None:
    assert "PackingPlan" in rewritten(build_encoder(EncoderSpec()), target="ort-cuda").ops
    assert "PackingPlan" in rewritten(build_encoder(EncoderSpec()), target="ort-cpu", io="ragged").ops


def _plan_model() -> ir.Model:
    """Every output of a PackingPlan over the mask that ragged inputs mean."""
    ids = ir.val("ids", ir.DataType.INT64, ["tokens"])
    offsets = ir.val("cu_seqlens", ir.DataType.INT32, ["batch+1"])
    longest = ir.val("max_seqlen", ir.DataType.FLOAT, ["longest"])
    mask = ir.val("mask", ir.DataType.INT64, ["batch", "longest"])
    plan = make_node("PackingPlan", {"attention_mask": mask}, {}, name="plan")
    names = ("token_index", "offsets", "position", "key_position")
    copies = [ir.node("Identity", [value]) for value in plan.outputs]
    for copy, value, name in zip(copies, plan.outputs, names, strict=True):
        copy.outputs[0].name, copy.outputs[0].dtype, copy.outputs[0].shape = name, value.dtype, value.shape
    graph = ir.Graph(
        [ids, offsets, longest, mask],
        [copy.outputs[0] for copy in copies],
        nodes=[plan, *copies],
        opset_imports={"": 20, "raggedrt": 1},
        name="plan",
    )
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize(
    "lengths",
    [(3, 1, 5), (0, 0, 4), (2, 0, 0, 3, 0), (7,), (0, 0), (1, 1, 1)],
    ids=lambda lengths: "-".join(map(str, lengths)),
)
@pytest.mark.parametrize("scatters_sums", [True, False])
def test_it_gives_what_packing_plan_gives(lengths: tuple[int, ...], scatters_sums: bool) -> None:
    longest = max(*lengths, 6)
    feed = {
        "ids": np.zeros(sum(lengths), np.int64),
        "cu_seqlens": np.cumsum([0, *lengths]).astype(np.int32),
        "max_seqlen": np.zeros(longest, np.float32),
        "mask": (np.arange(longest) < np.array(lengths)[:, None]).astype(np.int64),
    }
    before, after = _plan_model(), _plan_model()
    roles = (
        TensorRole("ids", Role.PER_TOKEN, "int64", ("tokens",)),
        TensorRole("cu_seqlens", Role.CU_SEQLENS, "int32", ("batch+1",)),
        TensorRole("max_seqlen", Role.MAX_SEQLEN, "float32", ("longest",)),
    )
    assert plan_from_offsets(after.graph, roles, scatters_sums=scatters_sums) == 1
    attach_function_bodies(before)
    expected = run(ort_session(before, native=False), feed)
    actual = run(ort_session(after, native=False), feed)
    for name, want in expected.items():
        assert_close(actual[name], want, EXACT, name)
