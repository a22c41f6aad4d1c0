"""Shapes are checked before a call: outside of its profiles a provider fails without naming them, or builds anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raggedrt.plugins.bundle.manifest import ShapeProfile
from raggedrt.plugins.runtime.engine_cache import EngineCache
from raggedrt.plugins.tensorrt.profiles import require_profile


class ProfileGuard:
    """What a session asks before and after each call.

    Args:
        profiles: what the engine is built for.
        where: names it in messages.
        cache: where engines are kept; None: it cannot be built again.
        entry: of the options of a run, by which the provider is told the profile's number; None: it is not told.
    """

    def __init__(
        self,
        profiles: Sequence[ShapeProfile],
        where: str,
        *,
        cache: EngineCache | None = None,
        entry: str | None = None,
    ) -> None:
        self._profiles = tuple(profiles)
        self._where = where
        self._cache = cache
        self._entry = entry

    def admit(self, arrays: Mapping[str, Any]) -> dict[str, str]:
        """Entries for the options of a run with these arrays.

        Raises:
            InputError: no profile admits their shapes; the message lists them.
        """
        shapes = {name: value.shape for name, value in arrays.items()}
        number = require_profile(self._profiles, shapes, self._where)
        return {} if self._entry is None else {self._entry: str(number)}

    def done(self) -> None:
        """Say so where the call has built an engine."""
        if self._cache is not None:
            self._cache.look(self._where)
