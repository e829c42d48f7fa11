"""``stdout``: events as lines of JSON, for what comes behind a pipe."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

from eventstore.codec import printable
from eventstore.errors import DeliveryFailed
from eventstore.events import Event
from eventstore.sinks.sink import check_options, record

__all__ = ["Stdout"]

# One thread, as there is one stdout: lines never mix, and a reader who has stopped reading holds up no more than that.
_writer = ThreadPoolExecutor(1, "stdout")


class Stdout:
    """Writes one line of JSON for each event to ``sys.stdout``, in the form of ``eventstore read --json``."""

    batch_size = 500

    @staticmethod
    def check(target: str, options: Mapping[str, Any]) -> None:
        """Refuse options: there are none (`ConfigurationError`)."""
        check_options(options, (), "stdout")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def deliver(self, events: Sequence[Event], *, subscription: str, attempt: int) -> None:
        """Write *events* and flush (`DeliveryFailed`)."""
        # The standard library's encoder: others round or refuse large integers.
        texts = (json.dumps(record(event), ensure_ascii=False, separators=(",", ":")) for event in events)
        lines = [printable(text) + "\n" for text in texts]
        try:
            await asyncio.get_running_loop().run_in_executor(_writer, _write, "".join(lines))
        except BrokenPipeError:
            raise DeliveryFailed("stdout is closed: nobody reads it any more") from None
        except (OSError, ValueError) as error:
            raise DeliveryFailed(f"stdout cannot be written: {error}") from None

    def __repr__(self) -> str:
        return "Stdout()"


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
