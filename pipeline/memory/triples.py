"""The rows of a memory's facts: which there are and which hold."""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from pipeline.memory.base import Base
from pipeline.memory.growing import Growing
from pipeline.memory.numbering import NONE, Numbering
from pipeline.memory.offsets import Rows

Triple = tuple[int, int, int]
"""Rows of a fact's head, relation and tail."""
MANY = 32
"""Facts that are looked up in a base together sooner than one by one."""


class Added(NamedTuple):
    """What adding facts did."""

    rows: list[int]
    """The facts' rows, in the order given."""
    fresh: list[int]
    """Those that did not hold before."""


class Cut(NamedTuple):
    """Which facts hold at some moment."""

    end: int
    """Rows that there are."""
    alive: Bool[np.ndarray, " n"]
    """Which of the facts that are not of the base hold."""
    dead: Rows
    """Rows of those of the base that don't, ascending."""


class Triples:
    """A growing table of facts; a fact that no longer holds keeps its row, and gets it back if it returns.

    A fact keeps its row when a merge writes the base anew, see `rebased`.

    Args:
        rows: facts that hold from the start, all different and none of the base.
        base: facts that stand on disk and have the first rows.
    """

    def __init__(self, rows: Int[np.ndarray, "M 3"] | None = None, base: Base | None = None) -> None:
        given = np.empty((0, 3), dtype=np.int64) if rows is None else rows.astype(np.int64)
        self.base = base
        self._first = len(base) if base else 0
        self.numbering = Numbering(self._first)
        """Rows of the facts of the base, by where they stand in it."""
        self._cut = self._first  # rows from here on are not of the base; those before are, but for `_kept`
        self._kept = NONE  # ascending
        self._place: dict[int, int] = {}  # of those that are kept, in `_rows`
        self._rows = Growing(torch.from_numpy(given))
        self._mirror: Growing | None = None  # the same where searches run
        self._alive = Growing(torch.ones(len(given), dtype=torch.bool))
        self._row: dict[Triple, int] = {
            (h, r, t): row for row, (h, r, t) in enumerate(given.tolist(), self._first)
        }
        self._dead: set[int] = set()  # of the base
        self._count = self.end

    def __len__(self) -> int:
        return self._count

    @property
    def end(self) -> int:
        """How many rows there are, of facts that hold or don't."""
        return self._first + len(self._rows)

    def _own(self) -> Rows:
        """Return the rows of the facts that are not of the base, in their order here."""
        return np.concatenate([self._kept, np.arange(self._cut, self.end)])

    def _one_of_own(self, row: int) -> int:
        """Return the place of a fact among those that are not of the base, -1 where it is of the base."""
        if row >= self._cut:
            return row - self._first
        return self._place.get(row, -1) if self._place else -1

    def _of_own(self, rows: Rows) -> Rows:
        """Return the places of facts among those that are not of the base, -1 for those of the base."""
        places: Rows = np.where(rows >= self._cut, rows - self._first, -1)
        if len(self._kept):
            at = np.searchsorted(self._kept, rows).clip(max=len(self._kept) - 1)
            kept = self._kept[at] == rows
            places[kept] = at[kept]
        return places

    @property
    def rows(self) -> Int[np.ndarray, "M 3"]:
        """All of them; with a base this reads all of it."""
        mine: Int[np.ndarray, "M 3"] = self._rows.array
        if self.base is None:
            return mine
        return self.at(np.arange(self.end))

    @property
    def alive(self) -> Bool[np.ndarray, " M"]:
        """Which of them hold."""
        mine: Bool[np.ndarray, " M"] = self._alive.array
        if self.base is None:
            return mine
        alive = np.ones(self.end, np.bool_)
        alive[self._own()] = mine
        alive[list(self._dead)] = False
        return alive

    @alive.setter
    def alive(self, alive: Bool[np.ndarray, " M"]) -> None:
        own = self._own()
        self._dead = set(np.setdiff1d(np.flatnonzero(~alive), own, assume_unique=True).tolist())
        self._alive = Growing(torch.from_numpy(alive[own]))
        self._count = int(alive.sum())

    def at(self, rows: Rows) -> Int[np.ndarray, "n 3"]:
        """Return head, relation and tail of `rows`."""
        mine = self._rows.array
        if self.base is None:
            found: Int[np.ndarray, "n 3"] = mine[rows]
            return found
        own = self._of_own(rows)
        old = own < 0
        found = np.empty((len(rows), 3), dtype=np.int64)
        if old.any():
            found[old] = self.base.triples(self.numbering.rows(rows[old]))
        found[~old] = mine[own[~old]]
        return found

    def heads(self, rows: Sequence[int]) -> list[int]:
        """Return the heads of `rows`: `at` for few facts, in a fraction of the time."""
        places = list(map(self._one_of_own, rows[:MANY]))
        if len(rows) > MANY or any(place < 0 for place in places):
            found: list[int] = self.at(np.array(rows, dtype=np.int64))[:, 0].tolist()
            return found
        return [int(self._rows.array[place, 0]) for place in places]

    def columns(self, rows: Int[Tensor, "*n"]) -> Int[Tensor, "3 *n"]:
        """Return heads, relations and tails of `rows`, where these are."""
        if rows.is_cuda and self.base is None:
            if self._mirror is None or self._mirror.rows.device != rows.device:
                self._mirror = Growing(self._rows.rows.to(rows.device))
            self._mirror.append(self._rows.rows[len(self._mirror) :].to(rows.device))
            return self._mirror.rows[rows].movedim(-1, 0)
        found = torch.from_numpy(self.at(rows.reshape(-1).cpu().numpy()))
        return found.T.reshape(3, *rows.shape).to(rows.device)

    def place(self, facts: Sequence[Triple]) -> list[int]:
        """Return the rows of `facts`, new ones where they had none; whether they hold stays as it is."""
        rows, end = self._find_all(facts), self.end
        new = dict.fromkeys(triple for triple, row in zip(facts, rows, strict=True) if row is None)
        if new:
            self._row.update({triple: end + i for i, triple in enumerate(new)})
            self._rows.append(np.array(list(new), dtype=np.int64))
            self._alive.append(np.zeros(len(new), dtype=np.bool_))
        return [self._row[triple] if row is None else row for triple, row in zip(facts, rows, strict=True)]

    def add(self, facts: Sequence[Triple]) -> Added:
        """Let `facts` hold."""
        end, rows = self.end, self.place(facts)
        fresh = [row for row in dict.fromkeys(rows) if row >= end or not self.holds(row)]
        self._turn(fresh, True)
        return Added(rows, fresh)

    def remove(self, rows: Iterable[int]) -> list[int]:
        """Let the facts of `rows` hold no longer; return those that did."""
        gone = [row for row in dict.fromkeys(rows) if self.holds(row)]
        self._turn(gone, False)
        return gone

    def _turn(self, rows: Sequence[int], alive: bool) -> None:
        places = list(map(self._one_of_own, rows))
        old = [row for row, place in zip(rows, places, strict=True) if place < 0]
        if alive:
            self._dead.difference_update(old)
        else:
            self._dead.update(old)
        for place in filter(lambda place: place >= 0, places):
            self._alive.array[place] = alive
        self._count += len(rows) if alive else -len(rows)

    def holds(self, row: int) -> bool:
        """Return whether the fact holds."""
        place = self._one_of_own(row)
        return row not in self._dead if place < 0 else bool(self._alive.array[place])

    def find(self, triple: Triple) -> int | None:
        """Return the row of a fact that holds, or None."""
        row = self.known(triple)
        return row if row is not None and self.holds(row) else None

    def known(self, triple: Triple) -> int | None:
        """Return the row of a fact that holds or doesn't, None where it has none."""
        row = self._find(triple)
        return row if row is not None and row < self.end else None

    def overlaid(self, went: Sequence[int], came: Sequence[int]) -> Self:
        """Return the same facts as they are now, but for those that hold no longer and others that do.

        Nothing may be added to what is returned; what is added here stays out of it.
        """
        other = copy.copy(self)
        other._rows, other._mirror = Growing(self._rows.rows), None
        other._alive, other._dead = Growing(self._alive.rows.clone()), set(self._dead)
        other._turn(went, False)
        other._turn(came, True)
        return other

    def _find_all(self, facts: Sequence[Triple]) -> list[int | None]:
        if self.base is None or len(facts) < MANY:
            return [self._find(triple) for triple in facts]
        given = np.array(facts, dtype=np.int64)
        inside = np.flatnonzero(given[:, 0] < self.base.entities)
        old = np.full(len(given), -1)
        found = self.base.find(given[inside])
        old[inside[found >= 0]] = self.numbering.ids(found[found >= 0])
        rows = zip(facts, old.tolist(), strict=True)
        return [self._row.get(triple) if row < 0 else row for triple, row in rows]

    def _find(self, triple: Triple) -> int | None:
        row = self._row.get(triple)
        if row is None and self.base is not None:
            row = self.base.find_one(*triple)
            if row is not None and not self.numbering.plain:
                row = int(self.numbering.ids(np.array([row]))[0])
        return row

    def since_base(self) -> tuple[list[int], list[int]]:
        """Return the rows of the base's facts that no longer hold, and of the other facts that do."""
        came: list[int] = self._own()[self._alive.array].tolist()
        return sorted(self._dead), came

    def held(self, block: int) -> Iterable[Int[np.ndarray, "n 3"]]:
        """Yield the facts that hold, `block` rows at a time."""
        dead = np.sort(self.numbering.rows(np.array(sorted(self._dead), dtype=np.int64)))
        end = len(self.base) if self.base else 0
        for start in range(0, end, block):
            rows = np.arange(start, min(start + block, end))
            kept = rows[~np.isin(rows, dead[slice(*np.searchsorted(dead, [rows[0], rows[-1] + 1]))])]
            assert self.base is not None
            yield self.base.triples(kept)
        yield self._rows.array[self._alive.array]

    def cut(self) -> Cut:
        """Return which facts hold now."""
        dead = np.array(sorted(self._dead), dtype=np.int64)
        return Cut(self.end, self._alive.array.copy(), dead)

    def rebased(self, base: Base, cut: Cut) -> "Rebased":
        """Return what this table is over another base; its `table` is one call, which takes little time.

        Args:
            base: of the facts that held at the cut.
            cut: of this table.

        Raises:
            ValueError: the base holds other facts.
        """
        count = len(cut.alive)
        own, mine = self._own()[:count], self._rows.array[:count]
        came = own[cut.alive]
        numbering = self.numbering.moved(self.base, base, cut.dead, came, mine[cut.alive])
        kept = np.sort(np.concatenate([cut.dead, own[~cut.alive]]))
        old = self.at(kept)
        row = {(h, r, t): row for (h, r, t), row in zip(old.tolist(), kept.tolist(), strict=True)}

        def now() -> Triples:
            other = Triples(base=base)
            alive, later = self._alive.array, self._rows.array[count:]
            places, holding = self._of_own(kept), np.isin(kept, list(self._dead), invert=True)
            holding[places >= 0] = alive[places[places >= 0]]
            other.numbering, other._kept = numbering, kept
            other._cut, other._first = cut.end, cut.end - len(kept)
            other._place = {row: place for place, row in enumerate(kept.tolist())}
            other._rows = Growing(torch.from_numpy(np.concatenate([old, later])))
            other._alive = Growing(torch.from_numpy(np.concatenate([holding, alive[count:]])))
            others = {(h, r, t): row for row, (h, r, t) in enumerate(later.tolist(), cut.end)}
            other._row = row | others
            went = came[~alive[:count][cut.alive]]
            other._dead = self._dead.difference(cut.dead.tolist()) | set(went.tolist())
            other._count = self._count
            return other

        return Rebased(numbering, now)


class Rebased(NamedTuple):
    """A table over another base."""

    numbering: Numbering
    table: Callable[[], Triples]
    """Makes it, with what has changed by then."""
