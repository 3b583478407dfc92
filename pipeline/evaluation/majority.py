"""The method that reads nothing and guesses: how far the commonest answers alone would go."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.evaluation.methods import Answers, register
from pipeline.evaluation.metrics import normalise
from pipeline.kg.facts import Graph


@dataclass(frozen=True, kw_only=True)
class Majority:
    """The values of `majority`: it has none."""


class CommonestAnswer:
    """Answers with the commonest training answer of the relation whose noun the question holds.

    It must not see the slot that is asked for, so the relation is read off the question: of all relation
    nouns that occur in it as whole words the longest counts ("head of government" before "government").
    Where none occurs, the answer is the commonest of all. Relations that share a noun share their counts;
    of equally common answers the first in the alphabet is taken.

    Attributes:
        name: "majority".
        commonest: the answer for each noun, and for "" the commonest of all.
    """

    name = "majority"

    def __init__(self, graph: Graph) -> None:
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        known = graph.live() & (graph.facts["fold"].to_numpy(zero_copy_only=False) == "train")
        for _, relation, tail in graph.triples[known].tolist():
            counts[normalise(graph.nouns[relation])][graph.labels[tail]] += 1
            counts[""][graph.labels[tail]] += 1
        self.commonest = {
            noun: min(answers.items(), key=lambda item: (-item[1], item[0]))[0]
            for noun, answers in counts.items()
        }
        nouns = sorted(filter(None, self.commonest), key=lambda noun: (-len(noun), noun))
        self._noun = re.compile(rf"(?<!\w)(?=({'|'.join(map(re.escape, nouns)) or '(?!)'})(?!\w))")

    def answer(self, questions: Sequence[str]) -> Answers:
        """Return the commonest answer for each question; it never refuses and reads no fact."""
        nouns = [self._longest(normalise(question)) for question in questions]
        return Answers(
            texts=[self.commonest.get(noun, "") for noun in nouns],
            facts=[[] for _ in nouns],
            weights=[[] for _ in nouns],
            candidates=[[] for _ in nouns],
            refusal=[0.0 for _ in nouns],
            refused=[False for _ in nouns],
        )

    def update(self, graph: Graph, snapshot: int) -> None:
        """Change nothing: what it counts are training answers, and an update trains nothing."""

    def _longest(self, question: str) -> str:
        return max((match.group(1) for match in self._noun.finditer(question)), key=len, default="")


@register(Majority)
def majority(graph: Graph) -> CommonestAnswer:
    """Return the method for the training facts of `graph`."""
    return CommonestAnswer(graph)
