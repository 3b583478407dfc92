"""What a change to the memory did, and the names of relations that users may know them by."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import UserError


@dataclass(frozen=True)
class Change:
    """What one call of `upsert` or `delete` did, as the sentences that the language model reads."""

    written: list[str]
    deleted: list[str]
    superseded: list[str]
    """Former facts of the slots that were written."""
    notes: list[str]
    """What was new to the memory."""
    seconds: float


def relation_labels(tables: Path) -> dict[str, str]:
    """Return the key of each relation's label, from the table `relations`; nothing where it isn't there."""
    file = tables / "relations.parquet"
    if not file.is_file():
        return {}
    try:
        table = pq.read_table(file, columns=["label", "key"])
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{file}: damaged ({error}); delete it and run `dvc repro`") from error
    return dict(zip(table["label"].to_pylist(), table["key"].to_pylist(), strict=True))
