"""Any course of changes, against a set of keys."""

from dataclasses import replace
from pathlib import Path

import pytest
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

from pipeline.config import UserError
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.facts import Key
from pipeline.memory.store import KnowledgeMemory
from tests.memory.small import KEY_LISTS, KEYS, ask, fact, held
from tests.tiny import memory_settings


class AgainstASet(RuleBasedStateMachine):
    """A memory does what a set of keys does, in either layout, reopened at any time, in RAM or mapped."""

    texts: TextEncoder
    folder: Path

    @initialize(layout=st.sampled_from(["factored", "slot"]))
    def start(self, layout: str) -> None:
        self.section = memory_settings(layout=layout, entities=100, N=120)
        self.memory = KnowledgeMemory(self.section, self.texts)
        self.model: set[Key] = set()
        self.bases = len(list(self.folder.glob("base-*")))

    @rule(keys=KEY_LISTS)
    def upsert(self, keys: list[Key]) -> None:
        receipt = self.memory.upsert([fact(key) for key in keys])
        assert [self.memory.fact(row).key for row in receipt.facts] == keys
        self.model |= set(keys)

    @rule(keys=KEY_LISTS)
    def replace(self, keys: list[Key]) -> None:
        slots = {key[:2] for key in keys}
        gone = {key for key in self.model if key[:2] in slots} - set(keys)
        receipt = self.memory.upsert([fact(key) for key in keys], replace=True)
        assert {self.memory.fact(row).key for row in receipt.superseded} == gone
        self.model = (self.model - gone) | set(keys)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        keys = data.draw(st.lists(st.sampled_from(sorted(self.model)), unique=True))
        receipt = self.memory.delete(keys)
        assert [self.memory.fact(row).key for row in receipt.facts] == keys
        self.model -= set(keys)

    @rule(key=KEYS)
    def delete_unknown(self, key: Key) -> None:
        if key in self.model:
            return
        if self.memory.periods(key):  # it held until it was superseded
            self.memory.delete([key])
            assert not self.memory.periods(key)
        else:
            with pytest.raises(UserError):
                self.memory.delete([key])

    @rule()
    def reopen(self) -> None:
        self.memory.snapshot(self.folder)
        self.memory = KnowledgeMemory.open(self.folder, self.section, self.texts)

    @precondition(lambda self: self.section.layout == "factored")
    @rule(backend=st.sampled_from(["exact", "codes"]))
    def reopen_mapped(self, backend: str) -> None:
        self.bases += 1
        self.memory.lay_down(self.folder / f"base-{self.bases}")
        section = replace(self.section, backend=backend)
        self.memory = KnowledgeMemory.open(self.folder / f"base-{self.bases}", section, self.texts)

    @invariant()
    def the_memory_is_the_set(self) -> None:
        assert len(self.memory) == len(self.model)
        assert held(self.memory) == self.model
        facts = self.memory.search(ask(self.texts, 2)).facts
        for question in range(2):
            found = [self.memory.fact(row).key for row in facts[question].tolist() if row >= 0]
            assert len(found) == len(self.model)
            assert set(found) == self.model
        for key in self.model:
            row = self.memory.find(*key)
            assert row is not None
            assert row in self.memory.slot(*self.memory.triples[row, :2].tolist())


def test_any_course_of_changes_leaves_what_a_set_would_hold(texts: TextEncoder, tmp_path: Path) -> None:
    machine = type("Machine", (AgainstASet,), {"texts": texts, "folder": tmp_path})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
