"""KG2KV: each fact as rows of key and value, with a question that the value answers.

For a fact (h, r, t) the tail-masked row has the key "the {noun of r's tail} of {h}" and the value t, the
head-masked row "the {noun of r's head} of {t}" and the value h; an entity's description is the value of
"the description of {entity}". After AtlasKV (arXiv 2510.17934, section 3.1), except that a noun is asked
for once per relation and side, not once per fact.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.blocks import Mapped, in_turn
from pipeline.kg.facts import SCHEMAS, Graph, Ids
from pipeline.kg.slots import Mask

SIDES = {"both": ("tail", "head"), "tail": ("tail",), "random": ("tail", "head")}
CHUNK = 100_000
"""Facts turned into text at a time; bounds the memory that the strings take."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Which rows a fact or a description gives."""

    sides: str
    """Which side is masked: "both" (two rows a fact), "tail", or "random" (one of the two, as AtlasKV)."""
    name_words: int
    """Words of a name at most (AtlasKV: 3)."""
    name_characters: int
    """Characters of a name at most (AtlasKV: 79)."""
    description_words_least: int
    """Words of a description at least (AtlasKV's events: 11)."""
    description_words_most: int
    """Words of a description at most (AtlasKV's events: 19)."""
    description_characters: int
    """Characters of a description at most (AtlasKV's events: 399)."""
    key_words: int
    """Words of a key at most (AtlasKV: 27)."""
    dropped_relations: list[str]
    """Relations whose label holds one of these words give no row (AtlasKV: participate)."""
    entity_once: bool
    """Whether an entity is the name of one row only (AtlasKV: true)."""

    def __post_init__(self) -> None:
        if self.sides not in SIDES:
            raise ValueError(f"synthesis.rows.sides must be one of {', '.join(SIDES)}, not {self.sides!r}")
        for name in ("name_words", "name_characters", "description_words_most", "key_words"):
            if getattr(self, name) < 1:
                raise ValueError(f"synthesis.rows.{name} must be at least 1, not {getattr(self, name)}")
        if self.description_words_least > self.description_words_most:
            raise ValueError(
                f"synthesis.rows.description_words_least must be at most description_words_most "
                f"({self.description_words_most}), not {self.description_words_least}"
            )


class Chosen(NamedTuple):
    """What the rows of some facts, or of some descriptions, are made of."""

    facts: Ids
    side: str
    nouns: pa.Array
    names: pa.Array
    values: pa.Array
    templates: Ids
    """Which one words each question."""


@dataclass(frozen=True)
class Worded:
    """Makes rows of what was chosen."""

    templates: tuple[str, ...]
    """How a question is worded, with {noun} and {name}."""

    def __call__(self, chosen: Chosen) -> pa.Table:
        """Return the rows, in the order of the facts."""
        facts, side, nouns, names, values, which = chosen
        question = [
            self.templates[number].replace("{noun}", one).replace("{name}", name)
            for number, one, name in zip(which, nouns.to_pylist(), names.to_pylist(), strict=True)
        ]
        columns = {
            "fact": facts,
            "side": [side] * len(facts),
            "question": question,
            "key": pc.binary_join_element_wise("the", nouns, "of", names, " "),
            "value": values,
        }
        return pa.Table.from_pydict(columns, schema=SCHEMAS["kv"])


def fitting(labels: pa.Array, words: int, characters: int, least: int = 1) -> Mask:
    """Return which of `labels` are not empty, nor longer than so many words and characters: [E]."""
    count = _words(labels)
    length = pc.utf8_length(labels).to_numpy(zero_copy_only=False)
    return np.asarray((count >= least) & (count <= words) & (length <= characters) & (length > 0))


def usable(graph: Graph, rows: Rows) -> Mask:
    """Return which facts have short names on both sides and a relation that is not dropped: [M]."""
    short = fitting(_flat(graph.entities["label"]), rows.name_words, rows.name_characters)
    kept = np.array(
        [not any(word in label.lower() for word in rows.dropped_relations) for label in graph.relation_labels]
    )
    heads, relations, tails = graph.triples.T
    return np.asarray(short[heads] & short[tails] & kept[relations])


