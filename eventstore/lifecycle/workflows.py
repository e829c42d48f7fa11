"""What happens to workflows, as messages ``("durable_event", kind, payload)``."""

from __future__ import annotations

from enum import Enum, StrEnum, auto
from itertools import count
from typing import Any, ClassVar, Final, Literal, Self
from weakref import WeakValueDictionary

from eventstore.errors import InvalidEvent
from eventstore.lifecycle.families import Family, Lifecycle
from eventstore.pubsub.hub import PubSub
from eventstore.pubsub.local import Alone

__all__ = ["START", "Kind", "WorkflowKind", "WorkflowLifecycle", "server_for"]


class WorkflowKind(StrEnum):
    """What happened; the part before the first ``_`` names the family."""

    WORKFLOW_STARTED = auto()
    WORKFLOW_RESUMED = auto()
    WORKFLOW_WAITING = auto()
    WORKFLOW_COMPLETED = auto()
    WORKFLOW_FAILED = auto()
    WORKFLOW_CANCELLED = auto()
    STEP_STARTED = auto()
    STEP_COMPLETED = auto()
    STEP_FAILED = auto()
    STEP_WAITING = auto()
    INPUT_REQUESTED = auto()
    INPUT_PROVIDED = auto()
    SCHEDULE_TOGGLED = auto()
    SCHEDULE_TRIGGERED = auto()


Kind = WorkflowKind


def _family(name: str, shared: str | None = None, each: str | None = None, key: str = "") -> Family:
    return Family(name, frozenset(kind for kind in Kind if kind.startswith(f"{name}_")), shared, each, key)


_WORKFLOW = _family("workflow", "workflows", "workflow", "id")
_STEP = _family("step", None, "workflow", "workflow_id")
_INPUT = _family("input", "inputs", "workflow", "workflow_id")
_SCHEDULE = _family("schedule", "schedules")


class _Start(Enum):
    START = "start"


START: Final = _Start.START
"""For *pubsub*: one of its own."""

_numbers = count()
_instances: WeakValueDictionary[int, WorkflowLifecycle] = WeakValueDictionary()


def server_for(instance: str) -> PubSub | None:
    """Return the PubSub of the instance of that name in this process; None: unknown, closed, or without one.

    If there are several of that name, it is the latest one's.
    """
    found = [one for _, one in sorted(_instances.items()) if one.instance == instance]
    return found[-1].server if found else None


class WorkflowLifecycle(Lifecycle):
    """Tells what happens to workflows, after it was saved.

    ``async with WorkflowLifecycle("shop") as lifecycle`` opens it, and closes its PubSub if that is its own.

    Args:
        instance: names topics and PubSub.
        pubsub: left out: one of its own, for this process; None: nobody is told anything; else that one, borrowed.

    Attributes:
        server: the PubSub, or None.
    """

    Kind: ClassVar[type[WorkflowKind]] = WorkflowKind

    def __init__(self, instance: str, pubsub: PubSub | Literal[_Start.START] | None = START) -> None:
        self._owned = PubSub(f"{instance}.PubSub") if pubsub is START else None
        super().__init__("durable", instance, self._owned if pubsub is START else pubsub)
        self._number = next(_numbers)
        _instances[self._number] = self

    @property
    def server_name(self) -> str:
        """What a PubSub of its own is called."""
        return f"{self.instance}.PubSub"

    async def __aenter__(self) -> Self:
        if self._owned is not None:
            await self._owned.__aenter__()
        _instances[self._number] = self
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close its own PubSub, if it has one. Closing twice is fine."""
        _instances.pop(self._number, None)
        if self._owned is not None:
            await self._owned.close()

    # -- topics

    def workflows_topic(self) -> str:
        """Return the topic of all workflow events."""
        return f"{self._prefix}workflows"

    def workflow_topic(self, id: str | int) -> str:
        """Return the topic of what concerns one workflow: itself, its steps and inputs."""
        return f"{self._prefix}workflow:{id}"

    def schedules_topic(self) -> str:
        """Return the topic of all schedule events."""
        return f"{self._prefix}schedules"

    def inputs_topic(self) -> str:
        """Return the topic of all input events."""
        return f"{self._prefix}inputs"

    # -- telling

    async def broadcast_workflow(self, kind: WorkflowKind, payload: Any) -> None:
        """Tell of a workflow, whose payload has its ``id``. Whether anybody could be told, the caller never learns.

        Args:
            payload: a dict of plain data, or a model that is registered with the PubSub's codec.

        Raises:
            InvalidEvent: *kind* is of another family, or the payload lacks the key.
        """
        await self._broadcast(_WORKFLOW, kind, payload)

    async def broadcast_step(self, kind: WorkflowKind, payload: Any) -> None:
        """Tell of a step, whose payload has its ``workflow_id``; as `broadcast_workflow`."""
        await self._broadcast(_STEP, kind, payload)

    async def broadcast_input(self, kind: WorkflowKind, payload: Any) -> None:
        """Tell of an input, whose payload has its ``workflow_id``; as `broadcast_workflow`."""
        await self._broadcast(_INPUT, kind, payload)

    async def broadcast_schedule(self, kind: WorkflowKind, payload: Any) -> None:
        """Tell of a schedule, whose payload needs no key; as `broadcast_workflow`."""
        await self._broadcast(_SCHEDULE, kind, payload)

    async def _broadcast(self, family: Family, kind: WorkflowKind, payload: Any) -> None:
        if not isinstance(kind, str) or kind not in family.kinds:
            known = ", ".join(sorted(family.kinds))
            raise InvalidEvent(f"{str(kind)!r} is no kind of {family.name} event; those are {known}")
        topics = family.topics(self._prefix, kind, payload)
        if self.server is None:
            return
        # A copy, because the caller may go on to change a dict that waits in the mailboxes of this node.
        message = ("durable_event", WorkflowKind(kind).value, dict(payload) if type(payload) is dict else payload)
        # Who cannot reach other nodes refuses to broadcast; those who watch this one are served all the same.
        send = self.server.local_broadcast if isinstance(self.server.adapter, Alone) else self.server.broadcast
        for topic in topics:
            try:
                await send(topic, message)
            # What is told is saved already: whatever an adapter, a codec or a dispatcher raises comes too late.
            except Exception as error:  # noqa: BLE001
                self._failures.add(error)
