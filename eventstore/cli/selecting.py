"""The selector options that read, tail and subscription create share, and those of an append's condition."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce, wraps
from operator import and_
from typing import TYPE_CHECKING, Any, Literal

import click

from eventstore.cli.values import POSITION, parse_json

if TYPE_CHECKING:
    from eventstore.conditions import AppendCondition
    from eventstore.selectors import Selector

__all__ = ["condition_options", "selector_options"]

_OPTIONS = (
    click.option("--stream", "in_stream", metavar="NAME", help="Events of one stream."),
    click.option("--type", "types", metavar="TYPE", multiple=True, help="Events of this type; repeatable."),
    click.option("--pattern", metavar="GLOB|JSON", help="Stream names like order-*, or a part of the event as JSON."),
    click.option("--payload", metavar="JSON", help="A part of the data; $gt, $in, … compare values."),
    click.option("--tag", "tags", metavar="TAG", multiple=True, help="Events with this tag; repeatable, see --match."),
    click.option("--match", type=click.Choice(["all", "any"]), help="Of several tags.  [default: all]"),
    click.option("--selector", "algebra", metavar="JSON", help='The full algebra: {"kind": "or", "of": [...]}.'),
)

_CONDITION_OPTIONS = (
    click.option("--unless-stream", metavar="NAME", help="Not if there is an event of this stream."),
    click.option(
        "--unless-type",
        "unless_types",
        metavar="TYPE",
        multiple=True,
        help="Not if there is one of this type; repeatable.",
    ),
    click.option(
        "--unless-tag",
        "unless_tags",
        metavar="TAG",
        multiple=True,
        help="Not if there is one with this tag; repeatable.",
    ),
    click.option("--unless-match", type=click.Choice(["all", "any"]), help="Of several --unless-tag.  [default: all]"),
    click.option("--unless-selector", metavar="JSON", help="The full algebra, of types, tags and streams."),
    click.option("--after", type=POSITION, metavar="N", help="Not counting events up to this position."),
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


def condition_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --unless-… and --after; the command gets ``condition=``, None if none is given. Several kinds are and-ed."""

    @wraps(function)
    def command(*args: Any, after: int | None, **options: Any) -> Any:
        names = {"stream": "in_stream", "types": "types", "tags": "tags", "match": "match", "selector": "algebra"}
        given = {name: options.pop(f"unless_{option}") for option, name in names.items()}
        selector = _selector(prefix="unless-", pattern=None, payload=None, **given)
        return function(*args, condition=_condition(selector, after), **options)

    for option in reversed(_CONDITION_OPTIONS):
        command = option(command)
    return command


def _condition(selector: Selector | None, after: int | None) -> AppendCondition | None:
    from eventstore.conditions import AppendCondition

    if selector is not None:
        return AppendCondition(selector, after or 0)
    if after is not None:
        raise click.UsageError("--after says from where on the --unless options look; give one of them")
    return None


def _selector(match: Literal["all", "any"] | None, *, prefix: str = "", **given: Any) -> Selector | None:
    if match and not given["tags"]:
        raise click.UsageError(f"--{prefix}match says how several --{prefix}tag combine; give --{prefix}tag too")
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
