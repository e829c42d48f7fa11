"""The selector options that read, tail and subscription create share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce, wraps
from operator import and_
from typing import TYPE_CHECKING, Any, Literal

import click

from eventstore.cli.values import parse_json

if TYPE_CHECKING:
    from eventstore.selectors import Selector

__all__ = ["selector_options"]

_OPTIONS = (
    click.option("--stream", "in_stream", metavar="NAME", help="Events of one stream."),
    click.option("--type", "types", metavar="TYPE", multiple=True, help="Events of this type; repeatable."),
    click.option("--pattern", metavar="GLOB|JSON", help="Stream names like order-*, or a part of the event as JSON."),
    click.option("--payload", metavar="JSON", help="A part of the data; $gt, $in, … compare values."),
    click.option("--tag", "tags", metavar="TAG", multiple=True, help="Events with this tag; repeatable, see --match."),
    click.option("--match", type=click.Choice(["all", "any"]), help="Of several tags.  [default: all]"),
    click.option("--selector", "algebra", metavar="JSON", help='The full algebra: {"kind": "or", "of": [...]}.'),
)


def selector_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the selector options; the command gets ``selector=``, None if none is given. Several kinds are and-ed."""

    @wraps(function)
    def command(*args: Any, **options: Any) -> Any:
        names = ("in_stream", "types", "pattern", "payload", "tags", "match", "algebra")
        given = {name: options.pop(name) for name in names}
        return function(*args, selector=_selector(**given), **options)

    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _selector(match: Literal["all", "any"] | None, **given: Any) -> Selector | None:
    if match and not given["tags"]:
        raise click.UsageError("--match says how several --tag combine; give --tag too")
    parts = list(_parts(match or "all", **given))
    return reduce(and_, parts) if parts else None


def _parts(
    match: Literal["all", "any"],
    in_stream: str | None,
    types: tuple[str, ...],
    pattern: str | None,
    payload: str | None,
    tags: tuple[str, ...],
    algebra: str | None,
) -> Iterator[Selector]:
    from eventstore.selectors import EventPayload, EventType, Stream, Tags, load

    if in_stream is not None:
        yield Stream(in_stream)
    if types:
        yield EventType(*types)
    if pattern is not None:
        yield _pattern(pattern)
    if payload is not None:
        yield EventPayload(_json(payload, "--payload"))
    if tags:
        yield Tags(*tags, match=match)
    if algebra is not None:
        yield load(algebra)


def _pattern(text: str) -> Selector:
    from eventstore.selectors import EventPattern

    return EventPattern(_json(text, "--pattern") if text.startswith("{") else text)


def _json(text: str, option: str) -> Any:
    # Not by an option type: null would look like an option that was not given.
    try:
        return parse_json(text)
    except ValueError as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint=option) from None
