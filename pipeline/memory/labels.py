"""Finds what a user means by a name: an entity or a relation of the memory, or a new one."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from difflib import get_close_matches

from pipeline.config import UserError
from pipeline.memory.names import Names

SHOWN = 8
"""Keys that the error about an ambiguous label lists."""


class Labels:
    """The names of one kind of thing in a memory.

    A name is a stable key, else a label, else a label whatever its case. A name that is none of these is new
    and gets the key `local:<name>`.

    Args:
        names: gives the memory's entities or relations, which are other ones after a merge.
        kind: what errors call one of them.
        others: further labels, each with its key.
    """

    def __init__(
        self, names: Callable[[], Names], kind: str, others: Mapping[str, str] | None = None
    ) -> None:
        self.kind = kind
        self._of = names
        self._others = dict(others or {})
        self._given: dict[str, str] = {}
        self._seen = 0
        self._exact: defaultdict[str, list[str]] = defaultdict(list)
        self._folded: defaultdict[str, list[str]] = defaultdict(list)
        for label, key in self._others.items():
            self._add(label, key)

    @property
    def _names(self) -> Names:
        return self._of()

    def find(self, name: str) -> str | None:
        """Return the key of what `name` means, None where the memory knows no such thing.

        Raises:
            UserError: several things have this label; the text lists their keys.
        """
        name = " ".join(name.split())
        if name in self._names:
            return name
        for keys in self.bearing(name):
            if len(keys) > 1:
                listed = ", ".join(f"{key} ({self.label(key)})" for key in keys[:SHOWN])
                more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
                raise UserError(
                    f"{self.kind} {name!r}: {len(keys)} have this label; give the key instead: {listed}{more}"
                )
            if keys:
                return keys[0]
        return None

    def bearing(self, name: str) -> tuple[list[str], list[str]]:
        """Return the keys of what has the label `name`, and of what has it in whatever case."""
        self._follow()
        return self._exact.get(name, []), self._folded.get(name.casefold(), [])

    def key(self, name: str) -> str:
        """Return the key of what `name` means, a new one where the memory knows no such thing.

        A new name gets the same key in whatever case it comes again.

        Raises:
            UserError: several things have this label.
        """
        name = " ".join(name.split())
        return self.find(name) or self._given.setdefault(name.casefold(), f"local:{name}")

    def label(self, key: str) -> str:
        """Return the text of the thing with that key, which must be known."""
        return self._names.texts[self._names.row(key)]

    def alike(self, name: str, count: int = 3) -> list[str]:
        """Return the labels that are written most like `name`."""
        self._follow()
        folded = get_close_matches(name.casefold(), self._folded, n=count, cutoff=0.6)
        return [self.label(self._folded[label][0]) for label in folded]

    def _follow(self) -> None:
        """Take in what the memory got since the last call."""
        for row in range(self._seen, len(self._names)):
            self._add(self._names.texts[row], self._names.keys[row])
        self._seen = len(self._names)

    def _add(self, label: str, key: str) -> None:
        for index, name in ((self._exact, label), (self._folded, label.casefold())):
            if key not in index[name]:
                index[name].append(key)
