"""Forms: signing in and out, and actions. Each is read within limits and has to carry its session's token."""

from __future__ import annotations

import asyncio
import logging
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from eventstore.dashboard.actions import asked, perform
from eventstore.dashboard.addresses import Addresses, local_path, root_of
from eventstore.dashboard.encoding import to_json
from eventstore.dashboard.guard import address, path_of, too_many, visit_of, wants_json
from eventstore.dashboard.parameters import Parameters
from eventstore.dashboard.refusals import Refused, refused
from eventstore.dashboard.security import is_loopback
from eventstore.dashboard.site import Site, is_open
from eventstore.dashboard.view import Flash

__all__ = ["act", "show_login", "sign_in", "sign_out"]

log = logging.getLogger(__name__)

MAX_BYTES = 64 * 1024
MAX_FIELDS = 32

MAX_BACK = 16 * 1024
"""Characters of a way back: the longest name, each character as twelve, and the longest query."""

DONE_WITHIN = 30.0
"""Seconds that an action may take; what the database does then is undone."""


async def read_form(request: Request) -> Parameters:
    """Return the fields of a form (`Refused`)."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise Refused(415, "UnsupportedForm", "send a form as application/x-www-form-urlencoded")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BYTES:
            raise Refused(413, "FormTooLarge", f"a form has at most {MAX_BYTES:,} bytes")
    try:
        pairs = parse_qsl(body.decode("latin-1"), errors="replace", max_num_fields=MAX_FIELDS)
    except ValueError:
        raise Refused(400, "InvalidForm", f"a form has at most {MAX_FIELDS} fields") from None
    return Parameters(pairs)


def _check_token(site: Site, request: Request, form: Parameters) -> None:
    if not site.sessions.csrf_fits(visit_of(request).session, form.text("csrf")):
        raise Refused(403, "FormExpired", "this form is not one of this session; load the page again, then repeat it")


def _way_back(request: Request, text: str) -> str:
    """Return *text* if it leads to one of our own pages, else the overview; nothing fails for where it leads."""
    root = root_of(request.scope)
    return (local_path(text, root) if len(text) <= MAX_BACK else None) or Addresses(root).url()


def _to(location: str) -> Response:
    return RedirectResponse(location, 303)


# -- signing in


async def show_login(site: Site, request: Request) -> Response:
    """Answer with the page that asks for a token, or go on where nobody needs one."""
    following = _way_back(request, request.query_params.get("next", ""))
    if visit_of(request).scope is not None:
        return _to(following)
    response = site.ask_for_token(request, following, None)
    response.status_code = 200
    return response


async def sign_in(site: Site, request: Request) -> Response:
    """Open a session for who knows a token."""
    if not site.tokens:
        raise Refused(404, "NotFound", "nobody has to sign in here")
    form = await read_form(request)
    following = _way_back(request, form.text("next", most=MAX_BYTES))
    name = site.tokens.match(form.text("token"))
    fingerprint = None if name is None else site.tokens.fingerprint(name)
    if (wait := site.attempts.wait(address(request), fingerprint)) > 0:
        raise too_many(wait)
    _check_token(site, request, form)
    if name is None:
        site.attempts.failed(address(request))
        log.warning("dashboard: signing in from %s failed", address(request))
        return site.ask_for_token(request, following, "this token is not known")
    if not site.tokens.by_name[name].allows("read"):
        return site.ask_for_token(request, following, "this token is for metrics only")
    site.attempts.right(address(request), fingerprint)
    response = _to(following)
    site.set_session(request, response, site.sessions.open(name, fingerprint))
    return response


async def sign_out(site: Site, request: Request) -> Response:
    """End the session in this browser."""
    _check_token(site, request, await read_form(request))
    response = _to(_way_back(request, ""))
    site.delete_cookie(request, response, "session")
    return response


# -- actions


async def act(site: Site, request: Request) -> Response:
    """Do what a form asks for, and go back with a word about it."""
    if not site.may_act(visit_of(request)):
        raise Refused(403, "ReadOnly", _why_not(site, request))
    form = await read_form(request)
    _check_token(site, request, form)
    if not is_open(site.store):
        raise Refused(503, "StoreClosed", "the store is not open", retry=5)
    what, back = path_of(request.scope).partition("/")[2], _way_back(request, form.text("back", most=MAX_BYTES))
    try:
        wanted = asked(what, form, site.store)
        async with asyncio.timeout(DONE_WITHIN):
            peer = address(request)
            elsewhere = None if peer is not None and is_loopback(peer) else peer
            who = visit_of(request).who or site.operator
            flash = Flash("ok", await perform(wanted, site.store, who, elsewhere))
        status = 200
    except Exception as error:
        refusal = refused(error)
        if refusal.status == 500:
            log.exception("dashboard: %s failed", what)
        flash, status = Flash("error", _what_became(error, refusal)), refusal.status
    if wants_json(request):
        told = {"ok": status == 200, "message": flash.message}
        return Response(to_json(told) + "\n", status, media_type="application/json")
    return site.sent_to(request, back, flash)


def _what_became(error: Exception, refusal: Refused) -> str:
    """Return what to tell of an action that failed; nobody tries it again."""
    if isinstance(error, TimeoutError):
        return f"this took longer than {DONE_WITHIN:g} seconds and was given up"
    if refusal.error == "DatabaseUnavailable":
        return "the database cannot be reached; Actions tells whether it was done, once it is back"
    return refusal.message


def _why_not(site: Site, request: Request) -> str:
    if not site.allow_actions:
        return "this dashboard is read-only; it was started without --allow-actions"
    if visit_of(request).bearer:
        return "actions need a session; programs use the command line"
    return "this token may look, and do nothing"
