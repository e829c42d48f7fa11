"""What a subscription is stored with beside its selector: its failure policy and its sink."""

from __future__ import annotations

from collections.abc import Mapping
from types import EllipsisType
from typing import Any

from eventstore.errors import ConfigurationError
from eventstore.sinks import check_sink
from eventstore.subscriptions.policy import FailurePolicy, dump

__all__ = ["changed_options", "differing_options", "encode_options"]


def encode_options(
    policy: FailurePolicy | None, sink: str | None, sink_options: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return what is stored; what is left to the defaults is left out, since definitions are compared.

    Raises:
        ConfigurationError: the sink is none, or its options are not its own.
    """
    if policy is not None and not isinstance(policy, FailurePolicy):
        raise ConfigurationError(f"a policy is a FailurePolicy, not {type(policy).__name__}")
    options: dict[str, Any] = {}
    if policy is not None and (differing := dump(policy)):
        options["policy"] = differing
    if sink is not None:
        check_sink(sink, sink_options or {})
        options["sink"] = sink
        if sink_options:
            options["sink_options"] = dict(sink_options)
    elif sink_options:
        raise ConfigurationError("sink_options go with a sink")
    return options


def changed_options(
    stored: Mapping[str, Any],
    policy: FailurePolicy | EllipsisType | None,
    sink: str | EllipsisType | None,
    sink_options: Mapping[str, Any] | EllipsisType | None,
) -> dict[str, Any]:
    """Return *stored* with what is not ``...`` replaced (`ConfigurationError` as `encode_options`)."""
    target = stored.get("sink") if isinstance(sink, EllipsisType) else sink
    if isinstance(sink_options, EllipsisType):
        sink_options = stored.get("sink_options") if isinstance(sink, EllipsisType) else None
    changed = encode_options(None if isinstance(policy, EllipsisType) else policy, target, sink_options)
    kept = {name: value for name, value in stored.items() if name not in ("policy", "sink", "sink_options")}
    if isinstance(policy, EllipsisType) and "policy" in stored:
        kept["policy"] = stored["policy"]
    return kept | changed


def differing_options(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return the names of the options that are not the same in both."""
    return sorted(name for name in stored.keys() | wanted.keys() if stored.get(name) != wanted.get(name))
