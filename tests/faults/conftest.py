"""A durable server of its own for each test, a copy of what is made once in a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.server import Server, server, template


@pytest.fixture(scope="session")
def data() -> Iterator[Path]:
    with template() as made:
        yield made


@pytest.fixture
def own(data: Path) -> Iterator[Server]:
    with server(data) as started:
        yield started
