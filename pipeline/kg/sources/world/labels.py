"""Makes labels distinct where the packages give a way to, so that a question names one entity."""

from collections import defaultdict
from collections.abc import Mapping

from pipeline.kg.sources import Entity
from pipeline.kg.sources.world.draft import Named

ORDER = ("country", "continent", "element", "city", "currency", "language", "script", "county")
"""Kinds that keep a plain label before the others, which come in the order of the alphabet."""

SAME = {"subdivision": "city"}
"""Kinds that compete by weight with another, as the city and the state of New York do."""


def distinct(named: Mapping[str, Named]) -> dict[str, Entity]:
    """Return the entities with labels that no other entity has, as far as their longer labels allow.

    Within one kind the heaviest of those that share a label keeps it, if one is heavier than all others;
    between kinds the first in `ORDER`. Values (`literal:`) keep their text, whatever else has it.
    """
    taken: set[str] = set()
    labels: dict[str, str] = {}
    kinds: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for key, entity in named.items():
        kind = key.split(":")[0]
        kinds[SAME.get(kind, kind)][entity.label.casefold()].append(key)
    places = {kind: place for place, kind in enumerate(ORDER)}
    for kind in sorted(kinds.keys() - {"literal"}, key=lambda kind: (places.get(kind, len(ORDER)), kind)):
        rest: list[str] = []
        for label, keys in kinds[kind].items():
            heaviest = sorted(keys, key=lambda key: (-named[key].weight, key))
            single = len(keys) == 1 or named[heaviest[0]].weight > named[heaviest[1]].weight
            if single and label not in taken:
                labels[heaviest[0]] = named[heaviest[0]].label
                rest += heaviest[1:]
            else:
                rest += heaviest
        taken.update(label.casefold() for label in labels.values())
        for key in sorted(rest, key=lambda key: (-named[key].weight, key)):
            free = (label for label in named[key].qualified if label.casefold() not in taken)
            labels[key] = next(free, (named[key].qualified or (named[key].label,))[-1])
            taken.add(labels[key].casefold())
    return {
        key: Entity(labels.get(key, entity.label), entity.description, entity.aliases)
        for key, entity in named.items()
    }
