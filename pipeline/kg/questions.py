"""Every question of a build, each in one split.

| split | whose slots | wording |
|---|---|---|
| train | fold train, base snapshot | training templates, source questions |
| valid | fold valid, base snapshot | templates of its own, source questions |
| seen | a sample of the slots of `train` | held-out templates |
| unseen | fold test, the same in every snapshot (or there is one), not in `unchanged` | held-out, source |
| unseen_relation | the held-out relations, base snapshot | held-out, source |
| two_hop | fold test, and a slot of any relation trained on of its answer, base snapshot | held-out |
| updated | fold test, answers differ between base and last snapshot | held-out, source; the last answers |
| added | fold test, no answer in the base | held-out, source; the last answers |
| unchanged | fold test, untouched while other facts change | held-out |
| unanswerable | an absent slot of a known entity, or an unknown entity, fold test | held-out |

`train` and `valid` hold unanswerable questions too, and questions over two facts. Label twins (two slots that
the same words ask for) are never asked by template.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config import UserError
from pipeline.kg.chains import chains
from pipeline.kg.facts import FOLDS, SPLITS, Ids
from pipeline.kg.slots import Mask, Slots, sample
from pipeline.kg.unanswerable import near_misses, strangers
from pipeline.kg.wording import Limits, Wording

TRAIN, VALID, TEST, UNSEEN_RELATION = range(len(FOLDS))


@dataclass(frozen=True)
class Question:
    """A row of the table, before it is numbered."""

    split: str
    kind: str
    text: str
    facts: list[int]
    answers: list[str]


@dataclass(frozen=True)
class Asker:
    """Makes the questions of one graph.

    `usable` [M] says which facts have names short enough to ask about.
    """

    slots: Slots
    usable: Mask
    wording: Wording
    limits: Limits
    seed: int

    @cached_property
    def base(self) -> Mask:
        """Which facts hold in the base: [M]."""
        return self.slots.graph.live(0)

    @cached_property
    def last(self) -> Mask:
        """Which facts hold in the last snapshot: [M]."""
        return self.slots.graph.live(self.slots.graph.last_snapshot)

    @cached_property
    def status(self) -> dict[str, Mask]:
        """Which slots are in the base, updated, added or untouched by the changes: [S] each."""
        before, after = self.slots.count(self.base), self.slots.count(self.last)
        changed = self.slots.count(self.base != self.last) > 0
        updated = changed & (before > 0) & (after > 0)
        for slot in np.flatnonzero(updated):
            # Another entity of the same label is no new answer in words.
            old, new = (set(self._gold(slot, live)[1]) for live in (self.base, self.last))
            updated[slot] = old != new
        return {
            "base": before > 0,
            "updated": updated,
            "added": (before == 0) & (after > 0),
            "untouched": ~changed & (before > 0),
        }

    def ask(self, source: pa.Table) -> tuple[dict[str, object], dict[str, int]]:
        """Return the columns of `questions`, sorted by split, and what was counted on the way.

        Args:
            source: the questions that came with the data, each in its split.

        Raises:
            UserError: nothing can be asked.
        """
        counts: Counter[str] = Counter()
        given, taken = self._from_source(source, counts)
        rows = given + self._templated(taken, counts) + self._over_two(taken)
        if not rows:
            raise UserError(
                "no question can be asked of this graph: every slot is a label twin or has names longer than "
                "synthesis.rows allows; check the data choice of params.yaml"
            )
        rows.sort(key=lambda row: SPLITS.index(row.split))
        counts.update(f"{row.split} {row.kind}" for row in rows)
        columns: dict[str, object] = {"id": list(range(len(rows)))}
        for name in ("text", "kind", "facts", "answers", "split"):
            columns[name] = [getattr(row, name) for row in rows]
        return columns, dict(sorted(counts.items()))

    def _templated(self, taken: Mask, counts: Counter[str]) -> list[Question]:
        slots, status = self.slots, self.status
        named = slots.count(self.usable) == slots.count(np.ones_like(self.usable))
        counts["slots"] = len(slots.codes)
        counts["slots with too long a name"] = int((~named).sum())
        counts["label twins"] = int((named & slots.twins).sum())
        askable = named & ~slots.twins
        pools = {
            "train": askable & status["base"] & (slots.fold == TRAIN),
            "valid": askable & status["base"] & (slots.fold == VALID),
            "unseen_relation": askable & status["base"] & (slots.fold == UNSEEN_RELATION) & ~taken,
            "updated": askable & status["updated"] & (slots.fold == TEST) & ~taken,
            "added": askable & status["added"] & (slots.fold == TEST) & ~taken,
        }
        chosen = {split: self._choose(split, pool) for split, pool in pools.items()}
        trained = np.zeros_like(askable)
        trained[chosen["train"]] = True
        chosen["seen"] = self._choose("seen", trained)
        untouched = askable & status["untouched"] & (slots.fold == TEST) & ~taken
        chosen["unchanged"] = self._unchanged(untouched)
        untouched[chosen["unchanged"]] = False
        chosen["unseen"] = self._choose("unseen", untouched)
        rows = [row for split, picked in chosen.items() for row in self._word(split, picked)]
        sizes = {split: len(picked) for split, picked in chosen.items()}
        share = self.limits.unanswerable_share / (1 - self.limits.unanswerable_share)
        known = {"train": pools["train"], "valid": pools["valid"]}
        known["unanswerable"] = askable & status["base"] & (slots.fold == TEST)
        wanted = {split: round(sizes[split] * share) for split in ("train", "valid")}
        wanted["unanswerable"] = sizes["unseen"]
        return rows + self._unanswerable(known, wanted)

    def _over_two(self, taken: Mask) -> list[Question]:
        """Return questions over two facts: "the capital of {the country of Lyon}"."""
        slots, most = self.slots, self.limits.two_hop
        named = slots.count(self.usable) == slots.count(np.ones_like(self.usable))
        askable = named & ~slots.twins & self.status["base"] & (slots.fold != UNSEEN_RELATION)
        own = {split: askable & (slots.fold == fold) for split, fold in (("train", TRAIN), ("valid", VALID))}
        pools = {
            "train": (own["train"], own["train"], 10 * most),
            "valid": (own["valid"], askable & (slots.fold != TEST), most),
            "two_hop": (askable & (slots.fold == TEST) & ~taken, askable, most),
        }
        rows: list[Question] = []
        for split, (first, second, wanted) in pools.items():
            random = self._random(f"{split} two hops")
            starts, ends = chains(slots, first, second, self.base, wanted, self.limits.relation_share, random)
            nouns, heads = (slots.relations[starts], slots.heads[starts])
            names = [
                f"the {slots.nouns[r]} of {slots.graph.labels[h]}" for r, h in zip(nouns, heads, strict=True)
            ]
            texts = self._texts(split, names, slots.relations[ends])
            for text, start, end in zip(texts, starts, ends, strict=True):
                facts, answers = self._gold(end, self.base)
                led = slots.facts(int(start), self.base)
                rows.append(Question(split, "multihop", text, led + facts, answers))
        return rows

    def _choose(self, split: str, pool: Mask, preferred: Mask | None = None, most: int | None = None) -> Ids:
        """Return a sample of the slots of `pool` [S], the preferred ones first; sorted."""
        candidates = np.flatnonzero(pool)
        order = self._random(split).permutation(len(candidates))
        if preferred is not None:
            order = order[np.argsort(~preferred[candidates[order]], kind="stable")]
        size = self.limits.train if split == "train" else self.limits.evaluation
        size = size if most is None else min(size, most)
        picked = sample(self.slots.relations[candidates], size, self.limits.relation_share, order)
        return np.sort(candidates[picked])

    def _unchanged(self, untouched: Mask) -> Ids:
        """Untouched slots, those beside a change first: there an update could do damage."""
        heads = self.slots.graph.triples[self.base != self.last, 0]
        if not len(heads):
            return np.empty(0, dtype=np.int64)
        beside = np.isin(self.slots.heads, heads)
        most = int(untouched.sum() * self.limits.unchanged_share)
        return self._choose("unchanged", untouched, beside, most)

    def _word(self, split: str, picked: Ids) -> list[Question]:
        live = self.last if split in ("updated", "added", "unchanged") else self.base
        texts = self._texts(split, self.slots.heads[picked], self.slots.relations[picked])
        gold = (self._gold(slot, live) for slot in picked)
        return [Question(split, "template", text, *pair) for text, pair in zip(texts, gold, strict=True)]

    def _gold(self, slot: np.integer[Any], live: Mask) -> tuple[list[int], list[str]]:
        facts = self.slots.facts(int(slot), live)
        return facts, self.slots.answers(facts)

    def _texts(self, split: str, heads: Ids | list[str], relations: Ids) -> list[str]:
        """Return a question for each head (an id or a name) and relation, in a random template."""
        own = {"train": self.wording.train, "valid": self.wording.valid}
        templates = own.get(split, self.wording.held_out)
        which = self._random(f"{split} wording").integers(len(templates), size=len(relations))
        names = [head if isinstance(head, str) else self.slots.graph.labels[head] for head in heads]
        return [
            templates[number].replace("{noun}", self.slots.nouns[relation]).replace("{name}", name)
            for number, relation, name in zip(which, relations, names, strict=True)
        ]

    def _unanswerable(self, known: dict[str, Mask], wanted: dict[str, int]) -> list[Question]:
        rows: list[Question] = []
        used: set[str] = set()
        for split, pool in known.items():
            random = self._random(f"{split} unanswerable")
            near = round(wanted[split] * self.limits.near_miss_share)
            heads, relations = near_misses(self.slots, pool, near, self.limits.relation_share, random)
            names, asked = strangers(self.slots, pool, wanted[split] - len(heads), used, random)
            texts = self._texts(split, heads, relations) + self._texts(split, names, asked)
            rows += [Question(split, "unanswerable", text, [], []) for text in texts]
        return rows

    def _from_source(self, source: pa.Table, counts: Counter[str]) -> tuple[list[Question], Mask]:
        """Return the questions that came with the data, and the slots [S] that they test."""
        rows: list[Question] = []
        taken = np.zeros(len(self.slots.codes), dtype=np.bool_)
        triples = self.slots.graph.triples
        for given in source.to_pylist():
            split = "unseen" if given["split"] == "test" else str(given["split"])
            if split not in SPLITS:
                raise UserError(
                    f"questions.parquet, id {given['id']}: unknown split {split!r}; it must be one of "
                    f"{', '.join(SPLITS)}; run `dvc repro ingest` again"
                )
            facts = np.array(given["facts"], dtype=np.int64)
            slots = np.searchsorted(self.slots.codes, self.slots.code(triples[facts, 0], triples[facts, 1]))
            if split in ("train", "valid") and not (self.slots.fold[slots] == FOLDS.index(split)).all():
                counts["source questions that would train on other folds"] += 1
                continue
            taken[slots] |= split not in ("train", "valid")
            rows.append(Question(split, given["kind"], given["text"], given["facts"], given["answers"]))
        return rows, taken

    def _random(self, purpose: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, *purpose.encode()])
