"""Scaling in words: ratios, curves, memory, hours and measured steps as small tables."""

from collections.abc import Sequence
from typing import Any

from engine.benchmark.scaling_curves import SERIES
from engine.timing import duration

NAMES = {"images": "engine, order images", "pairs": "engine, order pairs", "naive": "naive loop"}


def scaling_text(result: dict[str, Any]) -> str:
    """Lines for people from what `engine.benchmark.scaling.scaling` returns."""
    parts = (
        _ratios(result["ratios"]),
        _curves(result),
        _memory(result),
        _grid(result["grid"]),
        _schedule(result["schedule"]),
        _measured(result),
    )
    return "\n\n".join("\n".join(lines) for lines in parts)


def _ratios(ratios: Sequence[dict[str, Any]]) -> list[str]:
    rows = [["operations of the naive loop over the engine's", "", "order", "naive", "with cached features"]]
    rows += [
        [
            f"  {row['of']}",
            f"{row['questions']:.2f} questions an image",
            row["order"],
            f"{row['ratio']:.1f}x",
            f"{row['cached']:.1f}x",
        ]
        for row in ratios
    ]
    return _aligned(rows)


def _curves(result: dict[str, Any]) -> list[str]:
    lines = [f"predicted time at {_speed(result['speed'])}"]
    for axis, curve in result["curves"].items():
        points = curve[SERIES[0]]
        rows = [[f"  {curve['label']}", *(_last(row["lm"]) if axis == "lm" else f"{row['x']:,}" for row in points)]]
        rows += [[f"    {NAMES[series]}", *(duration(row["seconds"]) for row in curve[series])] for series in SERIES]
        if axis == "runs":
            rows.append(["    times an LM is loaded", *(str(row["lm_loads"]) for row in points)])
        lines += [f"  {curve['fixed']}:", *_aligned(rows)]
    return lines


def _memory(result: dict[str, Any]) -> list[str]:
    table = result["memory"]
    lms = list(dict.fromkeys(row["lm"] for row in table))
    rows = [["tokens of a row x runs in lockstep", *map(_last, lms)]]
    for device in dict.fromkeys(row["device"] for row in table):
        chosen = {row["lm"]: row for row in table if row["device"] == device}
        size = f" ({chosen[lms[0]]['memory'] / 2**30:.1f} GiB)" if "GB" not in device else ""
        rows.append([f"  {device}{size}", *(_chosen(chosen[lm]) for lm in lms)])
    runs = {row["lm"]: row["run"] for row in table}
    rows.append(["  memory of each run", *(f"{runs[lm] / 1e6:.0f} MB" for lm in lms)])
    return _aligned(rows)


def _chosen(row: dict[str, Any]) -> str:
    return f"{row['max_tokens']:,} x {row['group_size']}" if row["fits"] else "does not fit"


def _grid(grid: dict[str, Any]) -> list[str]:
    """Families in the order that the grid asks for, then the sum in each of `SERIES`."""
    hours = {(row["device"], row["family"]): row for row in grid["hours"]}
    devices = {row["device"]: row for row in grid["hours"]}
    families = {row["family"]: row for row in grid["hours"]}
    rows = [["hours of the paper's grid on one device", "runs", *devices]]
    for family, row in families.items():
        runs = str(row["runs"] or "") + (f" ({row['known']} known)" if row["known"] < row["runs"] else "")
        for series in SERIES if family == "all" else ("pairs",):
            name = f"  {family}, {NAMES[series]}" if family == "all" else f"  {family}"
            rows.append([name, runs, *(_hours(hours[device, family][series], row) for device in devices)])
    return [
        *_aligned(rows),
        *(f"  {name}: {row['flops_per_second'] / 1e12:.3g} TFLOP/s, {row['basis']}" for name, row in devices.items()),
    ]


def _schedule(schedule: dict[str, Any]) -> list[str]:
    """Hours by number of GPUs and most runs in a group; in brackets those in the plan's order where they differ."""
    table = {(row["group_size"], row["gpus"]): row for row in schedule["rows"]}
    sizes, counts = (list(dict.fromkeys(place)) for place in zip(*table, strict=True))
    first = counts[0]
    rows = [["  most runs in a group", "groups", *(f"{count} GPUs" if count > 1 else "1 GPU" for count in counts)]]
    for size in sizes:
        hours = [_ordered(table[size, count]) for count in counts]
        rows.append([f"    {size}", str(table[size, first]["groups"]), *hours])
    best = [table[schedule["best"][str(count)], count] for count in counts]
    rows.append(["  GPUs' time spent on runs, at best", "", *(f"{row['used']:.0%}" for row in best)])
    return [
        f"hours of the paper's grid, {schedule['runs']} runs, simulated: longest group first (in the plan's order)",
        *_aligned(rows),
        *(f"  assumed: {line}" for line in schedule["assumed"]),
    ]


def _ordered(row: dict[str, Any]) -> str:
    longest, plan = f"{row['hours']:.2f}", f"{row['hours_plan']:.2f}"
    return longest if longest == plan else f"{longest} ({plan})"


def _hours(hours: float, row: dict[str, Any]) -> str:
    if row["runs"] and not row["known"]:
        return "not known"
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:,.2f}"


def _measured(result: dict[str, Any]) -> list[str]:
    measured = result["measured"]
    lm = measured["lm"]
    lines = [
        f"measured: steps of an LM of width {lm['width']} and {lm['layers']} layers take "
        f"{1e3 * measured['start']:.1f} ms, and their operations at {measured['flops_per_second'] / 1e12:.3g} TFLOP/s"
    ]
    rows = [["  growing", "", "GFLOP", "tokens", "ms", "off the line"]]
    rows += [
        [
            f"    {row['axis']}",
            str(row["x"]),
            f"{row['flops'] / 1e9:,.1f}",
            f"{row['tokens']:,.0f}",
            f"{1e3 * row['seconds']:,.1f}",
            f"{row['deviation']:+.0%}",
        ]
        for row in measured["points"]
    ]
    slopes = ", ".join(f"{axis} {slope:.2f}" for axis, slope in measured["exponents"].items())
    return [*lines, *_aligned(rows), f"  time grows with operations to the power of (1: as counted): {slopes}"]


def _speed(speed: dict[str, Any]) -> str:
    return (
        f"{speed['flops_per_second'] / 1e12:.3g} TFLOP/s on {speed['device']} in {speed['dtype']}, "
        f"{speed['efficiency']:.0%} of its products' rate ({speed['basis']})"
    )


def _last(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, all others to the right."""
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(wide[0]), *(cell.rjust(w) for cell, w in zip(row[1:], wide[1:], strict=True))]).rstrip()
        for row in rows
    ]
