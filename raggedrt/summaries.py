"""Reports as text for people. Everything here reads the JSON form, so a stored report reads the same as a fresh one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raggedrt.engine_text import profiles_text
from raggedrt.tables import format_table

SITE_COLUMNS = ("attention site", "form", "mask", "bias", "heads", "head size", "density", "lowered to")


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
            site.get("bias"),
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
    refused = [(entry["name"], item) for entry in passes for item in entry["refused"]]
    rows = [(name, item["node"], item["reason"]) for name, item in refused]
    if not rows:
        return ""
    advice = dict.fromkeys(item["advice"] for _, item in refused if item.get("advice"))
    return "\n".join(
        [format_table(("pass", "node", "left alone because"), rows), *(f"to change that: {text}" for text in advice)]
    )


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
    if facts.get("plugin_model") and not facts["engines"]:
        lines.append(f"plugin form: {facts['plugin_model']}, for batches within this profile:")
        lines.append(profiles_text(facts["profiles"]))
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
        parts.append(_pairs_table(("the meaning of axes is lost at", "because"), facts["axes_lost"]))
        parts.append(_pairs_table(("Softmax", "is not taken for attention because"), facts["other_softmaxes"]))
        parts += [masks_text(facts["masks"]), approximation_text(facts["report"].get("approximation"))]
    if facts["region"] is not None:
        parts.append(_region_text(facts["region"], facts["report"]["attention"]))
    if facts["problem"]:
        parts.append(f"cannot be rewritten: {facts['problem']}")
    parts += [f"warning: {text}" for text in facts["warnings"]]
    parts.append(_model_text(facts["model"], facts["environment"]))
    return "\n\n".join(part for part in parts if part)


def _pairs_table(columns: tuple[str, str], items: Sequence[Mapping[str, Any]]) -> str:
    rows = [(item["node"], item["reason"]) for item in items]
    return format_table(columns, rows) if rows else ""


def _region_text(region: Mapping[str, Any], sites: Sequence[Mapping[str, Any]]) -> str:
    ends = [", ".join(names) for names in (region["inputs"], region["outputs"])]
    if ends[0]:
        return f"padding can be removed between {ends[0]} and {ends[1] or 'the outputs, which hold no padded slots'}"
    if any(site["op"] for site in sites):
        return "attention is lowered by itself; padding cannot be removed: see the reasons above"
    return "padding cannot be removed: see the reasons above"


def _model_text(model: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    """What the file is made of, for a bug report."""
    values = [
        (value["name"], kind, value["dtype"], "unknown" if value["shape"] is None else value["shape"])
        for kind in ("input", "output")
        for value in model[f"{kind}s"]
    ]
    weights = model["weights"]
    sizes = ", ".join(f"{size / 1e6:.1f} MB {name}" for name, size in weights["dtypes"].items())
    external = f", {weights['external_bytes'] / 1e6:.1f} MB of them in other files" if weights["external_bytes"] else ""
    lines = [
        f"producer: {model['producer'] or 'not named'}, IR version {model['ir_version']}",
        f"opsets: {_pairs(model['opsets'])}",
        f"nodes: {_pairs(model['op_types'])}",
        f"weights: {weights['tensors']} tensors{', ' if sizes else ''}{sizes}{external}",
        f"versions: {_pairs(versions)}",
    ]
    if model["without_rule"]:
        lines.insert(3, f"without a transfer rule: {_pairs(model['without_rule'])}")
    if model["functions"]:
        lines.insert(2, f"functions: {', '.join(model['functions'])}")
    return format_table(("name", "is", "dtype", "shape"), values) + "\n\n" + "\n".join(lines)


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _density_text(site: Mapping[str, Any]) -> str | None:
    if site["density"] is None:
        return None
    at = f" at {site['density_at']}" if site["density_at"] and site["density"] < 1 else ""
    return f"{site['density']:.3g}{at}"
