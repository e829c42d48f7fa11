"""The dashboard: a web page over the same reports as the command line, alone or inside of any ASGI application.

- `dashboard` makes the application, with `Token` for who may come in;
- ``eventstore dashboard`` serves it.
"""

from __future__ import annotations

try:
    from eventstore.dashboard.app import dashboard
    from eventstore.dashboard.security import Token
except ModuleNotFoundError as error:
    if error.name not in ("starlette", "jinja2", "itsdangerous"):
        raise
    raise ModuleNotFoundError(
        "the dashboard needs more packages: pip install '.[dashboard]' in a checkout", name=error.name
    ) from None

__all__ = ["Token", "dashboard"]
