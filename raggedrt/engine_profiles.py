"""From what a user says about shapes to the profiles of an engine."""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from raggedrt.errors import InputError
from raggedrt.length_profiles import (
    DEFAULT_BATCHES,
    DEFAULT_BUCKETS,
    LengthDemand,
    bucket_sizes,
    check_buckets,
    default_demand,
    read_batches,
    read_lengths,
)
from raggedrt.options import parse_shapes
from raggedrt.plugins.bundle.manifest import ShapeProfile
from raggedrt.plugins.contract.io_roles import Role, TensorRole
from raggedrt.plugins.tensorrt.profiles import (
    OPTIONS,
    Shapes,
    SizeRange,
    Sizes,
    is_ragged,
    profile_from_shapes,
    profile_of,
)

LOGGER = logging.getLogger("raggedrt")
MAX_YAML_BYTES = 2**20
MAX_AXIS = 2**31 - 1
"""Offsets of packed tokens are 32-bit numbers, and so are places in a row."""
SHAPE_KEYS = ("min", "opt", "max")
SIZE_KEYS = ("batch", "tokens", "longest")


@dataclasses.dataclass(frozen=True)
class ShapeDemand:
    """The options that say what shapes will come; at most one way of saying it is used.

    Attributes:
        min_shapes, opt_shapes, max_shapes: as in trtexec, `input_ids:8x128,…`.
        profiles: YAML file with several profiles.
        lengths, batch_sizes, buckets: a distribution of lengths, as `read_lengths` and `read_batches` take it.
    """

    min_shapes: str | None = None
    opt_shapes: str | None = None
    max_shapes: str | None = None
    profiles: str | os.PathLike[str] | None = None
    lengths: str | None = None
    batch_sizes: str | None = None
    buckets: int | None = None

    def __post_init__(self) -> None:
        ways = {
            "--min-shapes and --max-shapes": self.min_shapes or self.max_shapes,
            "--profiles": self.profiles,
            "--lengths": self.lengths,
        }
        given = [name for name, value in ways.items() if value is not None]
        if len(given) > 1:
            raise InputError(f"{' and '.join(given)}: shapes are said in one way; leave the other out")
        if (self.min_shapes is None) != (self.max_shapes is None):
            raise InputError("--min-shapes and --max-shapes: give both, an engine has bounds at either side")
        if self.profiles is not None and (self.batch_sizes is not None or self.buckets is not None):
            raise InputError("--profiles: the file says all; leave --batch-sizes and --buckets out")
        if self.max_shapes is not None and (self.batch_sizes is not None or self.buckets is not None):
            raise InputError("--max-shapes: the shapes say all; leave --batch-sizes and --buckets out")
        self._check_forms()

    def _check_forms(self) -> None:
        """What can be known to be wrong before there is a model is told before one is exported."""
        for option, text in zip(OPTIONS, (self.min_shapes, self.opt_shapes, self.max_shapes), strict=True):
            parse_shapes(option, text)
        if self.profiles is not None:
            _read_rows(pathlib.Path(self.profiles))
        if self.lengths is not None:
            read_lengths(self.lengths, None)
        if self.batch_sizes is not None:
            read_batches(self.batch_sizes)
        if self.buckets is not None:
            check_buckets(self.buckets)


def choose_profiles(
    demand: ShapeDemand, inputs: Sequence[TensorRole], position_limit: int | None
) -> tuple[ShapeProfile, ...]:
    """The profiles for these inputs.

    Raises:
        InputError: the options do not parse, or do not fit the inputs or the model's number of positions.
    """
    if demand.opt_shapes is not None and demand.max_shapes is None:
        LOGGER.warning("--opt-shapes: no profile is tuned for it without --min-shapes and --max-shapes")
    profiles = _demanded(demand, inputs, position_limit)
    for number, profile in enumerate(profiles):
        _check_sizes(profile, inputs, position_limit, f"profile {number}")
    return profiles


def _check_sizes(profile: ShapeProfile, inputs: Sequence[TensorRole], position_limit: int | None, where: str) -> None:
    """No shape is one that the model cannot take: positions end somewhere, and offsets are 32-bit numbers."""
    for role in inputs:
        shape = profile.maximum[role.name]
        if max(shape, default=0) > MAX_AXIS:
            raise InputError(
                f"{where}: the greatest shape {'x'.join(map(str, shape))} of {role.name!r} has more than {MAX_AXIS} "
                "places on an axis"
            )
    longest = _longest(profile, inputs)
    if position_limit is not None and longest > position_limit:
        raise InputError(
            f"{where}: its longest sequence has {longest} tokens, and the model has {position_limit} positions"
        )


def _longest(profile: ShapeProfile, inputs: Sequence[TensorRole]) -> int:
    """Tokens of the longest sequence of the greatest shapes, with padding where rows are padded."""
    if is_ragged(inputs):
        return max((profile.maximum[role.name][0] for role in inputs if role.role is Role.MAX_SEQLEN), default=0)
    rows = (profile.maximum[r.name] for r in inputs if r.role in (Role.PER_TOKEN, Role.ATTENTION_MASK))
    return max((shape[1] for shape in rows if len(shape) > 1), default=0)


