"""Which names of a memory a text mentions: the longest, without case and accents, none inside another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.memory.lexical import spans, words
from pipeline.memory.names import Names
from pipeline.memory.store import KnowledgeMemory


@dataclass(frozen=True, slots=True)
class Mention:
    """A stretch of a text that is a name."""

    start: int
    """Place of its first letter in the text."""
    end: int
    """Place behind its last letter."""
    entities: tuple[int, ...]
    """Rows of all entities that bear the name, ascending."""


class Mentions:
    """The names of a memory's entities by their words; entities that are new are taken in when next asked.

    Args:
        memory: gives the entities, and which of them head facts: no other is linked to.
        aliases: further names of entities, by their stable keys.
    """

    def __init__(self, memory: KnowledgeMemory, aliases: Mapping[str, Sequence[str]]) -> None:
        self._memory = memory
        self._aliases = aliases
        self._read: tuple[Names, int] | None = None
        self._rows: dict[tuple[str, ...], list[int]] = {}
        self._longest = 0

    def of(self, text: str) -> list[Mention]:
        """Return the mentions in `text`, longest first, none of which overlaps a longer or an earlier one."""
        self._follow()
        found = spans(text)
        told = tuple(word for word, _, _ in found)
        known: list[Mention] = []
        for first in range(len(told)):
            for last in range(first, min(first + self._longest, len(told))):
                rows = self._rows.get(told[first : last + 1])
                if rows and (heads := self._heading(rows)):
                    known.append(Mention(found[first][1], found[last][2], heads))
        known.sort(key=lambda mention: (mention.start - mention.end, mention.start))
        kept: list[Mention] = []
        for mention in known:
            if all(mention.end <= other.start or other.end <= mention.start for other in kept):
                kept.append(mention)
        return kept

    def _heading(self, rows: Sequence[int]) -> tuple[int, ...]:
        return tuple(sorted(row for row in rows if self._memory.facts_of(row)))

    def _follow(self) -> None:
        """Take in the entities that came since; a memory that was opened anew is read from the start."""
        names = self._memory.entities
        if self._read is None or self._read[0] is not names:
            self._rows, self._longest, self._read = {}, 0, (names, 0)
        start, end = self._read[1], len(names)
        fresh = zip(names.keys[start:end], names.texts[start:end], strict=True)
        for row, (key, label) in enumerate(fresh, start):
            for name in {tuple(words(name)) for name in (label, *self._aliases.get(key, ()))} - {()}:
                self._rows.setdefault(name, []).append(row)
                self._longest = max(self._longest, len(name))
        self._read = names, end
