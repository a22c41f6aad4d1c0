"""Optimisation profiles: the shapes that an engine is built for, each a least, a best and a greatest shape per input.

Ragged inputs hang together: B sequences with T tokens in all, the longest of M, are per-token inputs [T], `cu_seqlens`
[B+1] and `max_seqlen` [M]. A profile is made from these three sizes, never input by input.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

from raggedrt.errors import InputError
from raggedrt.plugins.bundle.manifest import ShapeProfile
from raggedrt.plugins.contract.io_roles import Role, TensorRole

Shapes = Mapping[str, tuple[int, ...]]
BOUNDS = ("minimum", "optimum", "maximum")
OPTIONS = ("min-shapes", "opt-shapes", "max-shapes")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """One batch: how many sequences, how many tokens in all, and how many the longest may have."""

    batch: int
    tokens: int
    longest: int


@dataclasses.dataclass(frozen=True)
class SizeRange:
    """Least, best and greatest sizes of one profile."""

    minimum: Sizes
    optimum: Sizes
    maximum: Sizes


def shapes_of(inputs: Sequence[TensorRole], sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """The shape of every input for a batch of these sizes, padded or ragged.

    Raises:
        InputError: an input has a dynamic axis of another meaning.
    """
    ragged = is_ragged(inputs)
    return {role.name: _shape(role, sizes, ragged=ragged) for role in inputs}


def is_ragged(inputs: Sequence[TensorRole]) -> bool:
    """Whether tokens come packed."""
    return any(role.role is Role.CU_SEQLENS for role in inputs)


def _shape(role: TensorRole, sizes: Sizes, *, ragged: bool) -> tuple[int, ...]:
    lead = {
        Role.PER_TOKEN: (sizes.tokens,) if ragged else (sizes.batch, sizes.longest),
        Role.ATTENTION_MASK: (sizes.batch, sizes.longest),
        Role.PER_SEQUENCE: (sizes.batch,),
        Role.CU_SEQLENS: (sizes.batch + 1,),
        Role.MAX_SEQLEN: (sizes.longest,),
    }.get(role.role, ())
    rest = role.shape[len(lead) :]
    unknown = [dim for dim in rest if not isinstance(dim, int)]
    if unknown:
        raise InputError(
            f"input {role.name!r} has the dynamic axis {unknown[0]!r}, which is neither batch nor tokens; give its "
            "shapes with --min-shapes, --opt-shapes and --max-shapes, or --profiles"
        )
    return (*lead, *(dim for dim in rest if isinstance(dim, int)))


def profile_of(inputs: Sequence[TensorRole], sizes: SizeRange) -> ShapeProfile:
    """The profile of a range of sizes."""
    return ShapeProfile(**{bound: shapes_of(inputs, getattr(sizes, bound)) for bound in BOUNDS})


def profile_from_shapes(
    inputs: Sequence[TensorRole], given: Sequence[Shapes], names: Sequence[str] = OPTIONS
) -> ShapeProfile:
    """The profile of shapes that a user wrote: least, best, greatest, named `names` in errors.

    Per-token inputs that are left out have the shape of those that are given. With ragged inputs one per-token shape
    `8x128` stands for 8 sequences of 128 tokens, so the offsets and the greatest length follow from it.

    Raises:
        InputError: a name, rank or size does not fit the inputs, or least <= best <= greatest does not hold.
    """
    whole = [_complete(inputs, shapes, option) for shapes, option in zip(given, names, strict=True)]
    for role in inputs:
        low, best, high = (shapes[role.name] for shapes in whole)
        if not all(a <= b <= c for a, b, c in zip(low, best, high, strict=True)):
            raise InputError(
                f"input {role.name!r}: the shapes {low}, {best}, {high} of {', '.join(names)} do not grow: every axis "
                "needs least <= best <= greatest"
            )
    return ShapeProfile(**dict(zip(BOUNDS, whole, strict=True)))


def _complete(inputs: Sequence[TensorRole], shapes: Shapes, option: str) -> dict[str, tuple[int, ...]]:
    unknown = shapes.keys() - {role.name for role in inputs}
    if unknown:
        known = ", ".join(f"{role.name} [{', '.join(map(str, role.shape))}]" for role in inputs)
        raise InputError(f"{option} names {min(unknown)!r}, which is no input; the inputs are {known}")
    if sizes := _padded_sizes(inputs, shapes, option):
        return shapes_of(inputs, sizes)
    found = dict(shapes)
    like = next((shapes[r.name] for r in inputs if r.role is Role.PER_TOKEN and r.name in shapes), None)
    for role in inputs:
        static = tuple(dim for dim in role.shape if isinstance(dim, int))
        if role.name not in found and like is not None and role.role in (Role.PER_TOKEN, Role.ATTENTION_MASK):
            found[role.name] = (*like[: len(role.shape)], *static[len(static) - max(0, len(role.shape) - len(like)) :])
        elif role.name not in found and len(static) == len(role.shape):
            found[role.name] = static
    for role in inputs:
        _check(role, found.get(role.name), option)
    return {role.name: found[role.name] for role in inputs}


def _padded_sizes(inputs: Sequence[TensorRole], shapes: Shapes, option: str) -> Sizes | None:
    """What `8x128` says where one token's shape has fewer axes than that."""
    if not is_ragged(inputs):
        return None
    found = {
        shapes[r.name][:2] for r in inputs if r.role is Role.PER_TOKEN and len(shapes.get(r.name, ())) > len(r.shape)
    }
    if not found:
        return None
    if len(found) > 1 or len(shapes) > sum(role.role is Role.PER_TOKEN for role in inputs if role.name in shapes):
        raise InputError(
            f"{option}: a shape BATCHxTOKENS of one per-token input says all that packed tokens need; leave the others "
            "out, or give every input its own rank"
        )
    batch, longest = found.pop()
    return Sizes(batch, batch * longest, longest)


