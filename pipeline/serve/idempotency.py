"""Answers that are given again where a request comes again with its Idempotency-Key.

They are kept in a file beside the memory's journal. A change is in the journal first and its answer in this
file right after, before either is acknowledged: a process that is killed between the two leaves a change
whose key isn't known. The client, which got no answer, then sends it again, and it is carried out again: the
fact stands already, but `superseded` is empty, and a change by someone else in between is overwritten (send
`If-Match` to be told instead). The file isn't brought to disk at once: a power cut may lose keys, never
changes.
"""

import json
import logging
from collections import OrderedDict
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from pipeline.memory.disk import write_whole
from pipeline.serve.refusals import Refusal

NAME = "repeats.ndjson"
LONGEST = 255
"""Characters of a key at most."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Given:
    """An answer that was given."""

    key: str
    request: str
    """Digest of what was asked."""
    status: int
    tag: str
    """The header ETag."""
    body: str


class Repeats:
    """The answers of the last requests that had a key; use it by one thread at a time.

    Args:
        folder: of the memory.
        most: how many are kept; the oldest are forgotten first.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self._file = folder / NAME
        self._most = most
        self._held: OrderedDict[str, Given] = OrderedDict()
        self._lines = 0
        if self._file.is_file():
            self._read()

    def __len__(self) -> int:
        return len(self._held)

    def find(self, key: str, request: str) -> Given | None:
        """Return the answer that was given to a request with this key, None where there was none.

        Raises:
            Refusal: the key was used with another request.
        """
        given = self._held.get(key)
        if given is not None and given.request != request:
            raise Refusal(
                422, "the Idempotency-Key was used with another request", "idempotency-key", "key_reused"
            )
        return given

    def keep(self, given: Given) -> None:
        """Remember an answer; a disk that fails is logged, as the change itself was carried out."""
        self._held[given.key] = given
        while len(self._held) > self._most:
            self._held.popitem(last=False)
        try:
            if self._lines >= 2 * self._most:
                self._write()
                return
            with self._file.open("ab") as stream:
                stream.write(_line(given))
            self._lines += 1
        except OSError as error:
            logger.error("%s: can't be written to (%s); a restart forgets keys", self._file, error)

    def _read(self) -> None:
        for line in self._file.read_bytes().splitlines():
            try:
                given = Given(**json.loads(line))
                self._held[str(given.key)] = given
            except (ValueError, TypeError):
                logger.warning("%s: holds a line that was cut off", self._file)
        while len(self._held) > self._most:
            self._held.popitem(last=False)
        self._write()

    def _write(self) -> None:
        write_whole(self._file, b"".join(map(_line, self._held.values())))
        self._lines = len(self._held)


def _line(given: Given) -> bytes:
    return json.dumps(asdict(given), separators=(",", ":")).encode() + b"\n"


def checked(key: str) -> str:
    """Return an Idempotency-Key.

    Raises:
        Refusal: it is empty or too long.
    """
    if not 0 < len(key) <= LONGEST:
        raise Refusal(
            400, f"an Idempotency-Key has 1 to {LONGEST} characters", "idempotency-key", "invalid_value"
        )
    return key


def digest(*parts: str) -> str:
    """Return what a request is compared by."""
    return sha256(json.dumps(parts).encode()).hexdigest()
