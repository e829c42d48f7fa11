"""The chart: one bar a ratio, on a logarithmic axis, with its interval and target; SVG written by hand."""

from __future__ import annotations

from html import escape
from math import log2

from benchmarks.model import Outcome
from benchmarks.run import Result

__all__ = ["chart"]

ROW, LEFT, WIDTH, RIGHT, TOP = 26, 430, 420, 60, 62
LOWEST, HIGHEST = -3.0, 6.0
"""The axis goes from 1/8 to 64."""

COLOURS = {True: "#2a7f4f", False: "#c0392b", None: "#5b6b7b"}


def _x(ratio: float) -> float:
    exponent = min(max(log2(ratio) if ratio > 0 else LOWEST, LOWEST), HIGHEST)
    return LEFT + WIDTH * (exponent - LOWEST) / (HIGHEST - LOWEST)


def chart(results: list[Result], caption: str) -> str:
    """Return the ratios of *results* as an SVG picture; latencies, errors and lone figures are left to the table."""
    rows = [(r, o) for r in results for o in r.outcomes if o.comparison.metric == "rate" and o.comparison.base]
    height = TOP + ROW * len(rows) + 14
    ticks = [2.0**exponent for exponent in range(int(LOWEST), int(HIGHEST) + 1)]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + RIGHT}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="12">',
        f'<rect width="100%" height="{height}" fill="#fff"/>',
        f'<text x="10" y="20" font-size="14" font-weight="bold">{escape(caption)}</text>',
        '<text x="10" y="38" fill="#555">rate of ours / base, median of the rounds; thin line: interval of the '
        "median; tick: target; green met, red missed, grey without a target</text>",
    ]
    for tick in ticks:
        x, strong = _x(tick), "#333" if tick == 1 else "#ddd"
        lines.append(f'<line x1="{x:.1f}" y1="{TOP - 4}" x2="{x:.1f}" y2="{height - 10}" stroke="{strong}"/>')
        name = f"{tick:g}" if tick >= 1 else f"1/{1 / tick:g}"
        lines.append(f'<text x="{x:.1f}" y="{TOP - 8}" text-anchor="middle" fill="#555">{name}</text>')
    for number, (result, outcome) in enumerate(rows):
        lines += _bar(result, outcome, TOP + ROW * number)
    return "\n".join([*lines, "</svg>", ""])


def _bar(result: Result, outcome: Outcome, y: int) -> list[str]:
    value, comparison = outcome.value, outcome.comparison
    (start, end), middle = sorted((_x(1), _x(value.median))), y + 12
    label = f"{result.work.name}: {comparison.ours} / {comparison.base}"
    bar = [
        f'<text x="{LEFT - 8}" y="{y + 16}" text-anchor="end">{escape(label)}</text>',
        f'<rect x="{start:.1f}" y="{y + 4}" width="{max(end - start, 1):.1f}" height="16" '
        f'fill="{COLOURS[outcome.met]}"><title>{escape(result.work.title)}</title></rect>',
        f'<line x1="{_x(value.low):.1f}" y1="{middle}" x2="{_x(value.high):.1f}" y2="{middle}" stroke="#000"/>',
        f'<text x="{max(end, _x(value.high)) + 6:.1f}" y="{y + 16}">{value.median:.2f}</text>',
    ]
    if comparison.at_least is not None:
        x = _x(comparison.at_least)
        bar.append(f'<line x1="{x:.1f}" y1="{y + 1}" x2="{x:.1f}" y2="{y + 23}" stroke="#000" stroke-width="2"/>')
    return bar