def _check(role: TensorRole, shape: tuple[int, ...] | None, option: str) -> None:
    axes = ", ".join(map(str, role.shape))
    if shape is None:
        raise InputError(f"{option} lacks the input {role.name!r} [{axes}]; an engine needs bounds for every input")
    fits = len(shape) == len(role.shape) and all(
        isinstance(dim, str) or dim == size for dim, size in zip(role.shape, shape, strict=True)
    )
    if not fits:
        raise InputError(f"{option} gives {role.name!r} the shape {'x'.join(map(str, shape))}, and it has [{axes}]")


def fitting_profile(profiles: Sequence[ShapeProfile], shapes: Shapes) -> int | None:
    """The first profile that admits shapes of these sizes; None: none does."""
    for number, profile in enumerate(profiles):
        if all(_within(profile, name, shape) for name, shape in shapes.items()):
            return number
    return None


def _within(profile: ShapeProfile, name: str, shape: Sequence[int]) -> bool:
    low, high = profile.minimum.get(name), profile.maximum.get(name)
    if low is None or high is None:
        return True
    return len(low) == len(shape) and all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True))


def require_profile(profiles: Sequence[ShapeProfile], shapes: Shapes, where: str) -> int:
    """`fitting_profile`, where one is a must.

    Raises:
        InputError: no profile admits the shapes; the message lists them all.
    """
    found = fitting_profile(profiles, shapes)
    if found is None:
        asked = ", ".join(f"{name} {_text(shape)}" for name, shape in shapes.items())
        lines = "; ".join(f"profile {number}: {describe(profile)}" for number, profile in enumerate(profiles))
        raise InputError(
            f"{where} was not built for these shapes: {asked}. It has {lines}. Feed a batch within one of them, or "
            "build the engine again with --max-shapes, --profiles or --lengths"
        )
    return found


def envelope(profiles: Sequence[ShapeProfile]) -> ShapeProfile:
    """One profile around several: their least and greatest shapes, tuned for the best ones of the middle profile."""
    if len(profiles) == 1:
        return profiles[0]
    chosen = profiles[len(profiles) // 2]
    names = chosen.optimum
    return ShapeProfile(
        minimum={name: _each(min, [profile.minimum[name] for profile in profiles]) for name in names},
        optimum=chosen.optimum,
        maximum={name: _each(max, [profile.maximum[name] for profile in profiles]) for name in names},
    )


def _each(choose: Callable[[Iterable[int]], int], shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(choose(sizes) for sizes in zip(*shapes, strict=True))


def describe(profile: ShapeProfile) -> str:
    """A profile in one line: every input from its least to its greatest shape."""
    return ", ".join(f"{name} {_text(low)} to {_text(profile.maximum[name])}" for name, low in profile.minimum.items())


def _text(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"
