"""Keys that sign seals: Ed25519, as PEM files. Needs the extra ``evidence``."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eventstore.errors import ConfigurationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["PublicKey", "SigningKey", "create"]

NEEDED = "seals are signed with the package cryptography: pip install '.[evidence]' in a checkout"


class PublicKey:
    """Who seals are checked against.

    Attributes:
        name: 16 hexadecimal digits that tell keys apart; seals name their key by it.
    """

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key
        self.name = sha256(key.public_bytes_raw()).hexdigest()[:16]

    @classmethod
    def read(cls, path: str | Path) -> PublicKey:
        """Read a PEM file (`ConfigurationError`)."""
        serialization, ed25519 = _cryptography()
        try:
            key = serialization.load_pem_public_key(_bytes(path))
        except ValueError:
            key = None
        if not isinstance(key, ed25519.Ed25519PublicKey):
            raise ConfigurationError(f"{path} holds no public key of Ed25519 in PEM")
        return cls(key)

    def signed(self, message: bytes, signature: bytes) -> bool:
        """Tell whether the key signed *message*."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


class SigningKey:
    """Signs seals. Whoever has it can make seals that nobody can tell from yours: keep it away from the database."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key())

    @classmethod
    def read(cls, path: str | Path) -> SigningKey:
        """Read a PEM file (`ConfigurationError`)."""
        serialization, ed25519 = _cryptography()
        try:
            key = serialization.load_pem_private_key(_bytes(path), password=None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, ed25519.Ed25519PrivateKey):
            raise ConfigurationError(f"{path} holds no private key of Ed25519 in PEM, without a password")
        return cls(key)

    def sign(self, message: bytes) -> bytes:
        """Return the signature of *message*."""
        return self._key.sign(message)


def create(path: str | Path) -> PublicKey:
    """Write a new private key to *path*, readable for its owner alone, and its public key to ``<path>.pub``.

    Raises:
        ConfigurationError: one of them exists, or cannot be written.
    """
    serialization, ed25519 = _cryptography()
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    if os.path.lexists(f"{path}.pub"):
        raise ConfigurationError(f"cannot write {path}.pub: it exists already")
    for name, mode, text in ((str(path), 0o600, private), (f"{path}.pub", 0o644, public)):
        try:
            with os.fdopen(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(text)
        except OSError as error:
            raise ConfigurationError(f"cannot write {name}: {error.strerror}") from None
    return PublicKey(key.public_key())


def _bytes(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise ConfigurationError(NEEDED) from None
    return serialization, ed25519
