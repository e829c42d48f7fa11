from __future__ import annotations

import pytest

from eventstore.metrics import looking
from eventstore.metrics.collecting import StoreCollector


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database is waited for, however busy the machine is, where a test does not say otherwise."""
    monkeypatch.setattr(looking, "LOOK_WITHIN", 60.0)
    monkeypatch.setitem(StoreCollector.refresh.__kwdefaults__, "within", 60.0)
