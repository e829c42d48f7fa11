"""The colours of the dashboard against WCAG 2.2 AA: 4.5 for text, 3 for what is to be seen otherwise."""

from __future__ import annotations

import re
from itertools import product

import pytest

from eventstore.dashboard.rendering import STATIC

PAIR = re.compile(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);")
COLOURS = {name: (light, dark) for name, light, dark in PAIR.findall((STATIC / "app.css").read_text())}

GROUNDS = ("bg", "surface", "sunken")
TEXT = [
    *product(("text", "muted", "accent", "ok", "warn", "bad", "info"), GROUNDS),
    *product(("key", "string", "number"), ("surface", "sunken")),
    *((name, f"{name}-soft") for name in ("accent", "ok", "warn", "bad", "info")),
    *product(("text", "muted"), ("accent-soft",)),
    ("on-accent", "accent"),
]
SEEN = [
    *product(("edge", *(f"c{n}" for n in range(1, 9))), ("bg", "surface")),
    *product(("c1", "ok", "warn", "bad", "info"), ("sunken",)),
]


def luminance(colour: str) -> float:
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def too_weak(pairs: list[tuple[str, str]], least: float) -> list[str]:
    return [
        f"{front} on {back}, {theme}: {ratio:.2f}"
        for front, back in pairs
        for theme, at in (("light", 0), ("dark", 1))
        if (ratio := contrast(COLOURS[front][at], COLOURS[back][at])) < least
    ]


def test_black_on_white_is_twenty_one() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


def test_every_text_can_be_read_on_every_ground_it_stands_on() -> None:
    assert too_weak(TEXT, 4.5) == []


def test_every_mark_and_edge_can_be_seen() -> None:
    assert too_weak(SEEN, 3.0) == []


def test_every_colour_of_a_text_is_one_that_is_compared() -> None:
    css = (STATIC / "app.css").read_text()
    used = set(re.findall(r"[{;]\s*color: var\(--([\w-]+)\)", css))
    assert used <= {front for front, _ in TEXT}
    assert not re.search(r"(?<!\()#[0-9a-f]{3,6}\b(?![^;]*\);)", css.split("}", 1)[1])
