"""Which copies of a shard count, as each copy keeps it on its disk.

A term is one stretch of time in which the same copies take every change. A new term begins when the memory is
opened for writing, when a copy is lost, and when one is let in again; it counts once each of its members has
it on disk, and only then is a change acknowledged in it.
"""

import json
from pathlib import Path
from typing import NamedTuple, Self

from pipeline.config import UserError
from pipeline.memory.disk import write_whole

FILE = "membership.json"


class Membership(NamedTuple):
    """The members of a term; term 0 is before any."""

    term: int = 0
    members: tuple[int, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return what the copy in `folder` was told last.

        Raises:
            UserError: the file is damaged.
        """
        file = folder / FILE
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            return cls(int(values["term"]), tuple(map(int, values["members"])))
        except FileNotFoundError:
            return cls()
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise UserError(
                f"{file}: damaged ({error}); remove the folder of this copy, which another one fills again"
            ) from error

    def write(self, folder: Path) -> None:
        """Bring it to disk in `folder`."""
        write_whole(folder / FILE, json.dumps(self._asdict()).encode() + b"\n")
