"""A memory on disk: names with their vectors, and the facts that hold."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pipeline.config import UserError
from pipeline.memory.chronicle import Chronicle
from pipeline.memory.names import Names
from pipeline.memory.triples import Triples

PARTS = ("head", "relation", "tail")
PERIODS = "periods.parquet"
"""What a memory of which nothing is dated has no use for."""


def write(folder: Path, names: Mapping[str, Names], triples: Triples, chronicle: Chronicle) -> None:
    """Write `names`, each under its own name, the facts that hold and the periods of facts to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: part.vectors.half().cpu().contiguous() for name, part in names.items()},
        folder / "vectors.safetensors",
    )
    for name, part in names.items():
        texts = {"key": pa.array(part.keys, pa.string()), "text": pa.array(part.texts, pa.string())}
        pq.write_table(pa.table(texts), folder / f"{name}.parquet")
    if len(chronicle):
        (folder / PERIODS).write_bytes(chronicle.packed())
    else:
        (folder / PERIODS).unlink(missing_ok=True)
    live = triples.rows[triples.alive]
    pq.write_table(pa.table({part: live[:, i] for i, part in enumerate(PARTS)}), folder / "facts.parquet")


def read(folder: Path, names: Mapping[str, Names]) -> tuple[Triples, Chronicle]:
    """Fill `names`, which are empty, from what `write` left in `folder`; return the facts and their periods.

    Raises:
        UserError: a file is missing or damaged, or the files don't belong together.
    """
    try:
        vectors = load_file(folder / "vectors.safetensors")
        for name, part in names.items():
            table = pq.read_table(folder / f"{name}.parquet")
            part.restore(table["key"].to_pylist(), table["text"].to_pylist(), vectors[name])
        facts = pq.read_table(folder / "facts.parquet")
        rows = np.stack([facts[part].to_numpy() for part in PARTS], axis=1)
        for column, end, kind in zip(rows.T, PARTS, ("entities", "relations", "entities"), strict=True):
            if len(column) and not 0 <= column.min() <= column.max() < len(names[kind]):
                raise ValueError(f"facts.parquet names a {end} that {kind}.parquet doesn't hold")
        triples = Triples(rows)
        chronicle = Chronicle(triples)
        if (folder / PERIODS).exists():
            chronicle.restore(
                (folder / PERIODS).read_bytes(), len(names["entities"]), len(names["relations"])
            )
    except (OSError, SafetensorError, pa.ArrowInvalid, KeyError, ValueError) as error:
        raise UserError(
            f"{folder}: not a memory ({error}); run the stage `index` (`dvc repro index`)"
        ) from error
    return triples, chronicle
