"""Public names are loaded when they are first used."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

import eventstore
import eventstore.pubsub
import eventstore.subscriptions
import eventstore.tracker

PACKAGES = pytest.mark.parametrize(
    "package", [eventstore, eventstore.pubsub, eventstore.subscriptions, eventstore.tracker]
)


@PACKAGES
def test_every_public_name_is_loaded_once_and_listed(package: ModuleType) -> None:
    for name in package.__all__:
        assert getattr(package, name) is vars(package)[name]
    assert dir(package) == sorted(package.__all__)


@PACKAGES
def test_another_name_is_none_of_the_package(package: ModuleType) -> None:
    with pytest.raises(AttributeError, match=f"^module '{package.__name__}' has no attribute 'other'$"):
        package.other  # noqa: B018


@PACKAGES
def test_importing_a_package_loads_nothing_of_it(package: ModuleType) -> None:
    code = f"import sys, {package.__name__}; print(*(name for name in sys.modules if name.startswith('eventstore')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert set(done.stdout.split()) == {"eventstore", "eventstore.lazily", package.__name__}