def kg2kv(
    graph: Graph,
    nouns: tuple[list[str], list[str]],
    rows: Rows,
    templates: list[str],
    seed: int,
    mapped: Mapped = in_turn,
) -> pa.Table:
    """Return the `kv` rows of the facts and descriptions of `graph`, in the order of the facts.

    Args:
        graph: the facts of every snapshot.
        nouns: the noun of the tail and of the head of each relation, by id.
        rows: which rows to make.
        templates: how a question is worded, with {noun} and {name}.
        seed: chooses templates and, where `rows.sides` is "random", sides.
        mapped: maps blocks of facts to rows.
    """
    table = pa.concat_tables(
        mapped(Worded(tuple(templates)), _drawn(graph, nouns, rows, len(templates), seed))
    )
    return table.filter(pa.array(_words(table["key"]) <= rows.key_words)).sort_by(
        [("fact", "ascending"), ("side", "descending"), ("key", "ascending")]
    )


def _drawn(
    graph: Graph, nouns: tuple[list[str], list[str]], rows: Rows, templates: int, seed: int
) -> Iterator[Chosen]:
    """Yield what rows are made of, `CHUNK` facts at a time, then the descriptions."""
    random = np.random.default_rng([seed, *b"kv"])
    facts = np.flatnonzero(usable(graph, rows))
    masked = random.integers(2, size=len(facts)) if rows.sides == "random" else np.full(len(facts), -1)
    seen = np.zeros(graph.entities.num_rows, dtype=np.bool_)
    for start in range(0, len(facts), CHUNK):
        for number, side in enumerate(SIDES[rows.sides]):
            chunk = slice(start, start + CHUNK)
            mine = facts[chunk][(masked[chunk] == number) | (masked[chunk] < 0)]
            named = graph.triples[mine, 2 if side == "head" else 0]
            if rows.entity_once:
                first = _first_time(named, seen)
                mine, named = mine[first], named[first]
            valued = graph.triples[mine, 0 if side == "head" else 2]
            noun = pa.array(nouns[number]).take(pa.array(graph.triples[mine, 1]))
            names, values = (_flat(graph.entities["label"]).take(pa.array(ids)) for ids in (named, valued))
            which = random.integers(templates, size=len(mine))
            yield Chosen(mine, side, noun, names, values, which)
    yield _descriptions(graph, rows, templates, random)


def mirrored(graph: Graph) -> Mask:
    """Return of which relations at least half of the facts hold in the other direction too: [R]."""
    heads, relations, tails = graph.triples.T
    entities = graph.entities.num_rows
    there = (heads * entities + tails) * len(graph.relation_labels) + relations
    back = (tails * entities + heads) * len(graph.relation_labels) + relations
    held = np.bincount(relations, np.isin(back, there) & (heads != tails), len(graph.relation_labels))
    facts = np.bincount(relations, minlength=len(graph.relation_labels))
    return np.asarray((facts > 0) & (held >= facts / 2))


def diversity(graph: Graph, nouns: tuple[list[str], list[str]], rows: pa.Table) -> tuple[int, int]:
    """Return how many attributes `rows` ask for (distinct nouns) and how many facts they were made of.

    Their ratio is AtlasKV's diversity of enquiry attributes; descriptions are no facts and count in neither.
    """
    asked: set[str] = set()
    used: list[Ids] = []
    for number, side in enumerate(("tail", "head")):
        facts = rows.filter(pc.equal(rows["side"], side))["fact"].to_numpy()
        asked |= {nouns[number][relation].casefold() for relation in np.unique(graph.triples[facts, 1])}
        used.append(facts)
    return len(asked), len(np.unique(np.concatenate(used)))


def _descriptions(graph: Graph, rows: Rows, templates: int, random: np.random.Generator) -> Chosen:
    described = fitting(
        pc.fill_null(_flat(graph.entities["description"]), ""),
        rows.description_words_most,
        rows.description_characters,
        rows.description_words_least,
    ) & fitting(_flat(graph.entities["label"]), rows.name_words, rows.name_characters)
    ids = pa.array(np.flatnonzero(described))
    values, names = (_flat(graph.entities[name]).take(ids) for name in ("description", "label"))
    noun = pa.array(["description"] * len(ids), type=pa.string())
    which = random.integers(templates, size=len(ids))
    return Chosen(np.full(len(ids), -1), "description", noun, names, values, which)


def _first_time(named: Ids, seen: Mask) -> Ids:
    """Return the positions of `named` that name an entity for the first time, and mark it as seen."""
    _, first = np.unique(named, return_index=True)
    first = np.sort(first[~seen[named[first]]])
    seen[named[first]] = True
    return first


def _words(texts: pa.Array) -> Ids:
    stripped = pc.utf8_trim_whitespace(texts)
    return np.asarray(pc.list_value_length(pc.utf8_split_whitespace(stripped)), dtype=np.int64)


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks()
