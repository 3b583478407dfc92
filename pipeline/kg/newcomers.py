"""Entities held out of a graph with all their facts, as if they came later: what fold-in is measured on."""

from dataclasses import dataclass

import numpy as np

from pipeline.kg.facts import Ids


@dataclass(frozen=True)
class Arrivals:
    """A graph without some entities, and what those bring with them.

    Ids are dense: the known entities first, then each group of newcomers.
    """

    known: Ids
    """Facts between known entities, [M, 3]."""
    support: Ids
    """Facts of newcomers that are given, among them all between two newcomers: [S, 3]."""
    queries: Ids
    """Facts of newcomers that are asked for, each with one newcomer and a known entity: [Q, 3]."""
    owner: Ids
    """The newcomer of each query, [Q]."""
    bounds: Ids
    """Where each group of newcomers begins and, last, where all entities end: the first is also the number of
    known entities."""
    relations: int
    """All of which occur among the known facts."""

    @property
    def facts(self) -> Ids:
        """All facts, asked ones too."""
        return np.concatenate([self.known, self.support, self.queries])


def arrivals(facts: Ids, groups: tuple[int, ...], least: int, questions: int, seed: int) -> Arrivals:
    """Return the graph without the newcomers, who are drawn by `seed`.

    Newcomers have at least `least` facts with entities that stay. At most half of those, and at most
    `questions`, become queries; all else that they bring is support. No entity or relation that stays
    loses its last fact.

    Args:
        facts: head, relation and tail over dense ids that all occur, [M, 3].
        groups: the number of newcomers in each group.
        least: facts of a newcomer with known entities.
        questions: queries of a newcomer at most.
        seed: of the draws.

    Raises:
        ValueError: the graph has fewer such entities than asked for, `least` is below 2, or a group has no
            newcomer.
    """
    if least < 2 or questions < 1 or min(groups, default=0) < 1:
        raise ValueError(
            f"newcomers need 2 facts and 1 question at least, not {least} and {questions}; groups: {groups}"
        )
    generator = np.random.default_rng(seed)
    entities, relations = int(facts[:, [0, 2]].max()) + 1, int(facts[:, 1].max()) + 1
    drawn = _drawn(facts, sum(groups), least, generator.permutation(entities))
    stays = np.ones(entities, dtype=np.bool_)
    stays[drawn] = False
    known = int(stays.sum())
    number = np.empty(entities, dtype=np.int64)
    number[stays] = np.arange(known)
    number[drawn] = known + np.arange(len(drawn))
    moved = np.stack([number[facts[:, 0]], facts[:, 1], number[facts[:, 2]]], axis=1)
    new = (moved[:, [0, 2]] >= known).sum(axis=1)
    asked = np.zeros(len(facts), dtype=np.bool_)
    one = np.flatnonzero(new == 1)
    one = one[generator.permutation(len(one))]
    owners = moved[one][:, [0, 2]].max(axis=1)
    order = np.argsort(owners, kind="stable")
    for of_one in np.split(one[order], np.flatnonzero(np.diff(owners[order])) + 1):
        asked[of_one[: min(len(of_one) // 2, questions)]] = True
    queries = moved[asked]
    return Arrivals(
        known=moved[new == 0],
        support=moved[(new > 0) & ~asked],
        queries=queries,
        owner=queries[:, [0, 2]].max(axis=1),
        bounds=known + np.cumsum([0, *groups]),
        relations=relations,
    )


def _drawn(facts: Ids, wanted: int, least: int, order: Ids) -> Ids:
    """Return the first `wanted` entities of `order` that may go."""
    places: list[list[int]] = [[] for _ in range(len(order))]
    for place, (head, _, tail) in enumerate(facts.tolist()):
        places[head].append(place)
        if tail != head:
            places[tail].append(place)
    left = np.array([len(of_entity) for of_entity in places])
    of_relation = np.bincount(facts[:, 1])
    gone = np.zeros(len(facts), dtype=np.bool_)
    away = np.zeros(len(order), dtype=np.bool_)
    common = np.zeros(len(order), dtype=np.int64)
    found: list[int] = []
    for entity in order.tolist():
        here = [place for place in places[entity] if not gone[place]]
        ends = facts[here][:, [0, 2]].reshape(-1, 2)
        others = np.where(ends[:, 0] == entity, ends[:, 1], ends[:, 0])
        others = others[others != entity]
        kept = left - np.bincount(others, minlength=len(left))
        fewer = of_relation - np.bincount(facts[here, 1], minlength=len(of_relation))
        # Those already drawn may not lose what made them newcomers either.
        behind = [place for place in places[entity] if gone[place]]
        partners = facts[behind][:, [0, 2]].ravel()
        partners = partners[(partners != entity) & away[partners]]
        lost = np.bincount(partners, minlength=len(left))
        if (
            len(others) < least
            or (kept[others] < 1).any()
            or (fewer < 1).any()
            or (common[away] - lost[away] < least).any()
        ):
            continue
        common -= lost
        common[entity], away[entity], gone[here] = len(others), True, True
        left, of_relation = kept, fewer
        found.append(entity)
        if len(found) == wanted:
            return np.array(found, dtype=np.int64)
    raise ValueError(f"only {len(found)} entities have {least} facts that others can spare, not {wanted}")
