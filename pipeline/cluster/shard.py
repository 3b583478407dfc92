"""One shard: its copies, of which every one that counts takes each change before it is acknowledged."""

import logging
from collections.abc import Sequence
from threading import RLock
from typing import Any, Protocol

from pipeline.cluster.catching import Calling, bring_up
from pipeline.cluster.messages import Done, FencedError, GoneError, Order, Standing
from pipeline.config import UserError
from pipeline.memory.journal import JournalError

log = logging.getLogger(__name__)


class Pending(Protocol):
    """What was asked of a copy."""

    def result(self) -> Any:
        """Return the answer, once it is there.

        Raises:
            GoneError: the copy doesn't answer.
        """
        ...


class Handle(Protocol):
    """A copy, wherever it is."""

    def begin(self, what: str, *given: Any) -> Pending:
        """Ask it for something: a method of `pipeline.cluster.answering.Copy`."""
        ...

    def end(self) -> None:
        """Let it take no further part, where it still runs; it may be started anew."""
        ...


class Asked:
    """A question to one copy after the other, until one answers."""

    def __init__(self, shard: "Shard", what: str, given: tuple[Any, ...]) -> None:
        self._shard, self._what, self._given = shard, what, given
        self._first = shard.members[0] if shard.members else None
        self._pending = None if self._first is None else shard.begun(self._first, what, *given)

    def result(self) -> Any:
        """Return the answer.

        Raises:
            UserError: no copy answers.
        """
        pending, others = self._pending, [m for m in self._shard.members if m != self._first]
        looked = False
        while True:
            try:
                if pending is not None:
                    return pending.result()
            except GoneError as error:
                log.warning("shard %d: a copy is gone (%s)", self._shard.number, error)
                self._shard.rest(self._first)
            if not others and not looked:
                others, looked = self._shard.looked_for(), True
            if not others:
                raise UserError(
                    f"shard {self._shard.number} of the memory: no copy answers; look at the processes "
                    "of the cluster (`python -m pipeline.cluster status`) and start them again"
                )
            self._first = others.pop(0)
            pending = self._shard.begun(self._first, self._what, *self._given)


