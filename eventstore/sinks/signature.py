"""Signatures of webhooks after the scheme of Standard Webhooks, version v1: HMAC with SHA-256."""

from __future__ import annotations

import binascii
import hmac
import os
from base64 import b64decode, b64encode
from collections.abc import Mapping

from eventstore.errors import ConfigurationError

__all__ = ["SECRET_PREFIX", "Signer"]

SECRET_PREFIX = "whsec_"


class Signer:
    """Signs with each of the secrets in an environment variable, so that a receiver can change from one to the next.

    Args:
        variable: its name. Secrets are separated by spaces; behind ``whsec_`` they are base64, else taken as they are.

    Raises:
        ConfigurationError: it is not set or empty, or holds what is not base64; the message names it, not its value.
    """

    __slots__ = ("_secrets",)

    def __init__(self, variable: str, environment: Mapping[str, str]) -> None:
        self._secrets = [_secret(text, variable) for text in environment.get(variable, "").split()]
        if not self._secrets:
            raise ConfigurationError(
                f"the environment variable {variable}, which is to hold the secret of a webhook, is not set or empty"
            )

    def sign(self, id: str, timestamp: int, body: bytes) -> str:
        """Return the value of ``webhook-signature``; neither *id* nor *timestamp* holds a full stop."""
        content = f"{id}.{timestamp}.".encode() + body
        return " ".join("v1," + b64encode(hmac.digest(one, content, "sha256")).decode() for one in self._secrets)


def _secret(text: str, variable: str) -> bytes:
    if not text.startswith(SECRET_PREFIX):
        return os.fsencode(text)
    try:
        secret = b64decode(os.fsencode(text.removeprefix(SECRET_PREFIX)), validate=True)
    except binascii.Error:
        secret = b""
    if not secret:
        raise ConfigurationError(
            f"the environment variable {variable} holds a secret that is not base64 behind {SECRET_PREFIX}"
        )
    return secret
