"""From what a user says about shapes to the profiles of an engine."""

from __future__ import annotations

import dataclasses
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
    default_demand,
    read_batches,
    read_lengths,
)
from raggedrt.options import parse_shapes
from raggedrt.plugins.bundle.manifest import ShapeProfile
from raggedrt.plugins.contract.io_roles import TensorRole
from raggedrt.plugins.tensorrt.profiles import (
    OPTIONS,
    Shapes,
    SizeRange,
    Sizes,
    is_ragged,
    profile_from_shapes,
    profile_of,
)

MAX_YAML_BYTES = 2**20
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


def choose_profiles(
    demand: ShapeDemand, inputs: Sequence[TensorRole], position_limit: int | None
) -> tuple[ShapeProfile, ...]:
    """The profiles for these inputs.

    Raises:
        InputError: the options do not parse or do not fit the inputs.
    """
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
        raise InputError(f"--profiles {path}: expected a list under the key profiles (see raggedrt build --help)")
    return tuple(_profile(row, inputs, f"{path}: profile {number}") for number, row in enumerate(rows))


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
        if not isinstance(sizes, list) or not all(str(size).isdigit() and int(size) > 0 for size in sizes):
            raise InputError(f"{where}, {name}: expected a shape such as 8x128 or [8, 128], not {shape!r}")
        found[str(name)] = tuple(int(size) for size in sizes)
    return found


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
