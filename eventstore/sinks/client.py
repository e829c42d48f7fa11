"""The one place that knows httpx: a pool of connections to one URL, whose secrets are in nobody's log."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import NamedTuple, Self

import httpx

from eventstore.errors import ConfigurationError, DeliveryFailed
from eventstore.sinks.urls import credentials_of

__all__ = ["Answer", "Client"]

BEGINNING = 4096
"""Bytes of a response that are read; what is longer costs its connection."""


class Answer(NamedTuple):
    """A response and the beginning of its body."""

    status: int
    headers: Mapping[str, str]
    beginning: str


class _Discreet(httpx.URL):
    """A URL that is sent as it is, and printed without its query: httpx logs the URL of every request."""

    def __str__(self) -> str:
        return str(httpx.URL(self.copy_with(query=None)))


class Client:
    """Posts to one URL, inside ``async with``. Redirects are not followed, and cookies not kept.

    Args:
        shown: the URL as errors have it.
        timeout: seconds for a request altogether.
    """

    def __init__(self, url: str, shown: str, timeout: float) -> None:
        credentials = credentials_of(url)
        self._auth = None if credentials is None else httpx.BasicAuth(*credentials)
        try:
            self._url = _Discreet(httpx.URL(url).copy_with(userinfo=b""))
        except (httpx.InvalidURL, ValueError):
            raise ConfigurationError(f"the URL {shown} of a webhook is malformed") from None
        self._shown, self._timeout = shown, timeout

    async def __aenter__(self) -> Self:
        # The timeout is one for everything: httpx's own begins anew with every byte that arrives.
        self._http = httpx.AsyncClient(
            auth=self._auth,
            timeout=None,
            follow_redirects=False,
            headers={"User-Agent": "eventstore", "Accept": "*/*", "Accept-Encoding": "identity"},
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def post(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Return what is answered. What fails after the status has come does not count: the status decides.

        Raises:
            DeliveryFailed: there is no answer.
        """
        request = self._http.build_request("POST", self._url, content=body, headers=headers)
        request.url = self._url
        response, read = None, bytearray()
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._http.send(request, stream=True)
                async for chunk in response.aiter_raw():
                    read += chunk
                    if len(read) > BEGINNING:
                        break
        except TimeoutError:
            if response is None:
                raise DeliveryFailed(f"{self._shown} did not answer within {self._timeout:g} s") from None
        except httpx.HTTPError as error:
            if response is None:
                raise DeliveryFailed(f"{self._shown}: {str(error) or type(error).__name__}") from None
        finally:
            if response is not None:
                await response.aclose()
        assert response is not None
        return Answer(response.status_code, response.headers, read[:BEGINNING].decode(errors="replace"))
