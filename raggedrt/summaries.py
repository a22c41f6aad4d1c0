"""Reports as text for people. Everything here reads the JSON form, so a stored report reads the same as a fresh one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raggedrt.tables import format_table

SITE_COLUMNS = ("attention site", "form", "mask", "heads", "head size", "density", "lowered to")


def report_summary(report: Mapping[str, Any]) -> str:
    """Sites, refusals and node counts of `RewriteReport.to_json()`."""
    parts = [sites_table(report["attention"]), refusals_text(report["passes"])]
    lowered = sum(1 for site in report["attention"] if site["op"])
    parts.append(
        f"{lowered} of {len(report['attention'])} attention sites lowered, "
        f"{report['nodes_before']} nodes before, {report['nodes_after']} after"
    )
    parts.append(approximation_text(report.get("approximation")))
    return "\n\n".join(part for part in parts if part)


def approximation_text(approximation: Mapping[str, Any] | None) -> str:
    """How far imposed sparsity moved the outputs."""
    if approximation is None:
        return ""
    columns = ("output", "max abs", "mean abs", "mean cosine", "least cosine")
    rows = [
        (entry["output"], f"{entry['max_abs']:.2e}", f"{entry['mean_abs']:.2e}", *(
            f"{entry[name]:.5f}" for name in ("cosine", "least_cosine")
        ))
        for entry in approximation["outputs"]
    ]  # fmt: skip
    return (
        f"an approximation: {', '.join(approximation['sparsity'])} is imposed. Outputs moved this far from the "
        f"original's at valid places of sample inputs of up to {approximation['longest']} tokens "
        f"({', '.join(approximation['cases'])})\n" + format_table(columns, rows)
    )


def sites_table(sites: Sequence[Mapping[str, Any]]) -> str:
    """One line per attention site found."""
    if not sites:
        return "no attention site found"
    rows = [
        (
            site["node"],
            site["form"],
            site["mask"] or "not understood",
            site["heads"] if site["kv_heads"] in (None, site["heads"]) else f"{site['heads']}/{site['kv_heads']}",
            site["head_size"],
            _density_text(site),
            site["op"] or f"left alone: {site['reason']}",
        )
        for site in sites
    ]
    return format_table(SITE_COLUMNS, rows)


def masks_text(masks: Sequence[Mapping[str, Any]]) -> str:
    """Density, tiles and FLOPs of each distinct mask, and where skipping does not pay."""
    if not masks:
        return ""
    rows = [
        (
            f"{number}: {mask['mask']}",
            len(mask["sites"]),
            mask["length"],
            f"{mask['density']:.3g}",
            _tiles_text(mask["tiles"]),
            _flops_text(mask["flops"]),
        )
        for number, mask in enumerate(masks, 1)
    ]
    columns = ("mask", "layers", "tokens", "density", "tiles: empty/partial/full", "GFLOPs per layer: kept/dense")
    notes = [f"mask {number}: {mask['advice']}" for number, mask in enumerate(masks, 1) if mask["advice"]]
    notes += [f"mask {number}: drawn in {mask['image']}" for number, mask in enumerate(masks, 1) if mask.get("image")]
    return "\n".join([format_table(columns, rows), *notes])


def _tiles_text(tiles: Mapping[str, Any] | None) -> str | None:
    if tiles is None:
        return None
    return f"{tiles['empty']}/{tiles['partial']}/{tiles['full']} of {tiles['size']}, visits {tiles['visited']:.3g}"


def _flops_text(flops: Mapping[str, Any]) -> str | None:
    return None if flops["kept"] is None else f"{flops['kept'] / 1e9:.3g}/{flops['dense'] / 1e9:.3g}"


def refusals_text(passes: Sequence[Mapping[str, Any]]) -> str:
    """What each pass left alone, and why."""
    rows = [(entry["name"], item["node"], item["reason"]) for entry in passes for item in entry["refused"]]
    return format_table(("pass", "node", "left alone because"), rows) if rows else ""


def verification_text(verification: Mapping[str, Any] | None) -> str:
    """Errors per output of a manifest's verification record."""
    if verification is None:
        return "not verified"
    rows = [
        (name, f"{entry['max_abs']:.1e}", f"{entry['max_rel']:.1e}") for name, entry in verification["outputs"].items()
    ]
    head = (
        f"verified on {verification['verified_on']} over {', '.join(verification['cases'])} "
        f"(tolerance {verification['atol']:g} + {verification['rtol']:g} x |reference|, valid places only)"
    )
    return head + "\n" + format_table(("output", "max abs error", "max rel error"), rows)


def bundle_text(facts: Mapping[str, Any]) -> str:
    """Facts of a manifest: target, I/O, source, inputs, outputs, verification."""
    rows = [
        (entry["name"], kind.removesuffix("s"), entry["role"], entry["dtype"], list(entry["shape"]))
        for kind in ("inputs", "outputs")
        for entry in facts[kind]
    ]
    lines = [
        f"bundle for {facts['target']}, {facts['io']} inputs and outputs, made by RaggedRT "
        f"{facts['toolchain_version']}",
        f"source: {facts['source']['kind']} {facts['source']['description']}",
    ]
    table = format_table(("name", "is", "role", "dtype", "shape"), rows)
    return "\n".join(lines) + "\n\n" + table + "\n\n" + verification_text(facts["verification"])


def inspection_text(facts: Mapping[str, Any]) -> str:
    """What `inspect` found."""
    parts = [f"{facts['path']}: {facts['nodes']} nodes, opset {facts['opset']}"]
    if facts["bundle"]:
        parts.append(bundle_text(facts["bundle"]))
    if facts["ops"]:
        parts.append(format_table(("op", "nodes"), list(facts["ops"].items())))
    if facts["report"]:
        parts += [sites_table(facts["report"]["attention"]), refusals_text(facts["report"]["passes"])]
        parts += [masks_text(facts["masks"]), approximation_text(facts["report"].get("approximation"))]
    if facts["region"] is not None:
        region = facts["region"]
        parts.append(
            f"padding can be removed between {', '.join(region['inputs'])} and {', '.join(region['outputs'])}"
            if region["inputs"]
            else "padding cannot be removed: see the reasons above"
        )
    parts += [f"warning: {text}" for text in facts["warnings"]]
    return "\n\n".join(part for part in parts if part)


def _density_text(site: Mapping[str, Any]) -> str | None:
    if site["density"] is None:
        return None
    at = f" at {site['density_at']}" if site["density_at"] and site["density"] < 1 else ""
    return f"{site['density']:.3g}{at}"
