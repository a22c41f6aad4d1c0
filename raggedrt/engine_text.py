"""Engines as text for people, from the JSON form of their records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raggedrt.context_facts import context_text
from raggedrt.tables import format_table


def engine_text(record: Mapping[str, Any], report: Mapping[str, Any] | None) -> str:
    """What an engine was built for and, where it is known, what building it took."""
    capabilities = ", ".join(map(str, record["compute_capabilities"]))
    parts = [
        f"engine {record['file']}: {record['builder']} {record['builder_version']}, compute capability {capabilities}",
        places_text(record),
        profiles_text(record["profiles"]),
    ]
    if report is not None:
        parts += [building_text(report["facts"]), linear_text(report["linear_layers"])]
    elif record["device_memory_bytes"] is not None:
        parts.append(f"activations on the device at the greatest shapes: {_size(record['device_memory_bytes'])}")
    return "\n".join(part for part in parts if part)


def places_text(record: Mapping[str, Any]) -> str:
    """The plugins of an engine, and where it runs beside the place that it was built in."""
    parts = []
    if plugins := record.get("plugins"):
        place = "inside" if plugins["serialized"] else "to be loaded before it"
        parts.append(
            f"plugins {place}: {', '.join(plugins['creators'])} (version {plugins['version']}, ABI {plugins['abi']})"
        )
    if record.get("version_compatible"):
        parts.append("later versions of the same major version run it too")
    if record.get("hardware_compatibility", "none") != "none":
        parts.append(f"GPUs: {record['hardware_compatibility']}")
    return "; ".join(parts)


def engines_text(facts: Mapping[str, Any]) -> str:
    """What `inspect` found about engines, and about the parts of a model that ONNX Runtime compiled."""
    parts = []
    if "inputs" in facts:
        columns = ("name", "role", "dtype", "shape")
        rows = [(side[:-1], *(t[name] for name in columns)) for side in ("inputs", "outputs") for t in facts[side]]
        parts.append(format_table(("is", *columns), rows))
    for engine in facts.get("engines", ()):
        parts.append(engine_text(engine, None))
        if engine["layer_counts"]:
            parts.append("layers: " + ", ".join(f"{count} {kind}" for kind, count in engine["layer_counts"].items()))
        parts.append("runs here" if engine["runs_here"] else f"does not run here: {engine['why_not']}")
    parts += [context_text(part) for part in facts.get("ep_contexts", ())]
    return "\n".join(parts)


def profiles_text(profiles: Sequence[Mapping[str, Any]]) -> str:
    """One line per profile and input: least, best and greatest shape."""
    bounds = ("minimum", "optimum", "maximum")
    rows = [
        (number if first else "", name, *("x".join(map(str, profile[bound][name])) for bound in bounds))
        for number, profile in enumerate(profiles)
        for first, name in zip([True, *[False] * len(profile["minimum"])], profile["minimum"], strict=False)
    ]
    return format_table(("profile", "input", "least", "best", "greatest"), rows)


def building_text(facts: Mapping[str, Any]) -> str:
    """Time and memory of a build."""
    device = facts["device_memory_bytes"]
    layers = (
        "of the engine"
        if facts["inspected"]
        else "of the network (this builder tells those of the engine on a GPU only)"
    )
    return (
        f"built in {facts['build_seconds']:.1f} s ({facts['cpu_seconds']:.1f} s of CPU time), parsed in "
        f"{facts['parse_seconds']:.1f} s; at most {_size(facts['peak_memory_bytes'])} of memory; engine of "
        f"{_size(facts['plan_bytes'])}"
        + ("" if device is None else f", activations of {_size(device)} on the device at the greatest shapes")
        + f"; the layers written are those {layers}"
    )


def linear_text(rows: Mapping[str, int]) -> str:
    """Along what the rows of linear layers run."""
    return ", ".join(f"{count} linear layers over {name}" for name, count in rows.items())


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count < 2**30 else f"{count / 2**30:.2f} GiB"
