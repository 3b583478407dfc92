"""Says which facts may be trained on: a fold per head entity, and relations that are held out whole."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

MOST_HELD_OUT = 0.05
"""A relation with more than this share of the facts is never held out: training and the updates need it."""


def rank(key: str, seed: int, purpose: str = "") -> float:
    """Return a number in [0, 1) that depends on `key`, `seed` and `purpose` alone, evenly spread over keys.

    It is the same on every machine and in every order, and numbers for two purposes are independent.
    """
    digest = sha256(f"{seed}\x1f{purpose}\x1f{key}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Shares of what is kept out of training, each in [0, 1)."""

    valid: float
    """Share of the head entities whose facts serve to choose settings."""
    test: float
    """Share of the head entities whose facts serve to measure."""
    unseen_relations: float
    """Share of the relations that training never sees, whatever their head."""

    def __post_init__(self) -> None:
        for name in ("valid", "test", "unseen_relations"):
            share = getattr(self, name)
            if not 0 <= share < 1:
                raise ValueError(f"splits.{name} must be at least 0 and below 1, not {share}")
        if self.valid + self.test >= 1:
            raise ValueError(f"splits.valid + splits.test must be below 1, not {self.valid + self.test}")

    def fold_of(self, head: str, seed: int) -> str:
        """Return the fold of the entity with the stable key `head`: train, valid or test."""
        place = rank(head, seed, "fold")
        if place < self.test:
            return "test"
        return "valid" if place < self.test + self.valid else "train"

    def held_out(self, facts: Mapping[str, int], seed: int) -> set[str]:
        """Return the keys of the relations that are held out, given the number of facts of each relation.

        They are the first ones by `rank` until `unseen_relations` of all relations is reached, rounded to
        the nearest number. A relation with more than `MOST_HELD_OUT` of the facts is passed over, and one
        relation is always left to train on.
        """
        wanted = min(round(self.unseen_relations * len(facts)), len(facts) - 1)
        most = MOST_HELD_OUT * sum(facts.values())
        eligible = [relation for relation in facts if facts[relation] <= most]
        return set(sorted(eligible, key=lambda key: (rank(key, seed, "relation"), key))[: max(wanted, 0)])
