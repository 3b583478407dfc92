"""Measures the loader of Wikidata5M on files of its published format and size.

`python -m pipeline.benchmarks.wikidata5m [--scale 0.01]` writes such files with made-up facts, loads them,
and writes wall time, processor time and peak memory of both steps to reports/wikidata5m.json. How often an
entity is head or tail follows Zipf's law; every entity is the head of a fact, and no fact comes twice.
"""

import argparse
import json
import logging
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from os import environ
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from numpy.typing import NDArray

from pipeline.config import ROOT
from pipeline.evaluation.environment import provenance
from pipeline.kg.sources.streamed import COLUMNS
from pipeline.kg.sources.wikidata5m import FACTS, Wikidata5M
from pipeline.kg.splits import Splits

ENTITIES, RELATIONS = 4_594_149, 822
TRIPLES = {"train": 20_614_279, "valid": 5_163, "test": 5_133}
"""Sizes of the published transductive files."""
EXPONENT = 0.8
"""Of Zipf's law: the entity of rank r is drawn in proportion to r^-EXPONENT."""
ROWS = 1_000_000
"""Rows written at once."""
WORDS = (
    "amber",
    "basin",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "grove",
    "haven",
    "islet",
    "jetty",
    "knoll",
    "lagoon",
)

logger = logging.getLogger(__name__)
Ids = NDArray[np.int64]


def generate(folder: Path, scale: float, characters: int, seed: int) -> dict[str, int]:
    """Write the six files to `folder`, `scale` times the published size, paragraphs of about `characters`."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    entities = max(100, round(ENTITIES * scale))
    sizes = {part: max(10, round(number * scale)) for part, number in TRIPLES.items()}
    keys = pa.array([f"Q{number}" for number in np.cumsum(random.integers(1, 25, entities)).tolist()])
    properties = pa.array([f"P{number}" for number in range(6, 6 + RELATIONS)])
    facts = _facts(random, entities, sum(sizes.values()))
    start = 0
    for part, size in sizes.items():
        path = folder / FACTS.format(part)
        _write_facts(path, facts[start : start + size], keys, properties)
        start += size
    del facts
    names = keys.to_pylist()
    random.shuffle(names)
    _write_lines(folder / "wikidata5m_entity.txt", (f"{key}\t{_aliases(key)}" for key in names))
    _write_lines(
        folder / "wikidata5m_relation.txt", (f"{key}\t{_aliases(key)}" for key in properties.to_pylist())
    )
    if characters:
        _write_lines(
            folder / "wikidata5m_text.txt", (f"{key}\t{_paragraph(key, characters)}" for key in names)
        )
    written = sum(path.stat().st_size for path in folder.glob("*.txt"))
    return {"entities": entities, "relations": RELATIONS, "triples": sum(sizes.values()), "bytes": written}


def _facts(random: np.random.Generator, entities: int, wanted: int) -> Ids:
    """Return `wanted` distinct facts as packed numbers, in random order: [M]."""
    weights = np.cumsum(np.arange(1, entities + 1, dtype=np.float64) ** -EXPONENT)
    weights /= weights[-1]
    order = random.permutation(entities)
    relation_weights = np.cumsum(1 / np.arange(1, RELATIONS + 1))
    relation_weights /= relation_weights[-1]

    def drawn(heads: Ids) -> Ids:
        tails = order[np.searchsorted(weights, random.random(len(heads)))]
        tails = np.where(tails == heads, (tails + 1) % entities, tails)
        relations = np.searchsorted(relation_weights, random.random(len(heads)))
        return (heads * RELATIONS + relations) * entities + tails

    first = drawn(np.arange(entities))
    others = np.empty(0, np.int64)
    while len(others) < wanted - entities:
        more = (wanted - entities - len(others)) * 51 // 50 + 1
        new = drawn(order[np.searchsorted(weights, random.random(more))])
        others = np.setdiff1d(np.concatenate([others, new]), first)
    random.shuffle(others)
    facts = np.concatenate([first, others[: wanted - entities]])
    random.shuffle(facts)
    return facts


def _write_facts(path: Path, facts: Ids, keys: pa.Array, properties: pa.Array) -> None:
    schema = pa.schema([(name, pa.string()) for name in COLUMNS])
    options = pacsv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    with pacsv.CSVWriter(path, schema, write_options=options) as writer:
        for start in range(0, len(facts), ROWS):
            rest, tail = np.divmod(facts[start : start + ROWS], len(keys))
            head, relation = np.divmod(rest, len(properties))
            columns = [
                keys.take(pa.array(head)),
                properties.take(pa.array(relation)),
                keys.take(pa.array(tail)),
            ]
            writer.write_table(pa.table(columns, schema=schema))


def _write_lines(path: Path, rows: Iterator[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{row}\n" for row in rows)


def _name(number: int) -> str:
    return f"{WORDS[number % 12].title()} {WORDS[number // 12 % 12].title()} {number // 7 % 30_000}"


def _aliases(key: str) -> str:
    number = int(key[1:])
    return "\t".join(_name(number + 13 * i) for i in range(1 + number % 7))


def _paragraph(key: str, characters: int) -> str:
    name = _name(int(key[1:]))
    sentence = f"{name} is known for its {WORDS[int(key[1:]) % 5]} and its {WORDS[int(key[1:]) % 11]}. "
    return (sentence * (characters // len(sentence) + 1))[:characters]


def load(folder: Path, out: Path, characters: int, seed: int) -> dict[str, Any]:
    """Write the tables of the files in `folder` to `out`; return the loader's counts, without relations."""
    environ["KG_DATA_ROOT"] = str(folder.parent)
    source = Wikidata5M(folder=folder.name, urls={}, aliases=8, description=200 if characters else 0)
    counts = source.write(Splits(valid=0.05, test=0.1, unseen_relations=0.05), seed, out)
    counts["relations"] = len(counts["relations"])
    return counts | {"bytes of the tables": sum(path.stat().st_size for path in out.glob("*.parquet"))}


def measured(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what `run` returns, its wall and processor time and the peak memory of the (fresh) process."""
    start = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_SELF)
    peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "seconds": round(seconds, 1),
        "processor seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak memory in MiB": round(peak / 2**20),
        **result,
    }


def alone(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return `measured(run)` of a process of its own."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measured, run).result()


def main() -> None:
    """Generate, load, measure, and write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=1.0, help="share of the published size")
    parser.add_argument("--characters", type=int, default=500, help="characters of a paragraph; 0: none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--scratch", type=Path, default=ROOT / "data" / "benchmark", help="emptied afterwards"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "wikidata5m.json")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    options = f"--scale {given.scale:g} --characters {given.characters} --seed {given.seed}"
    measured = provenance(f"python -m pipeline.benchmarks.wikidata5m {options}", [given.seed])
    folder, tables = given.scratch / "wikidata5m", given.scratch / "tables"
    try:
        generated = alone(partial(generate, folder, given.scale, given.characters, given.seed))
        logger.info("generated: %s", generated)
        loaded = alone(partial(load, folder, tables, given.characters, given.seed))
    finally:
        shutil.rmtree(given.scratch, ignore_errors=True)
    report = measured | {"figures": {"generate": generated, "load": loaded}}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    logger.info("%s: %s", given.out, json.dumps(report["figures"], indent=1))


if __name__ == "__main__":
    main()