def _demanded(
    demand: ShapeDemand, inputs: Sequence[TensorRole], position_limit: int | None
) -> tuple[ShapeProfile, ...]:
    if demand.max_shapes is not None:
        texts = (demand.min_shapes, demand.opt_shapes or demand.max_shapes, demand.max_shapes)
        shapes = [parse_shapes(option, text) for option, text in zip(OPTIONS, texts, strict=True)]
        return (profile_from_shapes(inputs, shapes, [f"--{option}" for option in OPTIONS]),)
    if demand.profiles is not None:
        return read_profiles(pathlib.Path(demand.profiles), inputs)
    expected = default_demand(position_limit)
    expected = LengthDemand(
        expected.lengths if demand.lengths is None else read_lengths(demand.lengths, position_limit),
        DEFAULT_BATCHES if demand.batch_sizes is None else read_batches(demand.batch_sizes),
        DEFAULT_BUCKETS if demand.buckets is None else demand.buckets,
    )
    ragged = is_ragged(inputs)
    return tuple(profile_of(inputs, sizes) for sizes in bucket_sizes(expected, ragged=ragged))


def read_profiles(path: pathlib.Path, inputs: Sequence[TensorRole]) -> tuple[ShapeProfile, ...]:
    """Profiles from a YAML file.

    ```yaml
    profiles:
      - {min: {input_ids: 1x16}, opt: {input_ids: 8x128}, max: {input_ids: 32x512}}
      - {batch: [1, 8, 32], tokens: [16, 1024, 16384], longest: [16, 128, 512]}
    ```

    Raises:
        InputError: missing, not of this form, or a profile that does not fit the inputs.
    """
    rows = _read_rows(path)
    return tuple(_profile(row, inputs, f"{path}: profile {number}") for number, row in enumerate(rows))


def _read_rows(path: pathlib.Path) -> list[Any]:
    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise InputError(f"--profiles {path}: has more than {MAX_YAML_BYTES} bytes, so it is no list of profiles")
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--profiles {path}: {os.strerror(error.errno or 0)}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"--profiles {path}: no valid YAML ({str(error).splitlines()[0]})") from None
    rows = content.get("profiles") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows:
        raise InputError(
            f"--profiles {path}: expected a list under the key profiles, for example profiles: "
            "[{min: {input_ids: 1x16}, opt: {input_ids: 8x128}, max: {input_ids: 32x512}}]"
        )
    return rows


def _profile(row: Any, inputs: Sequence[TensorRole], where: str) -> ShapeProfile:
    if isinstance(row, dict) and row.keys() == set(SHAPE_KEYS):
        shapes = [_shapes(row[key], f"{where}, {key}") for key in SHAPE_KEYS]
        return profile_from_shapes(inputs, shapes, [f"{where}, {key}" for key in SHAPE_KEYS])
    if isinstance(row, dict) and row.keys() == set(SIZE_KEYS):
        return profile_of(inputs, _sizes(row, where))
    raise InputError(
        f"{where}: expected the keys {', '.join(SHAPE_KEYS)} with shapes by input, or {', '.join(SIZE_KEYS)} with "
        "[least, best, greatest] each"
    )


def _shapes(entry: Any, where: str) -> Shapes:
    if not isinstance(entry, Mapping):
        raise InputError(f"{where}: expected shapes by input, for example input_ids: 8x128")
    found = {}
    for name, shape in entry.items():
        sizes = str(shape).split("x") if isinstance(shape, str | int) else shape
        if not isinstance(sizes, list) or not all(_is_size(str(size)) for size in sizes):
            raise InputError(f"{where}, {name}: expected a shape such as 8x128 or [8, 128], not {shape!r}")
        found[str(name)] = tuple(int(size) for size in sizes)
    return found


def _is_size(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) > 0


def _sizes(row: Mapping[str, Any], where: str) -> SizeRange:
    columns = []
    for key in SIZE_KEYS:
        values = row[key]
        if not (isinstance(values, list) and len(values) == 3 and all(type(v) is int and v > 0 for v in values)):
            raise InputError(f"{where}, {key}: expected [least, best, greatest] as numbers of at least 1")
        if values != sorted(values):
            raise InputError(f"{where}, {key}: {values} do not grow")
        columns.append(values)
    bounds = [Sizes(*column) for column in zip(*columns, strict=True)]
    for sizes in bounds:
        if not max(sizes.batch, sizes.longest) <= sizes.tokens <= sizes.batch * sizes.longest:
            raise InputError(
                f"{where}: {sizes.batch} sequences of at most {sizes.longest} tokens cannot have {sizes.tokens} tokens "
                "in all"
            )
    return SizeRange(*bounds)
