"""Wikidata5M in its published text format, streamed into the tables.

Wang et al., "KEPLER: A Unified Model for Knowledge Embedding and Pre-trained Language Representation"
(TACL 2021). `wikidata5m_transductive_{train,valid,test}.txt` hold a fact a line (head, relation, tail),
`wikidata5m_entity.txt` and `wikidata5m_relation.txt` a key and its aliases, of which the first serves as the
label, `wikidata5m_text.txt` a key and a paragraph; all are separated by tabs and have no header.

In memory are the sorted keys, one number a fact, and one row group of texts at a time.
"""

import logging
import shutil
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.blocks import Mapped, in_turn
from pipeline.config import UserError
from pipeline.kg.facts import SCHEMAS, write_table
from pipeline.kg.sources.files import AGAIN, DAMAGE, data_root, download, lines
from pipeline.kg.sources.large import Keys, Packing, Shelves, texts
from pipeline.kg.sources.streamed import FactTable, numbering, packed_facts
from pipeline.kg.splits import Splits

FACTS = "wikidata5m_transductive_{}.txt"
PARTS = ("train", "valid", "test")
GROUP = 1 << 16
"""Entities in a row group, and on a shelf."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Wikidata5M:
    """The transductive facts of all three published splits; the `source` of a fact is its split."""

    folder: str
    """Folder below the data root that holds, or shall hold, the unpacked text files."""
    urls: dict[str, str]
    """The publisher's archives by what they hold (`triples`, `aliases`, `texts`), fetched where files are
    missing; empty: never."""
    aliases: int
    """Most aliases of an entity that are kept besides its label."""
    description: int
    """Most characters of an entity's paragraph that are kept; 0: the paragraphs are not read."""

    def __post_init__(self) -> None:
        """Check names and ranges."""
        for name in ("aliases", "description"):
            if getattr(self, name) < 0:
                raise ValueError(f"data.{name} must be 0 or more, not {getattr(self, name)}")
        unknown = sorted(self.urls.keys() - {"triples", "aliases", "texts"})
        if unknown:
            raise ValueError(f"data.urls must name triples, aliases or texts, not {unknown[0]!r}")

    def write(self, splits: Splits, seed: int, out: Path, mapped: Mapped = in_turn) -> dict[str, Any]:
        """Write the tables entities, relations, facts, changes and questions to `out`; return the counts.

        The tables are those that `pipeline.kg.build` would write; there are no questions and no changes.

        Raises:
            UserError: files are missing and can't be fetched, or one is damaged, empty or has another form.
        """
        folder = self._files()
        out.mkdir(parents=True, exist_ok=True)
        repairs: Counter[str] = Counter()
        parts = {part: folder / FACTS.format(part) for part in PARTS}
        entities, relations = numbering(parts, mapped)
        logger.info("%d entities, %d relations", len(entities), len(relations))
        packing = Packing(len(entities), len(relations), len(PARTS))
        facts = packed_facts(parts, entities, relations, packing, repairs, mapped)
        sizes = FactTable(entities, relations, packing, PARTS, splits, seed).write(out, facts)
        del facts
        labels = _write_relations(out, folder, relations, repairs)
        repeated = self._write_entities(out, folder, entities, repairs)
        write_table(out, "changes", {name: [] for name in SCHEMAS["changes"].names})
        write_table(out, "questions", {name: [] for name in SCHEMAS["questions"].names})
        named = zip(labels, sizes.pop("relations"), strict=True)
        return {
            **sizes,
            "entities": len(entities),
            "relations": {label: {"facts": number} for label, number in named},
            **repeated,
            "repairs": dict(sorted(repairs.items())),
        }

    def _files(self) -> Path:
        folder = data_root() / self.folder
        wanted = {
            "triples": [FACTS.format(part) for part in PARTS],
            "aliases": ["wikidata5m_entity.txt", "wikidata5m_relation.txt"],
            "texts": ["wikidata5m_text.txt"] if self.description else [],
        }
        for what, names in wanted.items():
            missing = [name for name in names if not (folder / name).is_file()]
            if not missing:
                continue
            remedy = f"put {', '.join(missing)} of Wikidata5M into {folder}, or set KG_DATA_ROOT"
            url = self.urls.get(what)
            if not url:
                raise UserError(f"{folder / missing[0]}: not found; {remedy}")
            if what == "texts":
                download(url, folder / f"{missing[0]}.gz", remedy)
            else:
                _unpack(download(url, folder / f"wikidata5m_{what}.tar.gz", remedy), missing, folder, remedy)
        return folder

    def _write_entities(self, out: Path, folder: Path, keys: Keys, repairs: Counter[str]) -> dict[str, int]:
        """Write the entities range by range, and return how many share their label."""
        hashes: list[NDArray[np.int64]] = []
        with (
            TemporaryDirectory(dir=out, prefix=".shelves-") as scratch,
            pq.ParquetWriter(out / "entities.parquet", SCHEMAS["entities"], compression="zstd") as writer,
        ):
            names = Shelves(Path(scratch) / "names", keys, GROUP)
            repairs["aliases of other entities left out"] = names.fill(
                _keyed(folder / "wikidata5m_entity.txt")
            )
            paragraphs = Shelves(Path(scratch) / "paragraphs", keys, GROUP)
            if self.description:
                plain = folder / "wikidata5m_text.txt"
                path = plain if plain.is_file() else plain.with_name("wikidata5m_text.txt.gz")
                cut = partial(shortened, most=self.description)
                rows = ((key, cut(paragraph)) for key, paragraph in _keyed(path))
                repairs["paragraphs of other entities left out"] = paragraphs.fill(rows)
            for start in range(0, len(keys), GROUP):
                own = texts(keys[start : start + GROUP])
                known = names.take(start // GROUP)
                listed = [known.get(start + i, key).split("\t") for i, key in enumerate(own.to_pylist())]
                labels = [" ".join(aliases[0].split()) for aliases in listed]
                repairs["entities without aliases, named by their key"] += len(own) - len(known)
                described = paragraphs.take(start // GROUP)
                hashes.append(np.fromiter(map(hash, labels), np.int64, len(labels)))
                columns = {
                    "id": np.arange(start, start + len(own)),
                    "key": own,
                    "label": labels,
                    "description": [described.get(start + i, "") for i in range(len(own))],
                    "aliases": [aliases[1 : self.aliases + 1] for aliases in listed],
                }
                writer.write_table(pa.Table.from_pydict(columns, schema=SCHEMAS["entities"]))
        # A label counts as another's when their 64-bit hashes agree; labels themselves would fill the memory.
        times = np.unique(np.concatenate(hashes), return_counts=True)[1]
        shared = times[times > 1]
        return {"entities that share their label": int(shared.sum()), "labels shared": len(shared)}


def shortened(paragraph: str, most: int) -> str:
    """Return the whole words in the first `most` characters of `paragraph`, at single spaces."""
    start = paragraph[: most + 1]
    words = start.split()
    if len(paragraph) > most and not start[-1].isspace():
        words = words[:-1] or [words[0][:most]]
    return " ".join(words)


def _unpack(archive: Path, names: list[str], folder: Path, remedy: str) -> None:
    """Unpack the files `names` of a tar archive, wherever they lie in it, into `folder`."""
    try:
        with tarfile.open(archive, "r:*") as tape:
            for member in tape:
                name = Path(member.name).name
                if name in names and (content := tape.extractfile(member)) is not None:
                    part = folder / f".{name}.part"
                    with part.open("wb") as stream:
                        shutil.copyfileobj(content, stream)
                    part.replace(folder / name)
    except DAMAGE as error:
        raise UserError(f"{archive}: damaged ({error}); delete it to fetch it again, or {remedy}") from error
    for name in names:
        if not (folder / name).is_file():
            raise UserError(f"{archive}: holds no {name}; {remedy}")


def _write_relations(out: Path, folder: Path, keys: Keys, repairs: Counter[str]) -> list[str]:
    """Write the relations and return their labels."""
    own = texts(keys).to_pylist()
    aliases = dict(_keyed(folder / "wikidata5m_relation.txt"))
    repairs["relations without aliases, named by their key"] = len(set(own) - aliases.keys())
    repairs["aliases of other relations left out"] = len(aliases.keys() - set(own))
    labels = [aliases.get(key, key).split("\t")[0] for key in own]
    blank = [""] * len(own)
    columns = {"id": range(len(own)), "key": own, "label": labels, "noun_tail": blank, "noun_head": blank}
    write_table(out, "relations", columns)
    return labels


def _keyed(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the key and the rest of each line.

    Raises:
        UserError: as `lines`; a line has no key or nothing after it.
    """
    for number, line in lines(path):
        key, _, rest = line.partition("\t")
        if not key.isascii() or not key or not rest.strip():
            raise UserError(
                f"{path}, line {number}: {line[:60]!r} is no key with texts after it (tab separated); "
                f"correct the line, or {AGAIN}"
            )
        yield key, rest
