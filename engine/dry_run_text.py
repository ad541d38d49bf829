"""A dry run in words: cells side by side, then totals, disk, and what the numbers rest on."""

from collections.abc import Sequence
from typing import Any

from engine.timing import duration

# Fields of a cell that have their place in the text, or say nothing beside it.
TOLD = {
    "encoder", "lm", "lm_init", "shuffle", "shuffled", "subset", "swap_rule", "ablation_kind", "ablation",
    "removed_list", "runs", "known", "steps", "tokens", "flops", "seconds",
}  # fmt: skip


def dry_run_text(forecast: dict[str, Any]) -> str:
    """Lines for people: under each encoder and LM one line for each kind of labels, its ablation levels together."""
    rows: list[tuple[str, str, str]] = []
    blocks: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for cell in forecast["cells"]:
        models = f"{_last(cell['encoder'])} + {_last(cell['lm'])}"
        blocks.setdefault(models, {}).setdefault(_what(cell), []).append(cell)
    for models, kinds in blocks.items():
        rows.append((models, "", ""))
        rows += [(f"  {what}", _levels(cells), _numbers(cells)) for what, cells in kinds.items()]
    rows.append(("all", "", _numbers([forecast["total"]])))
    wide = [max((len(row[column]) for row in rows if row[2]), default=0) for column in (0, 1)]
    lines = [f"{row[0]:<{wide[0]}}  {row[1]:<{wide[1]}}  {row[2]}".rstrip() for row in rows]
    disk = {name: f"{size / 1e9:.2f} GB" for name, size in forecast["disk"].items()}
    lines.append(
        f"disk: features {disk['features']}, LM weights {disk['models']}, runs {disk['runs']}, and a checkpoint of at "
        f"most {disk['checkpoint']} while a group trains"
    )
    for name, found in forecast["lms"].items():
        checked = (
            "passes the checks that need no weights" if found["checked"] else "not checked, it is not on this machine"
        )
        lines.append(f"LM {name}: " + (f"would fail: {found['problem']}" if found["problem"] else checked))
    lines += [f"time: {rate['basis']}" for rate in forecast["rates"].values()]
    return "\n".join([*lines, *(f"note: {note}" for note in forecast["notes"])])


def _what(cell: dict[str, Any]) -> str:
    """Weights, labels, and every other field in which cells differ and that means something here."""
    if cell["subset"] == "swap":
        labels = "hypernyms swapped" if cell["shuffle"] == "swap" else "swap control"
    else:
        labels = cell["shuffle"] if cell["shuffled"] == 100 else f"{cell['shuffle']} {cell['shuffled']} %"
    rules = {"across_rule", "within_rule"} - {f"{cell['shuffle']}_rule"}
    other = [f"{name} {value}" for name, value in cell.items() if name not in TOLD | rules]
    weights = "random-init" if cell["lm_init"] == "random" else "pretrained"
    return ", ".join([weights, labels, *other])


def _levels(cells: Sequence[dict[str, Any]]) -> str:
    parts = []
    for kind, unit in (("random", "%"), ("systematic", "hypernyms")):
        if levels := sorted({cell["ablation"] for cell in cells if cell["ablation_kind"] == kind}):
            parts.append(f"{' '.join(map(str, levels))} {unit}")
    return "ablated: " + ", ".join(parts)


def _numbers(cells: Sequence[dict[str, Any]]) -> str:
    runs, known, tokens, flops, seconds = (
        sum(cell[name] or 0 for cell in cells) for name in ("runs", "known", "tokens", "flops", "seconds")
    )
    text = f"{runs:>4} runs"
    if known:
        text += f"  {tokens:.1e} tokens  {flops:.1e} FLOP  {duration(seconds):>10}"
    if known < runs:
        text += f"  ({runs - known} of them not known)"
    return text


def _last(name: str | None) -> str:
    return (name or "?").rstrip("/").rsplit("/", 1)[-1]
