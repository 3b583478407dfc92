"""Any course of dated changes, against a plain list of periods."""

from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pipeline.memory.durable import DurableMemory
from pipeline.memory.following import FollowingMemory
from pipeline.memory.store import KnowledgeMemory
from tests.memory.dated import LAST, Claim, Reference, as_known, date
from tests.memory.killed import Drawn
from tests.memory.small import ask, held
from tests.tiny import memory_settings

SOURCES = ["reference", "news"]
DAYS = st.integers(1, LAST - 1)
KEYS = st.tuples(st.sampled_from(["Q0", "Q1"]), st.just("P0"), st.sampled_from(["Q2", "Q3", "Q4"]))


@st.composite
def claims(draw: st.DrawFn) -> Claim:
    start, end = (draw(st.sampled_from([0, 0, *some])) for some in (range(1, LAST - 1), range(2, LAST)))
    start, end = (end, start) if 0 < end < start else (start, 0 if end == start else end)
    return Claim(draw(KEYS), start, end, draw(st.sampled_from(["", "", "news", "reference", "hearsay"])))


class AgainstAList(RuleBasedStateMachine):
    """A memory with dates does what a list of periods does, reopened at any time, and in one that follows."""

    folder: Path
    number = 0

    @initialize(layout=st.sampled_from(["factored", "slot"]))
    def start(self, layout: str) -> None:
        type(self).number += 1
        self.place = self.folder / str(self.number)
        self.section = memory_settings(layout=layout, entities=100, N=40, sources=SOURCES)
        self.memory = DurableMemory.begun(self.place, self.section, Drawn(), "none")
        self.follower = FollowingMemory.open(self.place, self.section, Drawn())
        self.model = Reference(SOURCES)

    def day(self, later: int) -> str:
        self.model.now = min(self.model.now + later, LAST - 1)
        return date(self.model.now)

    @rule(given=st.lists(claims(), min_size=1, max_size=3), supersede=st.booleans(), later=st.integers(0, 2))
    def upsert(self, given: list[Claim], supersede: bool, later: int) -> None:
        on = self.day(later)
        before = {key: self.model.periods(key) for key in self.model.facts}
        receipt = self.memory.upsert([claim.fact() for claim in given], supersede, on=on)
        self.model.upsert(given, supersede)
        assert [self.memory.key(row) for row in receipt.facts] == [claim.key for claim in given]
        written = {claim.key for claim in given}
        changed = {key for key, known in before.items() if self.model.periods(key) != known} - written
        assert {self.memory.key(row) for row in receipt.superseded} == changed

    @precondition(lambda self: self.model.facts)
    @rule(data=st.data(), later=st.integers(0, 1))
    def delete(self, data: st.DataObject, later: int) -> None:
        keys = data.draw(st.lists(st.sampled_from(sorted(self.model.facts)), unique=True, max_size=2))
        receipt = self.memory.delete(keys, on=self.day(later))
        assert [self.memory.key(row) for row in receipt.facts] == keys
        self.model.delete(keys)

    @rule(later=st.integers(0, 3))
    def advance(self, later: int) -> None:
        before = self.model.held(self.model.now)
        receipt = self.memory.advance(self.day(later))
        after = self.model.held(self.model.now)
        assert {self.memory.key(row) for row in receipt.begun} == after - before
        assert {self.memory.key(row) for row in receipt.ended} == before - after

    @rule(merge=st.booleans())
    def reopen(self, merge: bool) -> None:
        if merge:
            self.memory.merge()
        self.memory.close()
        self.memory = DurableMemory.begun(self.place, self.section, Drawn(), "none")

    @rule()
    def merge(self) -> None:
        self.memory.merge()

    def agrees(self, memory: KnowledgeMemory) -> None:
        assert held(memory) == self.model.held(self.model.now)
        for key in self.model.facts:
            assert as_known(memory.periods(key)) == self.model.periods(key)
        for day in range(1, LAST, 2):
            past = memory.as_of(date(day))
            right = self.model.held(day)
            assert held(past) == right
            assert len(past) == len(right)
            found = past.search(ask(Drawn(), 1)).facts[0].tolist()
            assert sorted(past.key(row) for row in found if row >= 0) == sorted(right)

    @invariant()
    def all_agree(self) -> None:
        self.agrees(self.memory)
        self.follower.follow()
        self.agrees(self.follower)

    def teardown(self) -> None:
        if hasattr(self, "memory"):
            self.memory.close()


def test_any_course_of_dated_changes_leaves_what_a_list_of_periods_would_hold(tmp_path: Path) -> None:
    machine = type("Machine", (AgainstAList,), {"folder": tmp_path})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
