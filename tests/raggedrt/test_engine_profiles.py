"""Profiles from options and from YAML files; what does not fit is refused with the place."""

from __future__ import annotations

import pathlib

import pytest

from raggedrt.engine_profiles import ShapeDemand, choose_profiles, read_profiles
from raggedrt.errors import InputError
from raggedrt.plugins.contract.io_roles import Role, TensorRole
from raggedrt.plugins.tensorrt.profiles import Sizes, shapes_of

pytestmark = pytest.mark.none
RAGGED = (
    TensorRole("input_ids", Role.PER_TOKEN, "int64", ("tokens",)),
    TensorRole("cu_seqlens", Role.CU_SEQLENS, "int32", ("batch+1",)),
    TensorRole("max_seqlen", Role.MAX_SEQLEN, "float32", ("sequence",)),
)
PADDED = (
    TensorRole("input_ids", Role.PER_TOKEN, "int64", ("batch", "sequence")),
    TensorRole("attention_mask", Role.ATTENTION_MASK, "int64", ("batch", "sequence")),
)


def test_shapes_of_the_command_line_make_one_profile() -> None:
    demand = ShapeDemand(min_shapes="input_ids:1x16", max_shapes="input_ids:32x512")
    (profile,) = choose_profiles(demand, RAGGED, None)
    assert profile.minimum == shapes_of(RAGGED, Sizes(1, 16, 16))
    assert profile.optimum == profile.maximum == shapes_of(RAGGED, Sizes(32, 32 * 512, 512))


def test_lengths_make_a_profile_per_bucket() -> None:
    demand = ShapeDemand(lengths="uniform(16,512)", batch_sizes="1,8,32", buckets=3)
    profiles = choose_profiles(demand, RAGGED, 512)
    assert len(profiles) == 3
    assert profiles[0].minimum == shapes_of(RAGGED, Sizes(1, 16, 16))
    assert profiles[-1].maximum == shapes_of(RAGGED, Sizes(32, 32 * 512, 512))


def test_without_any_word_the_position_limit_decides() -> None:
    profiles = choose_profiles(ShapeDemand(), RAGGED, 80)
    assert profiles[-1].maximum["max_seqlen"] == (80,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_shapes": "a:1", "max_shapes": "a:1", "lengths": "5"}, "one way"),
        ({"profiles": "a.yaml", "lengths": "5"}, "one way"),
        ({"min_shapes": "a:1"}, "give both"),
        ({"max_shapes": "a:1"}, "give both"),
        ({"profiles": "a.yaml", "buckets": 2}, "--profiles"),
        ({"min_shapes": "a:1", "max_shapes": "a:2", "batch_sizes": "1,2"}, "--max-shapes: the shapes say all"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ShapeDemand(**options)  # type: ignore[arg-type]


def test_a_file_has_profiles_in_either_form(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "profiles.yaml"
    file.write_text(
        """profiles:
  - {min: {input_ids: 1x16}, opt: {input_ids: [8, 128]}, max: {input_ids: 32x512}}
  - {batch: [1, 8, 32], tokens: [16, 900, 16384], longest: [16, 128, 512]}
"""
    )
    first, second = read_profiles(file, RAGGED)
    assert first.optimum == shapes_of(RAGGED, Sizes(8, 1024, 128))
    assert second.optimum == shapes_of(RAGGED, Sizes(8, 900, 128))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("profiles: []", "list under the key profiles"),
        ("- 1", "list under the key profiles"),
        ("profiles: [{min: {}, max: {}}]", "profile 0: expected the keys"),
        ("profiles: [{batch: [2, 1, 3], tokens: [9, 9, 9], longest: [9, 9, 9]}]", "do not grow"),
        ("profiles: [{batch: [1, 1, 1], tokens: [1, 1, 9], longest: [1, 1, 4]}]", "cannot have 9 tokens"),
        ("profiles: [{batch: [1, 1], tokens: [1, 1, 9], longest: [1, 1, 4]}]", r"expected \[least, best, greatest\]"),
        ("profiles: [{min: {input_ids: axb}, opt: {}, max: {}}]", "expected a shape such as 8x128"),
        ("profiles: [{min: {input_ids: '0x5'}, opt: {}, max: {}}]", "expected a shape such as 8x128"),
        ("profiles: [{min: {input_ids: ²x5}, opt: {}, max: {}}]", "expected a shape such as 8x128"),
        ("profiles: [{min: {other: 1x5}, opt: {}, max: {}}]", "names 'other'"),
        ("{[", "no valid YAML"),
        ("profiles: !!python/object/apply:os.system ['true']", "no valid YAML"),
    ],
)
def test_files_that_do_not_fit_are_refused(text: str, message: str, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "profiles.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        read_profiles(file, RAGGED)


def test_a_missing_file_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.yaml: No such file"):
        read_profiles(tmp_path / "nowhere.yaml", RAGGED)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_shapes": "input_ids:1x4", "max_shapes": "input_ids:2x81"}, "profile 0: .* 81 tokens, .* 80 positions"),
        ({"lengths": "81"}, "80 positions"),
        ({"min_shapes": "input_ids:1x4", "max_shapes": "input_ids:99999999999x80"}, "more than 2147483647 places"),
    ],
)
def test_no_profile_goes_beyond_what_the_model_takes(options: dict[str, str], message: str) -> None:
    for inputs in (RAGGED, PADDED):
        with pytest.raises(InputError, match=message):
            choose_profiles(ShapeDemand(**options), inputs, 80)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_shapes": "input_ids", "max_shapes": "input_ids:2x8"}, "--min-shapes 'input_ids': expected"),
        ({"profiles": "nowhere.yaml"}, "--profiles nowhere.yaml: No such file"),
        ({"lengths": "nowhere.txt"}, "'nowhere.txt' is no number; expected uniform"),
        ({"lengths": "uniform(60,2)"}, r"--lengths uniform\(60,2\): the lower end is above"),
        ({"batch_sizes": "1,x"}, "'x' is no number; expected numbers of sequences"),
        ({"buckets": 99}, "--buckets 99: expected 1 to 16"),
    ],
)
def test_options_of_no_known_form_are_refused_before_there_is_a_model(options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ShapeDemand(**options)  # type: ignore[arg-type]


def test_typical_shapes_alone_are_told_to_tune_nothing(caplog: pytest.LogCaptureFixture) -> None:
    demand = ShapeDemand(opt_shapes="input_ids:2x16")
    assert choose_profiles(demand, RAGGED, 80) == choose_profiles(ShapeDemand(), RAGGED, 80)
    assert "--opt-shapes: no profile is tuned for it" in caplog.text
