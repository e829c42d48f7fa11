"""Processes of a test's own that need not import again what the tests have imported: forks that run a module.

To import takes most of the seconds of a process that lives for a moment. A fork has a pid, pipes, signals, an
environment, a directory and an exit code as any process; of the tests it keeps what is imported and nothing that is
open. What is about starting itself, as about what a command imports, starts an interpreter.
"""

from __future__ import annotations

import atexit
import contextvars
import gc
import logging
import os
import resource
import runpy
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping

__all__ = ["instead_of_an_interpreter"]


def instead_of_an_interpreter(
    module: str, *args: str | bytes, env: Mapping[str, str] | None = None
) -> Callable[[], None]:
    """What ``Popen`` takes as *preexec_fn*, to run ``python -m MODULE ARGS`` without executing anything.

    It is called in the child, which has its pipes and its directory by then, and does not return.

    Args:
        env: instead of this process's.
    """
    words = [os.fsdecode(arg) for arg in args]
    environment = dict(os.environ if env is None else env)

    def run() -> None:
        code = 1
        try:
            _forget_the_tests()
            os.environ.clear()
            os.environ.update(environment)
            sys.argv = [module, *words]
            sys.path.insert(0, os.getcwd())
            code = contextvars.Context().run(_exit_code, module)
        finally:
            os._exit(code)

    return run


def _forget_the_tests() -> None:
    gc.freeze()  # collected, a socket of the tests would close another one that has its number now
    gc.enable()
    os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w")
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace")
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    logging.root.handlers.clear()
    logging.root.setLevel(logging.WARNING)
    warnings.resetwarnings()
    warnings.simplefilter("ignore", DeprecationWarning)
    atexit._clear()


def _exit_code(module: str) -> int:
    if not hasattr(sys.modules.get(module), "__path__"):
        sys.modules.pop(module, None)  # as runpy wants it
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return _told(end.code)
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        return 1
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
    return 0


def _told(code: object) -> int:
    if isinstance(code, str):
        print(code, file=sys.stderr)
        return 1
    return code if isinstance(code, int) else 0
