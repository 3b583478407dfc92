"""What false updates do to answers, and what defences save: `python -m pipeline.benchmark robustness`.

Before the questions of a split are asked, a share of their slots gets a false update
(`pipeline.evaluation.poison`). To robustness.json go, for each defence, attack and share, EM over all
questions and over those that are attacked, how often the false value is answered, and how many false updates
passed; for each defence without an attack, what it costs; to robustness.png EM over the share.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from pipeline.config import Paths, UserError, stage
from pipeline.evaluation.checked import asked as questions_of
from pipeline.evaluation.environment import overridden, provenance
from pipeline.evaluation.intervals import bootstrap
from pipeline.evaluation.metrics import exact_match
from pipeline.evaluation.poison import Poison, Robustness, infect, poison, vouch
from pipeline.evaluation.runs import Question, drawn
from pipeline.evaluation.systems import needed
from pipeline.evaluation.variants import Variant
from pipeline.kg.facts import Graph, Ids
from pipeline.kg.plausibility import Accepts, Plausibility, limit, sieve
from pipeline.kg.rotate import NORMS, Rotate
from pipeline.kg.rotate_training import split
from pipeline.memory.graph import replay
from pipeline.memory.settings import Memory
from pipeline.memory.store import KnowledgeMemory
from pipeline.model.facts import rotate_vectors
from pipeline.model.settings import Ours
from pipeline.model.system import System
from pipeline.reporting.figures import STYLE, style_of
from pipeline.trainer import Trainer
from pipeline.weights import Encoder, LanguageModel

Row = dict[str, Any]


@stage
def robustness(
    robustness: Robustness,
    memory: Memory,
    rotate: Rotate,
    lm: LanguageModel,
    encoder: Encoder,
    trainer: Trainer,
    paths: Paths,
    seed: int,
    out: Path,
) -> None:
    """Attack every entry under every seed."""
    graph = Graph.read(paths.tables, relations=paths.kv)
    questions = questions_of(paths, graph, [robustness.split])
    told = provenance(overridden("python -m pipeline.benchmark robustness"), robustness.seeds)
    told["settings"] = {"robustness": asdict(robustness), "memory": asdict(memory)}
    judge = None
    if {"plausibility", "all"} & set(robustness.defences):
        judge, at_most, places = sieved(graph, paths, rotate, seed, robustness.kept)
        told["plausibility"] = {"limit": at_most} | places
    rows: list[Row] = []
    for entry in robustness.entries:
        variant = Variant.read(entry, memory)
        for number in robustness.seeds:
            system = variant.open(lm, encoder, graph, paths, trainer.device, number)
            trial = Trial(variant, system, graph, paths, robustness, judge, number)
            asked = drawn(questions, robustness.split, ["template"], robustness.questions, number)
            later = drawn(questions, robustness.changed, ["template"], robustness.questions, number)
            if not asked:
                raise UserError(f"robustness.split: {robustness.split!r} has no templated question")
            conditions = list(robustness.conditions(isinstance(variant.method, Ours)))
            for defence, attack, share in tqdm(conditions, desc=entry, unit="condition"):
                found = trial.attacked(asked, defence, attack, share)
                if not attack and later:
                    found["changed"] = trial.followed(later, defence)
                rows.append({"entry": entry, "seed": number, "defence": defence, "attack": attack} | found)
            told["figures"] = summed(rows, robustness.bootstrap_samples)
            (out / "robustness.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    picture(told["figures"], robustness).savefig(out / "robustness.png", dpi=150)


def sieved(graph: Graph, paths: Paths, rotate: Rotate, seed: int, kept: float) -> tuple[Accepts, float, Row]:
    """Return the sieve of plausibility, its limit, and how true facts that RotatE did not train on fare.

    The limit is set by the facts that the stage `embed` held out for validation, with the same section and
    seed; what it held out for a test, and what later snapshots add, say what the sieve costs.

    Raises:
        UserError: there are no RotatE vectors, or none of those facts has a place.
    """
    by_entity, by_relation = rotate_vectors(paths.rotate / "rotate.safetensors", graph)
    size = len(next(iter(by_relation.values()))) // 2
    none = torch.zeros(2 * size)
    keys, relations = graph.entities["key"].to_pylist(), graph.relations["key"].to_pylist()
    vectors = [
        torch.stack([table.get(key, none) for key in names]).float()
        for table, names in ((by_entity, keys), (by_relation, relations))
    ]
    complexes = [torch.complex(table[:, :size], table[:, size:]) for table in vectors]
    facts, rows, kinds = split(rotate, graph, seed)
    train, valid, test = (
        np.stack([rows[part[:, 0]], kinds[part[:, 1]], rows[part[:, 2]]], axis=1)
        for part in (facts.train, facts.valid, facts.test)
    )
    judge = Plausibility(complexes[0], complexes[1], train, NORMS[rotate.norm][0])
    fresh = graph.triples[graph.live(graph.last_snapshot) & ~graph.live(0)]
    try:
        at_most = limit(judge.places(valid), kept)
    except ValueError as error:
        raise UserError(f"{paths.rotate}: {error}; leave out the defence plausibility") from error
    parts = {"validation": valid, "test": test, "later": fresh}
    return (
        sieve(judge, at_most),
        at_most,
        {name: _passing(judge, part, at_most) for name, part in parts.items()},
    )


def _passing(judge: Plausibility, facts: Ids, at_most: float) -> Row:
    """Return how many facts have a place, and the share of them that passes."""
    places = judge.places(facts)
    known = places[~places.isnan()]
    return {"facts": len(facts), "with a place": len(known), "pass": float((known <= at_most).float().mean())}


class Trial:
    """Asks one system under every condition, each time with a memory of its own."""

    def __init__(
        self,
        variant: Variant,
        system: System,
        graph: Graph,
        paths: Paths,
        settings: Robustness,
        judge: Accepts | None,
        seed: int,
    ) -> None:
        self.variant, self.system, self.graph, self.paths = variant, system, graph, paths
        self.settings, self.judge, self.seed = settings, judge, seed

    def attacked(self, asked: Sequence[Question], defence: str, attack: str, share: float) -> Row:
        """Return what is answered where `attack` has had its way, as far as `defence` lets it."""
        memory = self._memory(defence)
        right = sorted({fact for one in asked for fact in one["facts"]})
        vouch(memory, self.graph, right, self.settings.trusted)
        given = poison(self.graph, asked, attack, share, self.settings, self.seed) if attack else None
        passed = infect(memory, given, self._sieve(defence)) if given else 0
        said = self._said(asked, memory, defence)
        em = [exact_match(text, one["answers"]) for text, one in zip(said, asked, strict=True)]
        return {"share": share, "em": em, "passed": passed} | _met(given, em, said)

    def followed(self, later: Sequence[Question], defence: str) -> list[float]:
        """Return EM on slots that change, all true changes put through the defence."""
        memory, accepts = self._memory(defence), self._sieve(defence)
        changes = self.graph.changes
        if accepts is not None:
            facts = changes["fact"].to_numpy()
            upserts = changes["op"].to_numpy(zero_copy_only=False) == "upsert"
            passed = accepts(self.graph.triples[facts])
            slots = {tuple(row) for row in self.graph.triples[facts[upserts & ~passed], :2].tolist()}
            stays = np.array([tuple(row) in slots for row in self.graph.triples[facts, :2].tolist()])
            changes = changes.filter(~stays)
        replay(replace(self.graph, changes=changes), memory, 0, self.graph.last_snapshot)
        said = self._said(later, memory, defence)
        return [exact_match(text, one["answers"]) for text, one in zip(said, later, strict=True)]

    def _memory(self, defence: str) -> KnowledgeMemory:
        known = [self.settings.trusted] if defence in ("provenance", "all") else []
        held = replace(needed(self.variant.method, self.variant.memory), sources=known)
        return KnowledgeMemory.open(self.paths.index, held, self.system.encoder)

    def _sieve(self, defence: str) -> Accepts | None:
        return self.judge if defence in ("plausibility", "all") else None

    def _said(self, asked: Sequence[Question], memory: KnowledgeMemory, defence: str) -> list[str]:
        """Return the answers; "" where one is refused."""
        self.system.memory = memory
        method = getattr(self.system, "method", None)
        if isinstance(method, Ours):
            self.system.method = replace(method, isolate=defence in ("apart", "all"))  # type: ignore[assignment]
        texts = [one["text"] for one in asked]
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        said = [""] * len(texts)
        size = self.settings.batch_size
        with self.system.attached():
            for places in (order[start : start + size] for start in range(0, len(order), size)):
                reply = self.system.reply([texts[place] for place in places])
                for place, text, refused in zip(places, reply.texts, reply.refused, strict=True):
                    said[place] = "" if refused else text
        return said


def _met(given: Poison | None, em: Sequence[float], said: Sequence[str]) -> Row:
    """Return EM of the questions that were attacked, and whether they got the false answer."""
    if given is None:
        return {"attacked": [], "misled": []}
    pairs = zip(given.questions, given.answers, strict=True)
    return {
        "attacked": [em[place] for place in given.questions],
        "misled": [exact_match(said[place], [false]) for place, false in pairs],
    }


def summed(rows: Sequence[Row], samples: int) -> list[Row]:
    """Return one row an entry, defence, attack and share, over all seeds, with intervals over questions."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["entry"], row["defence"], row["attack"], row["share"]), []).append(row)
    told = []
    for (entry, defence, attack, share), found in groups.items():
        figures: Row = {"entry": entry, "defence": defence, "attack": attack or None, "share": share}
        for name in ("em", "attacked", "misled", "changed"):
            values = np.concatenate([row.get(name, []) for row in found])
            if len(values):
                figures[name] = bootstrap(values, samples, 0)[0]._asdict() | {"n": len(values)}
        told.append(figures | {"false updates that passed": [row["passed"] for row in found]})
    return told


def picture(figures: Sequence[Row], settings: Robustness) -> Figure:
    """Return EM over the share of false updates, a panel an entry and attack, a line a defence."""
    styles = style_of(settings.defences)
    with matplotlib.rc_context(STYLE):
        size = 2 + 3.2 * len(settings.attacks), 1 + 3 * len(settings.entries)
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(len(settings.entries), len(settings.attacks), sharey=True, squeeze=False)
        for across, entry in zip(panels, settings.entries, strict=True):
            for panel, attack in zip(across, settings.attacks, strict=True):
                for defence in settings.defences:
                    mine = [row for row in figures if (row["entry"], row["defence"]) == (entry, defence)]
                    shown = [row for row in mine if row["attack"] in (None, attack)]
                    colour, marker = styles[defence]
                    x = [100 * row["share"] for row in shown]
                    y = [100 * row["em"]["mean"] for row in shown]
                    panel.plot(x, y, color=colour, marker=marker, label=defence)
                panel.set(title=f"{entry}, {attack}", xlabel="percent of slots with a false update")
            across[0].set_ylabel("EM, percent")
        panels[0][-1].legend()
    return figure


if __name__ == "__main__":
    robustness()
