"""What writing facts will change: checked, and with the vectors of new names, before anything is changed."""

from collections.abc import Callable, Mapping, Sequence

from pipeline.config import UserError
from pipeline.memory.changes import Change
from pipeline.memory.encoder import Progress
from pipeline.memory.facts import Fact
from pipeline.memory.names import Names
from pipeline.memory.triples import MANY


def planned(
    facts: Sequence[Fact], names: Mapping[str, Names], layout: str, progress: Progress | None
) -> Change:
    """Return the change that lets `facts` hold.

    Args:
        facts: with keys; labels and nouns are needed where a key is new.
        names: entities, relations and slots that are known.
        layout: in `slot`, slots get a vector too.
        progress: wraps the iteration over batches of new texts.

    Raises:
        UserError: a new entity or relation comes without a name, or a field is empty.
    """
    texts = fresh_names(facts, names)
    if layout == "slot":
        heads, relations = (_Later(names[kind], fresh) for kind, fresh in texts.items())
        texts["slots"] = {}
        for head, relation in dict.fromkeys((fact.head, fact.relation) for fact in facts):
            (row, label), (other, noun) = heads.find(head), relations.find(relation)
            texts["slots"][slot_key(row, other)] = slot_text(label, noun)
    new = {kind: names[kind].encoded(fresh, progress) for kind, fresh in texts.items()}
    return Change([fact.key for fact in facts], [], new)


def fresh_names(facts: Sequence[Fact], names: Mapping[str, Names]) -> dict[str, dict[str, str]]:
    """Return the keys of entities and relations that are new with `facts`, with their texts.

    Raises:
        UserError: one comes without a name, or a field of a fact is empty.
    """
    for fact in facts:
        if not (fact.head.strip() and fact.relation.strip() and fact.tail.strip()):
            raise UserError(f"fact {str(fact)!r}: head, relation and tail must not be empty")
    ends = [fact.head for fact in facts] + [fact.tail for fact in facts]
    if len(facts) > MANY:
        names["entities"].look_up(ends)
    return {
        "entities": _fresh(names["entities"], "entity", ends, lambda: _ends(facts)),
        "relations": _fresh(
            names["relations"],
            "relation",
            [fact.relation for fact in facts],
            lambda: [(fact.relation, fact.relation_noun) for fact in facts],
        ),
    }


def _fresh(
    names: Names, kind: str, keys: Sequence[str], named: Callable[[], list[tuple[str, str]]]
) -> dict[str, str]:
    """Return which of `keys` are new with their texts, which `named` tells; most often there are none."""
    return names.fresh(named(), kind) if names.lacks(keys) else {}


def _ends(facts: Sequence[Fact]) -> list[tuple[str, str]]:
    """Return the heads of facts, then the tails, with their labels."""
    return [(f.head, f.head_label) for f in facts] + [(f.tail, f.tail_label) for f in facts]


class _Later:
    """Names as they will be once `fresh` are added."""

    def __init__(self, names: Names, fresh: Mapping[str, str]) -> None:
        self._names = names
        self._fresh = {key: (len(names) + i, text) for i, (key, text) in enumerate(fresh.items())}

    def find(self, key: str) -> tuple[int, str]:
        """Return row and text of `key`."""
        if key in self._fresh:
            return self._fresh[key]
        row = self._names.row(key)
        return row, self._names.texts[row]


def slot_key(head: int, relation: int) -> str:
    """Return the key that `KnowledgeMemory.slots` knows the slot of two rows by."""
    return f"{head}/{relation}"


def slot_text(head: str, relation: str) -> str:
    """Return the key of a slot as KG2KV words it, from the label of its head and its relation's noun."""
    return f"the {relation} of {head}"