class Shard:
    """The copies of one shard.

    Args:
        number: of the shard.
        copies: where they are.
        write: whether to change it; no other process can from then on.
        accept: whether to begin with the copies that answer, though others may know of later changes.

    Raises:
        UserError: copies that may know of later changes don't answer.
    """

    def __init__(
        self, number: int, copies: Sequence[Handle], write: bool = True, accept: bool = False
    ) -> None:
        self.number = number
        self.copies = copies
        self.members: list[int] = []
        """Those that take part, the one that is asked first in front."""
        self.doubted = False
        """Whether a copy that takes part didn't answer, so that `mend` should look after it."""
        self._changing = RLock()
        self._term = 0
        self._write = write
        if write:
            self._begin(self._standings(), accept)
        else:
            self._read_from(self._standings())

    def looked_for(self) -> list[int]:
        """Return the copies that count now, for one who only reads; who writes knows them."""
        if not self._write:
            self._read_from(self._standings())
            return self.members
        return []

    def _read_from(self, found: dict[int, Standing]) -> None:
        latest = max((standing.term for standing in found.values()), default=0)
        self.members = [i for i, its in found.items() if its.ready and its.term == latest]

    def _standings(self) -> dict[int, Standing]:
        """Return where each copy stands that answers."""
        return {i: its for i in range(len(self.copies)) if (its := self._standing(i)) is not None}

    def _standing(self, copy: int) -> Standing | None:
        try:
            standing: Standing = self.copies[copy].begin("standing").result()
        except GoneError:
            return None
        return standing

    def _begin(self, found: dict[int, Standing], accept: bool) -> None:
        latest = max(found.values(), key=lambda standing: standing.term, default=None)
        counting = [i for i, its in found.items() if its.term] if latest and latest.term else list(found)
        if latest is not None and latest.term:
            missing = [i for i in latest.members if i not in counting]
            if missing and not accept:
                raise UserError(
                    f"shard {self.number} of the memory: copy {missing[0]} doesn't answer or is empty, and "
                    "may know of later changes; start it again, or accept what the others hold: --accept"
                )
            counting = [i for i in latest.members if i in counting] or counting
        if not counting:
            raise UserError(f"shard {self.number} of the memory: no copy answers; start them first")
        leader = max(counting, key=lambda i: (found[i].term, found[i].version, found[i].facts))
        self._term = max(standing.term for standing in found.values())
        members = [leader]
        for copy, standing in found.items():
            if copy != leader and self._brought_up(copy, standing, leader, found[leader]):
                members.append(copy)
        self._admit(members)

    def _admit(self, members: Sequence[int]) -> None:
        """Begin a term of these copies, or of those of them that answer.

        Raises:
            UserError: none does, or another process has begun one since.
        """
        wanted = sorted(members)
        while wanted:
            self._term += 1
            pending = [(i, self.begun(i, "admit", self._term, tuple(wanted))) for i in wanted]
            gone = [i for i, its in pending if not self._came(its)]
            if not gone:
                self.members = wanted
                return
            wanted = [i for i in wanted if i not in gone]
        self.members = []
        raise UserError(f"shard {self.number} of the memory: no copy answers; start one of them again")

    def begun(self, copy: int, what: str, *given: Any) -> Pending | None:
        """Ask a copy for something; None where it is gone."""
        try:
            return self.copies[copy].begin(what, *given)
        except GoneError:
            return None

    def _came(self, pending: Pending | None) -> bool:
        try:
            if pending is None:
                return False
            pending.result()
        except GoneError:
            return False
        return True

    def ask(self, what: str, *given: Any) -> Asked:
        """Ask a copy; the next one where it is gone."""
        return Asked(self, what, given)

    def rest(self, copy: int | None) -> None:
        """Ask a copy last from now on, and look after it."""
        self.doubted = True
        if copy in self.members:
            self.members = [i for i in self.members if i != copy] + [copy]

    def change(self, order: Order) -> Done:
        """Carry out a change; it is in the journal of every copy that counts when this returns.

        Raises:
            UserError: it is refused, and nothing is changed; or no copy is left.
        """
        if not self._write:
            raise UserError("the memory is open for reading; open it for writing to change it")
        with self._changing:
            while True:
                if not self.members:
                    raise UserError(f"shard {self.number} of the memory: no copy answers; start one again")
                first, *others = self.members
                try:
                    done: Done = self.copies[first].begin("change", self._term, order).result()
                except GoneError as error:  # whether it wrote the change or not, it has to ask the others
                    self._lose([first], str(error))
                    continue
                except JournalError as error:  # its disk fails, which need not be so with the others
                    if not others:
                        raise
                    self._lose([first], str(error))
                    continue
                asked = [(i, self.begun(i, "follow", self._term, done.number, done.payloads)) for i in others]
                lost = [i for i, pending in asked if not self._followed(pending, done.standing)]
                if lost:
                    self._lose(lost, "it didn't take a change")
                return done

    def _followed(self, pending: Pending | None, first: Standing) -> bool:
        try:
            return pending is not None and pending.result().version == first.version
        except FencedError:
            raise
        except (GoneError, UserError) as error:
            log.warning("shard %d: %s", self.number, error)
            return False

    def _lose(self, copies: Sequence[int], reason: str) -> None:
        """Go on without some copies, which are ended."""
        log.warning("shard %d: goes on without copies %s (%s)", self.number, list(copies), reason)
        for copy in copies:
            self.copies[copy].end()
        rest = [i for i in self.members if i not in copies]
        self.members = []
        self._admit(rest)

    def mend(self) -> list[int]:
        """Let in the copies that answer again, once they hold what the others do; return which."""
        if not self._write:
            return []
        with self._changing:
            if not any(map(self._is_ready, self.members)):
                return self._begun_again()
            came = []
            for copy in range(len(self.copies)):
                standing = self._standing(copy)
                if standing is None or (copy in self.members and standing.ready):
                    continue
                leader = next((i for i in self.members if i != copy and self._is_ready(i)), None)
                if leader is None:
                    continue
                held = self._standing(leader)
                if held is not None and self._brought_up(copy, standing, leader, held):
                    came.append(copy)
            if came:
                self._admit(sorted({*self.members, *came}))
            self.doubted = not all(map(self._is_ready, self.members))
            return came

    def _begun_again(self) -> list[int]:
        """Begin as at the opening, once all that may know of the latest changes are back."""
        try:
            self._begin(self._standings(), accept=False)
        except UserError as error:
            log.warning("%s", error)
            return []
        return list(self.members)

    def _is_ready(self, copy: int) -> bool:
        standing = self._standing(copy)
        return standing is not None and standing.ready

    def _brought_up(self, copy: int, standing: Standing, leader: int, held: Standing) -> bool:
        """Let `copy` hold what `leader` does; return whether that went well."""
        try:
            bring_up(self._calling(copy), standing, self._calling(leader), held)
        except (GoneError, UserError) as error:
            log.warning("shard %d: copy %d can't be brought up to date (%s)", self.number, copy, error)
            return False
        return True

    def _calling(self, copy: int) -> Calling:
        return lambda what, *given: self.copies[copy].begin(what, *given).result()
