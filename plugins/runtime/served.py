"""What a session loads for its providers: the native model, its plugin form, what was compiled from it."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from raggedrt.errors import InputError
from raggedrt.plugins.bundle.model_facts import load_proto, model_facts
from raggedrt.plugins.bundle.reader import Bundle
from raggedrt.plugins.native.cache import LIBRARY_NAME, cache_folder
from raggedrt.plugins.runtime import rtx_provider
from raggedrt.plugins.runtime.model_input import ModelInput
from raggedrt.plugins.runtime.ort import Native, Providers, create_session, find_library, provider_name
from raggedrt.plugins.runtime.profile_guard import ProfileGuard
from raggedrt.plugins.runtime.tensorrt_provider import (
    PROVIDER,
    RECORD_KEY,
    explained,
    require_assignment,
    tensorrt_plan,
    wants_tensorrt,
)
from raggedrt.plugins.tensorrt.provider_options import check_profiles, tensorrt_rtx_options

RTX_CACHE = "tensorrt-rtx-kernels"


@dataclasses.dataclass(frozen=True)
class Served:
    """What `create_session` is given.

    Attributes:
        model: the ONNX file.
        library: the op library; None: nothing in the model needs one, or bodies serve.
        providers, provider_options: as given, with what the bundle adds.
        attach: puts a provider that has no name in ONNX Runtime into the options of a session.
        config: entries of the options of a session.
        guard: what is asked before each call.
        opened: looks at the session when it is there.
        explained: says why ONNX Runtime refuses the model, where it can be said better.
    """

    model: ModelInput
    library: pathlib.Path | None
    providers: Providers
    provider_options: Sequence[Mapping[str, Any]] | None
    attach: Callable[[Any], None] | None = None
    config: Mapping[str, str] = dataclasses.field(default_factory=dict)
    guard: ProfileGuard | None = None
    opened: Callable[[Any], None] = lambda session: None
    explained: Callable[[InputError], Exception] = lambda error: error

    def open(self, session_options: Any, threads: int | None, *, warn_bodies: bool) -> Any:
        """The `onnxruntime.InferenceSession`, looked at.

        Raises:
            InputError: the model or an option is invalid.
            TargetError: this machine lacks something.
        """
        try:
            session = create_session(
                self.model,
                self.library,
                warn_bodies=warn_bodies,
                providers=self.providers,
                provider_options=self.provider_options,
                session_options=session_options,
                threads=threads,
                attach=self.attach,
                config=self.config,
            )
        except InputError as error:
            raise self.explained(error) from error
        self.opened(session)
        return session


def served(
    bundle: Bundle,
    providers: Providers,
    provider_options: Sequence[Mapping[str, Any]] | None,
    native: Native,
    *,
    trusted: bool,
) -> Served:
    """What a session over a bundle loads for these providers.

    Raises:
        InputError: options and providers do not go together, or the bundle lacks what the first provider needs.
        TargetError: this machine lacks it.
    """
    names = [] if isinstance(providers, str) else [provider_name(provider) for provider in providers]
    if wants_tensorrt(bundle, names):
        return _tensorrt(bundle, configured(providers, provider_options), trusted=trusted)
    if rtx_provider.PROVIDER in names:
        return _rtx(bundle, configured(providers, provider_options))
    own = [path for path in bundle.libraries if path.name == LIBRARY_NAME]
    library = own[0] if trusted and own and native is not False else find_library(native)
    return Served(_input(bundle.model_path, bundle), library, providers, provider_options)


def configured(
    providers: Providers, provider_options: Sequence[Mapping[str, Any]] | None
) -> list[tuple[str, dict[str, str]]]:
    """Providers with their options, in whichever of ONNX Runtime's two ways they were given.

    Raises:
        InputError: there are more or fewer mappings than providers.
    """
    if provider_options is not None and len(provider_options) != len(providers):
        raise InputError(
            f"provider_options has {len(provider_options)} mappings, and there are {len(providers)} providers."
        )
    found = []
    for place, provider in enumerate(providers):
        options = dict(provider[1]) if isinstance(provider, tuple) else {}
        options |= {} if provider_options is None else provider_options[place]
        found.append((provider_name(provider), {key: str(value) for key, value in options.items()}))
    return found


def _tensorrt(bundle: Bundle, providers: list[tuple[str, dict[str, str]]], *, trusted: bool) -> Served:
    where = str(bundle.path)
    plan = tensorrt_plan(bundle, providers[0][1], trusted=trusted)
    if plan.cache is not None:
        plan.cache.announce(where)

    def opened(session: Any) -> None:
        require_assignment(session, where)
        if plan.cache is not None:
            plan.cache.opened(where)

    return Served(
        _input(plan.model, bundle),
        None,
        [(PROVIDER, plan.options), *providers[1:]],
        None,
        config={RECORD_KEY: "1"},
        guard=ProfileGuard([plan.profile], where, cache=plan.cache),
        opened=opened,
        explained=lambda error: explained(error, where),
    )


def _rtx(bundle: Bundle, providers: list[tuple[str, dict[str, str]]]) -> Served:
    """The graph of a bundle for TensorRT for RTX, which has standard ops alone."""
    where = str(bundle.path)
    if providers[0][0] != rtx_provider.PROVIDER or bundle.facts.nodes or not bundle.manifest.profiles:
        raise InputError(
            f"{where}: {rtx_provider.PROVIDER} comes first, and runs bundles that were converted with --target "
            "tensorrt-rtx."
        )
    profiles = bundle.manifest.profiles
    check_profiles(profiles, [record.tensor_role for record in bundle.manifest.inputs], where)
    devices = rtx_provider.rtx_devices(where)
    kept = cache_folder() / RTX_CACHE
    kept.mkdir(parents=True, exist_ok=True)
    options = {**tensorrt_rtx_options(profiles, cache=kept), **providers[0][1]}

    def attach(session_options: Any) -> None:
        if not session_options.has_providers():
            session_options.add_provider_for_devices(devices[:1], options)

    entry = rtx_provider.PROFILE_ENTRY if len(profiles) > 1 else None
    guard = ProfileGuard(profiles, where, entry=entry)
    return Served(_input(bundle.model_path, bundle), None, (), None, attach=attach, guard=guard)


def _input(path: pathlib.Path, bundle: Bundle) -> ModelInput:
    facts = bundle.facts if path == bundle.model_path else model_facts(load_proto(path))
    return ModelInput(os.fspath(path), None, facts, str(path))
