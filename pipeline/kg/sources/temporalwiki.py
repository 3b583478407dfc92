"""TWiki-Probes of TemporalWiki: Wikidata facts by month, as labels.

Jang et al., "TemporalWiki: A Lifelong Benchmark for Training and Evaluating Ever-Evolving Language Models"
(EMNLP 2022). `0801-0901_changed.csv` lists the facts that are new or other in September 2021 than in August,
`0801-0901_unchanged.csv` facts that stayed; the columns are subject, relation and object. No file tells the
old value of a changed fact, so that a later month only adds facts to the earlier ones.
"""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import UserError
from pipeline.kg.sources import Entity, Extract, Triple
from pipeline.kg.sources.files import ARCHIVES, comma_separated, data_root, download, located, members

COLUMNS = ("subject", "relation", "object")
MONTHS = re.compile(r"(?:.*/)?(?P<months>\d{4}-(?P<month>\d\d)\d\d)_(?:un)?changed\.csv")
YEAR = 2021
"""The year of the probes, which their file names leave out."""
SNAPSHOTS = ("monthly", "none")


@dataclass(frozen=True, kw_only=True)
class TemporalWiki:
    """Keys are labels: the probes carry no other. Facts of all months, each once."""

    folder: str
    """Folder (or .zip, .tar.gz) of the CSV files below the data root."""
    url: str
    """The publisher's zip, fetched when neither folder nor archive is there; empty: never."""
    snapshots: str
    """`monthly`: the first month is the base, each later month adds its facts. `none`: all are the base."""

    def __post_init__(self) -> None:
        """Check the choice of snapshots."""
        if self.snapshots not in SNAPSHOTS:
            raise ValueError(f"data.snapshots must be one of {', '.join(SNAPSHOTS)}, not {self.snapshots!r}")

    def extract(self) -> Extract:
        """Return the facts of the probes.

        Raises:
            UserError: no probes are found or fetched, or a file is damaged, empty or lacks a column.
        """
        path = self._path()
        months: defaultdict[str, list[Triple]] = defaultdict(list)
        counts: Counter[str] = Counter()
        seen: set[tuple[str, str, str]] = set()
        for name, content in members(path, ".csv"):
            match = MONTHS.fullmatch(name)
            if not match:
                counts["files_passed_over"] += 1
                continue
            month = months[f"{YEAR}-{match['month']}"]
            for _, (head, relation, tail) in comma_separated(content, f"{path}/{name}", COLUMNS):
                counts["rows"] += 1
                if (head, relation, tail) in seen:
                    counts["rows_repeated"] += 1
                    continue
                seen.add((head, relation, tail))
                month.append(Triple(head, relation, tail, source=Path(name).stem))
        if not months:
            raise UserError(f"{path}: no file is named like 0801-0901_changed.csv; fetch TWiki-Probes again")
        facts = [fact for month in months.values() for fact in month]
        counts["self_loops"] = sum(fact.head == fact.tail for fact in facts)
        labels = sorted({label for fact in facts for label in (fact.head, fact.tail)})
        relations = sorted({fact.relation for fact in facts})
        return Extract(
            entities={label: Entity(label) for label in labels},
            relations={label: label for label in relations},
            snapshots=self._snapshots(months),
            counts=dict(counts),
        )

    def _path(self) -> Path:
        remedy = f"put the unpacked CSV files of TWiki-Probes into {data_root() / self.folder}"
        if self.url and not any(
            (data_root() / f"{self.folder}{suffix}").exists() for suffix in ("", *ARCHIVES)
        ):
            return download(self.url, data_root() / f"{self.folder}.zip", remedy)
        return located(self.folder, remedy)

    def _snapshots(self, months: dict[str, list[Triple]]) -> list[tuple[str, list[Triple]]]:
        snapshots: list[tuple[str, list[Triple]]] = []
        facts: list[Triple] = []
        for name in sorted(months):
            facts = facts + sorted(months[name])
            snapshots.append((name, facts))
        return snapshots if self.snapshots == "monthly" else snapshots[-1:]
