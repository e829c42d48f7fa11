from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from eventstore.cli.logs import configure
from eventstore.errors import LeaseLost


@pytest.fixture(autouse=True)
def _handlers_are_put_back() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def logged(capsys: pytest.CaptureFixture[str], error: Exception, *, verbose: int = 0, debug: bool = False) -> str:
    configure(verbose, debug)
    try:
        raise error
    except type(error):
        logging.getLogger("eventstore.test").exception("it failed")
    logging.getLogger("eventstore.test").info("by the way")
    return capsys.readouterr().err


def test_an_error_of_the_package_is_one_line_in_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    text = logged(capsys, LeaseLost("gone"))
    assert ("Traceback" in text, "LeaseLost: gone" in text) == (False, True)


def test_debugging_shows_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Traceback" in logged(capsys, LeaseLost("gone"), debug=True)


def test_an_error_of_the_application_has_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Traceback" in logged(capsys, ZeroDivisionError())


@pytest.mark.parametrize(("verbose", "shown"), [(0, False), (1, True), (5, True)])
def test_information_needs_v(capsys: pytest.CaptureFixture[str], verbose: int, shown: bool) -> None:
    assert ("by the way" in logged(capsys, LeaseLost("gone"), verbose=verbose)) is shown
