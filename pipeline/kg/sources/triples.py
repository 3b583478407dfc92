"""Facts of your own: tab-separated files of head, relation and tail, as labels.

A file may begin with a header line that names the columns `head`, `relation`, `tail` and, where they are
known, `start` and `end` (ISO dates or years), in any order; without a header they stand in this order, three
or five of them. Labels are keys: two things of one name must be told apart in the label ("Paris (Texas)").
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import UserError
from pipeline.kg.sources import Entity, Extract, Triple
from pipeline.kg.sources.files import data_root, lines

COLUMNS = ("head", "relation", "tail", "start", "end")
NEEDED = COLUMNS[:3]
SUFFIXES = (".tsv", ".txt", ".tsv.gz", ".txt.gz")
SNAPSHOTS = ("files", "none")


@dataclass(frozen=True, kw_only=True)
class Triples:
    """A file of facts, or a folder of such files."""

    folder: str
    """File or folder below the data root, or an absolute path."""
    snapshots: str
    """`none`: the facts of all files are one graph. `files`: each file is the whole graph at one time, in the
    order of their names; the first is the base."""

    def __post_init__(self) -> None:
        """Check the choice of snapshots."""
        if self.snapshots not in SNAPSHOTS:
            raise ValueError(f"data.snapshots must be one of {', '.join(SNAPSHOTS)}, not {self.snapshots!r}")

    def extract(self) -> Extract:
        """Return the facts of the files.

        Raises:
            UserError: there is no file, or one is damaged, empty or holds a row without three labels.
        """
        read = {file.name: list(read_triples(file)) for file in self._files()}
        triples = [triple for rows in read.values() for triple in rows]
        return Extract(
            entities={
                label: Entity(label) for label in sorted({x for t in triples for x in (t.head, t.tail)})
            },
            relations={label: label for label in sorted({t.relation for t in triples})},
            snapshots=list(read.items()) if self.snapshots == "files" else [("base", triples)],
            counts={"files": len(read), "rows": len(triples)},
        )

    def _files(self) -> list[Path]:
        path = data_root() / Path(self.folder).expanduser()
        if path.is_file():
            return [path]
        found = sorted(file for file in path.glob("*") if file.name.endswith(SUFFIXES))
        if not found:
            what = f"holds no {' or '.join(SUFFIXES[:2])} file" if path.is_dir() else "not found"
            raise UserError(
                f"{path}: {what}; put a file with a fact a line (head TAB relation TAB tail) there, "
                "or set data.folder in conf/data/triples.yaml"
            )
        return found


def read_triples(path: Path) -> Iterator[Triple]:
    """Yield the facts of one file; `source` is its name.

    Raises:
        UserError: the file is missing, damaged or empty, or a row lacks a column or a label.
    """
    rows = lines(path, remedy="write it again")
    names: list[str] = []
    count = 0
    for number, line in rows:
        cells = [" ".join(cell.split()) for cell in line.removeprefix("\ufeff").split("\t")]
        if not any(cells):
            continue
        if not names:
            names = [cell.casefold() for cell in cells]
            if set(NEEDED) <= set(names):
                continue
            names = list(COLUMNS if len(cells) == 5 else NEEDED)
        row = dict(zip(names, cells, strict=False))
        if len(cells) != len(names) or not all(row[name] for name in NEEDED):
            raise UserError(
                f"{path}, line {number}: expected {len(names)} columns separated by tabs, with a head, "
                f"a relation and a tail, got {line!r}; correct the line"
            )
        count += 1
        dates = row.get("start", ""), row.get("end", "")
        yield Triple(row["head"], row["relation"], row["tail"], *dates, source=path.name)
    if not count:
        raise UserError(f"{path}: holds no fact; write one a line: head TAB relation TAB tail")
