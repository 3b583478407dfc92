"""Why the right fact of a question was not found first: what a search by names could mend, and what not."""

import re
from collections import Counter
from collections.abc import Iterable
from functools import cached_property

from pipeline.kg.facts import Graph

TWIN = "another entity of that name has the relation"
ALIAS = "only an alias of the entity is in the question"
ABSENT = "no name of the entity is in the question"
OTHER = "the name is in the question"
CAUSES = (TWIN, ALIAS, ABSENT, OTHER)

_WORD = re.compile(r"\w+")


class Misses:
    """Sorts questions by how far the names in them lead to their facts.

    Args:
        graph: the facts that hold in its first snapshot are those that are told apart.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    @cached_property
    def _heads(self) -> Counter[tuple[str, int]]:
        """How many entities of a name have a relation."""
        slots = {tuple(row) for row in self._graph.triples[self._graph.live(0), :2].tolist()}
        return Counter((words(self._graph.labels[head]), relation) for head, relation in slots)

    def cause(self, text: str, fact: int) -> str:
        """Return which of `CAUSES` holds for a question and its fact, whatever case and punctuation."""
        head, relation, _ = self._graph.triples[fact].tolist()
        label, asked = words(self._graph.labels[head]), f" {words(text)} "
        if self._heads[label, relation] > 1:
            return TWIN
        if f" {label} " in asked:
            return OTHER
        aliases = self._graph.entities["aliases"][head].as_py()
        return ALIAS if any(f" {words(alias)} " in asked for alias in aliases) else ABSENT

    def count(self, asked: Iterable[tuple[str, int]]) -> dict[str, int]:
        """Return how many questions, each with a fact that answers it, there are of each cause."""
        found = Counter(self.cause(text, fact) for text, fact in asked)
        return {cause: found[cause] for cause in CAUSES}


def words(text: str) -> str:
    """Return the words of `text`, case folded, with a space between two."""
    return " ".join(_WORD.findall(text.casefold()))
