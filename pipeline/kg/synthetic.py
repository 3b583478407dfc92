"""KBLaM's kind of rows: names with the same three attributes, whose values are put together from words.

KBLaM (arXiv 2410.10450, section 4) trains on names with a description, objectives and a purpose, written by a
large model; here they are composed, so that they cost no tokens. The narrowness is the point: it is what
KG2KV is compared with.
"""

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.config import UserError
from pipeline.kg.facts import SCHEMAS, Graph

ATTRIBUTES = ("description", "objectives", "purpose")


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """Where names and values come from."""

    names: str
    """`invented` (put together from `name_parts`) or `given` (labels of the graph's entities)."""
    count: int
    """How many names; fewer where there are not as many."""
    name_parts: list[list[str]]
    """Parts of an invented name, in order: one of each list."""
    values: dict[str, list[str]]
    """Wordings of each attribute's value; {x} stands for one of `words.x`."""
    words: dict[str, list[str]]
    """What stands for {x} in a value."""

    def __post_init__(self) -> None:
        if self.names not in ("invented", "given"):
            raise ValueError(f"synthesis.synthetic.names must be invented or given, not {self.names!r}")
        if self.count < 1:
            raise ValueError(f"synthesis.synthetic.count must be at least 1, not {self.count}")
        if set(self.values) != set(ATTRIBUTES):
            raise ValueError(
                f"synthesis.synthetic.values must be {', '.join(ATTRIBUTES)}, not {', '.join(self.values)}"
            )
        if not self.name_parts or not all([*self.name_parts, *self.values.values(), *self.words.values()]):
            raise ValueError(
                "synthesis.synthetic: name_parts, values and words must hold no empty list, not []"
            )


def synthetic(graph: Graph, config: Synthetic, templates: list[str], seed: int) -> pa.Table:
    """Return `kv` rows of side "synthetic": three for each name, sorted by key.

    Raises:
        UserError: a wording of a value names a word list that there is not.
    """
    random = np.random.default_rng([seed, *b"synthetic"])
    rows: dict[str, list[object]] = {name: [] for name in SCHEMAS["kv"].names}
    for name in _names(graph, config, random):
        for attribute in ATTRIBUTES:
            template = templates[random.integers(len(templates))]
            rows["fact"].append(-1)
            rows["side"].append("synthetic")
            rows["question"].append(template.replace("{noun}", attribute).replace("{name}", name))
            rows["key"].append(f"the {attribute} of {name}")
            rows["value"].append(_value(config, attribute, random))
    return pa.Table.from_pydict(rows, schema=SCHEMAS["kv"]).sort_by("key")


def _names(graph: Graph, config: Synthetic, random: np.random.Generator) -> list[str]:
    if config.names == "given":
        known = sorted(set(graph.labels))
        picked = random.permutation(len(known))[: config.count]
        return [known[number] for number in picked]
    sizes = [len(part) for part in config.name_parts]
    numbers = random.permutation(math.prod(sizes))[: config.count]
    places = zip(*np.unravel_index(numbers, sizes), strict=True)
    return ["".join(part[at] for part, at in zip(config.name_parts, place, strict=True)) for place in places]


def _value(config: Synthetic, attribute: str, random: np.random.Generator) -> str:
    wordings = config.values[attribute]
    chosen = {name: words[random.integers(len(words))] for name, words in config.words.items()}
    try:
        return wordings[random.integers(len(wordings))].format(**chosen)
    except KeyError as error:
        raise UserError(
            f"conf/synthesis: synthetic.values.{attribute} names {{{error.args[0]}}}, which synthetic.words "
            "lacks; add the list or correct the wording"
        ) from error
