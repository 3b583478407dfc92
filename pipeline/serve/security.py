"""Who may write: a bearer token from the environment or a file, or one that is made at start on loopback."""

import hmac
import ipaddress
import logging
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from stat import S_IRWXG, S_IRWXO

from pipeline.config import UserError

VARIABLE = "LIVING_MEMORY_TOKEN"
"""What the environment keeps the token in."""
SHORTEST = 16
"""Characters of a token at least."""
BYTES = 32
"""Random bytes of a token that is made."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Token:
    """The token that lets a client write; only its digest is kept."""

    _digest: bytes = field(repr=False)
    made: Path | None = None
    """The file that it was written to, where it was made at start."""

    @classmethod
    def of(cls, text: str, made: Path | None = None) -> "Token":
        """Return the token of a text.

        Raises:
            UserError: it is too short to be no guess, or holds what no header can.
        """
        if len(text) < SHORTEST or not text.isascii() or not text.isprintable() or " " in text:
            raise UserError(
                f"the token has {len(text)} characters; it must have at least {SHORTEST}, all of them "
                "printable ASCII without spaces"
            )
        return cls(sha256(text.encode()).digest(), made)

    def allows(self, authorization: str | None) -> bool:
        """Return whether a header `Authorization` gives this token, in a time that doesn't tell how near."""
        scheme, _, given = (authorization or "").partition(" ")
        digest = sha256(given.strip().encode("utf-8", "surrogateescape")).digest()
        return hmac.compare_digest(digest, self._digest) and scheme.casefold() == "bearer"


def token(host: str, file: Path | None, place: Path, environment: Mapping[str, str] = os.environ) -> Token:
    """Return the token of a server that is about to start.

    Args:
        host: address that it listens on.
        file: of a given token; None where there is none.
        place: file that a token is written to where one has to be made.
        environment: whose variable `LIVING_MEMORY_TOKEN` goes before the file.

    Raises:
        UserError: none is given, and others than this machine could reach the server; or it is no token, or
            its file can't be read or written.
    """
    if given := environment.get(VARIABLE, ""):
        return Token.of(given)
    if file is not None:
        return Token.of(_read(file))
    if not is_loopback(host):
        raise UserError(
            f"serve.host is {host!r}, which other machines can reach, so writing needs a token of yours: "
            f"set the variable {VARIABLE}, or serve.token_file to a file that holds one"
        )
    text = secrets.token_urlsafe(BYTES)
    _write(place, text)
    return Token.of(text, place)


def _read(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8").strip()
        shared = file.stat().st_mode & (S_IRWXG | S_IRWXO)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"serve.token_file: {file} can't be read ({error})") from error
    if shared:
        logger.warning("%s: other users may read the token; `chmod 600` keeps it to you", file)
    return text


def _write(place: Path, text: str) -> None:
    """Write a secret to a new file that only its owner may read."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(text + "\n")
    except OSError as error:
        raise UserError(f"{place}: a token can't be written there ({error})") from error


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server that listens on `host`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def is_named(host: str, known: frozenset[str]) -> bool:
    """Return whether a Host header may name this server.

    A page of another site that lets its own name point here (DNS rebinding) sends that name; an address or
    `localhost` can't be made to point elsewhere.

    Args:
        host: the header, maybe with a port.
        known: further names, in lower case.
    """
    name = host.casefold()
    if name.startswith("["):
        name, _, port = name[1:].partition("]")
        port = port.removeprefix(":")
    else:
        name, _, port = name.partition(":")
    if port and not (port.isascii() and port.isdigit()):
        return False
    try:
        ipaddress.ip_address(name)
        return True
    except ValueError:
        return name == "localhost" or name in known
