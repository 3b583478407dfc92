"""Facts in a base, searched on a GPU: its codes and the relations of its facts are copied there.

The copies belong to the base: whatever is arranged anew around it goes on with them.
"""

from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.memory.base import Base
from pipeline.memory.facts import Found
from pipeline.memory.gathering import ResidentFacts
from pipeline.memory.offsets import Rows
from pipeline.memory.resident import ResidentCodes
from pipeline.memory.standing import OnDisk

Copy = TypeVar("Copy")

QUESTIONS = 256
"""Questions searched at once: a scan of the codes for so many takes little longer than for one."""

_copies: WeakKeyDictionary[Base, dict[Any, Any]] = WeakKeyDictionary()


class OnDevice(OnDisk):
    """Facts in a base, mapped, with what searches read on a device."""

    at_once = QUESTIONS

    def nearest(
        self, queries: Float[Tensor, "B P"], n: int
    ) -> tuple[Float[Tensor, "B n"], Int[Tensor, "B n"]]:
        """Return the n largest inner products with entities that head a fact, and these; -inf for none."""
        if self._settings.backend != "codes" or self._base.entity_codes is None:
            return super().nearest(queries, n)
        return self._codes.search(queries, n, self._facts.headed, self._settings.rescored)

    @property
    def _codes(self) -> ResidentCodes:
        def made(base: Base, device: torch.device) -> ResidentCodes:
            assert base.entity_codes is not None
            return ResidentCodes(base.entity_codes, device)

        return self._copied(ResidentCodes, made)

    @property
    def _facts(self) -> ResidentFacts:
        return self._copied(ResidentFacts, ResidentFacts)

    def _copied(self, kind: type[Copy], made: Callable[[Base, torch.device], Copy]) -> Copy:
        held = _copies.setdefault(self._base, {})
        if (kind, self._device) not in held:
            held[kind, self._device] = made(self._base, self._device)
        copy: Copy = held[kind, self._device]
        return copy

    def _best(
        self,
        heads: Int[Tensor, "B n"],
        near: Float[Tensor, "B n"],
        relation_log_probabilities: Float[Tensor, "B R"],
        weight: float,
        n: int,
        gone: Rows,
    ) -> Found:
        """Return the n best facts by their rows in the base, but for the rows `gone`."""
        lost = torch.from_numpy(gone).to(self._device)
        return self._facts.found(heads, near, relation_log_probabilities, weight, n, lost)
