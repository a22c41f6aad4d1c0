"""Profiles: inputs of one batch get shapes that belong together; shapes outside every profile are named."""

from __future__ import annotations

import pytest

from raggedrt.errors import InputError
from raggedrt.plugins.bundle.manifest import ShapeProfile
from raggedrt.plugins.contract.io_roles import Role, TensorRole
from raggedrt.plugins.tensorrt.profiles import (
    SizeRange,
    Sizes,
    fitting_profile,
    profile_from_shapes,
    profile_of,
    require_profile,
    shapes_of,
)

pytestmark = pytest.mark.none

RAGGED = (
    TensorRole("input_ids", Role.PER_TOKEN, "int64", ("tokens",)),
    TensorRole("features", Role.PER_TOKEN, "float32", ("tokens", 5)),
    TensorRole("temperature", Role.PER_SEQUENCE, "float32", ("batch", 2)),
    TensorRole("cu_seqlens", Role.CU_SEQLENS, "int32", ("batch+1",)),
    TensorRole("max_seqlen", Role.MAX_SEQLEN, "float32", ("sequence",)),
)
PADDED = (
    TensorRole("input_ids", Role.PER_TOKEN, "int64", ("batch", "sequence")),
    TensorRole("token_type_ids", Role.PER_TOKEN, "int64", ("batch", "sequence")),
    TensorRole("attention_mask", Role.ATTENTION_MASK, "int64", ("batch", "sequence")),
    TensorRole("scale", Role.OTHER, "float32", (1,)),
)


def test_the_three_sizes_of_a_batch_make_every_shape() -> None:
    assert shapes_of(RAGGED, Sizes(batch=8, tokens=100, longest=40)) == {
        "input_ids": (100,),
        "features": (100, 5),
        "temperature": (8, 2),
        "cu_seqlens": (9,),
        "max_seqlen": (40,),
    }
    assert shapes_of(PADDED, Sizes(8, 100, 40)) == {
        "input_ids": (8, 40),
        "token_type_ids": (8, 40),
        "attention_mask": (8, 40),
        "scale": (1,),
    }


def test_a_padded_shape_of_one_input_says_all_of_packed_ones() -> None:
    given = [{"input_ids": (1, 16)}, {"input_ids": (8, 128)}, {"input_ids": (32, 512)}]
    profile = profile_from_shapes(RAGGED, given)
    assert profile.optimum == shapes_of(RAGGED, Sizes(8, 1024, 128))
    assert profile.maximum["cu_seqlens"] == (33,)


def test_inputs_that_are_left_out_are_like_those_given() -> None:
    profile = profile_from_shapes(PADDED, [{"input_ids": shape} for shape in ((1, 1), (8, 128), (32, 512))])
    assert profile.maximum == dict.fromkeys(("input_ids", "token_type_ids", "attention_mask"), (32, 512)) | {
        "scale": (1,)
    }


@pytest.mark.parametrize(
    ("inputs", "shapes", "message"),
    [
        (PADDED, {"ids": (1, 1)}, "names 'ids'"),
        (PADDED, {"input_ids": (1,)}, "input_ids"),
        (PADDED, {"input_ids": (1, 1), "scale": (2,)}, "scale"),
        (RAGGED, {"input_ids": (5,)}, "lacks the input 'temperature'"),
        (RAGGED, {"input_ids": (2, 5), "cu_seqlens": (3,)}, "leave the others out"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    inputs: tuple[TensorRole, ...], shapes: dict[str, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        profile_from_shapes(inputs, [shapes] * 3)


def test_bounds_have_to_grow() -> None:
    given = [{"input_ids": (1, 16)}, {"input_ids": (8, 8)}, {"input_ids": (32, 512)}]
    with pytest.raises(InputError, match=r"do not grow.*least <= best <= greatest"):
        profile_from_shapes(PADDED, given)


def test_an_axis_of_unknown_meaning_needs_shapes() -> None:
    odd = (TensorRole("image", Role.PER_SEQUENCE, "float32", ("batch", 3, "height")),)
    with pytest.raises(InputError, match=r"'height'.*--min-shapes"):
        shapes_of(odd, Sizes(1, 1, 1))


def _two() -> list[ShapeProfile]:
    small = SizeRange(Sizes(1, 1, 1), Sizes(4, 64, 32), Sizes(8, 256, 64))
    large = SizeRange(Sizes(1, 256, 1), Sizes(4, 512, 256), Sizes(8, 4096, 512))
    return [profile_of(RAGGED, sizes) for sizes in (small, large)]


def test_the_first_profile_that_admits_all_inputs_serves() -> None:
    profiles = _two()
    assert fitting_profile(profiles, shapes_of(RAGGED, Sizes(2, 100, 64))) == 0
    assert fitting_profile(profiles, shapes_of(RAGGED, Sizes(2, 100, 65))) is None  # too few tokens for the second
    assert fitting_profile(profiles, shapes_of(RAGGED, Sizes(2, 300, 200))) == 1


def test_shapes_outside_every_profile_list_them_all() -> None:
    with pytest.raises(InputError) as refused:
        require_profile(_two(), shapes_of(RAGGED, Sizes(9, 5000, 512)), "model.plan")
    text = str(refused.value)
    assert "model.plan was not built for these shapes: input_ids 5000" in text
    assert "profile 0: input_ids 1 to 256" in text
    assert "profile 1: input_ids 256 to 4096" in text
    assert "--max-shapes" in text
