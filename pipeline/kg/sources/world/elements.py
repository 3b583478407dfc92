"""Chemical elements, from the SQLite file of mendeleev."""

import sqlite3
import tempfile
from pathlib import Path

from pipeline.config import UserError
from pipeline.kg.sources.world.draft import Draft, plain
from pipeline.packages import Wheel

LATTICE = {
    "BCC": "body-centred cubic",
    "CUB": "cubic",
    "DIA": "diamond cubic",
    "FCC": "face-centred cubic",
    "HEX": "hexagonal",
    "MCL": "monoclinic",
    "ORC": "orthorhombic",
    "RHL": "rhombohedral",
    "SC": "simple cubic",
    "TET": "tetragonal",
}
QUERY = (
    "SELECT symbol, elements.name AS name, atomic_number, period, group_id, block, series.name AS category, "
    "cas, lattice_structure, goldschmidt_class, discoverers, discovery_year, discovery_location "
    "FROM elements LEFT JOIN series ON series.id = series_id ORDER BY atomic_number"
)


def elements(draft: Draft, data: Wheel) -> None:
    """Add the elements; countries must be there (places of discovery)."""
    nations = {plain(entity.label): key for key, entity in draft.named.items() if key.startswith("country:")}
    for row in _rows(data):
        key = draft.name(f"element:{row['symbol']}", row["name"], "chemical element")
        values = {
            "symbol": row["symbol"],
            "atomic_number": row["atomic_number"],
            "period": row["period"] and f"period {row['period']}",
            "group": row["group_id"] and f"group {row['group_id']}",
            "block": row["block"] and f"{row['block']}-block",
            "category": row["category"] and row["category"].lower(),
            "cas": row["cas"],
            "crystal_structure": LATTICE.get(row["lattice_structure"] or "", ""),
            "goldschmidt": (row["goldschmidt_class"] or "").replace("litophile", "lithophile"),
            "discovery_year": row["discovery_year"],
        }
        for relation, value in values.items():
            draft.value(key, relation, value, "mendeleev")
        if not (row["discoverers"] or "").startswith("Known to"):
            draft.value(key, "discovered_by", row["discoverers"], "mendeleev")
        place = row["discovery_location"] or ""
        if place and "/" not in place:
            draft.fact(key, "discovery_place", nations.get(plain(place)) or draft.literal(place), "mendeleev")


def _rows(data: Wheel) -> list[sqlite3.Row]:
    member = "mendeleev/elements.db"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "elements.db"
        path.write_bytes(data.read(member))
        connection = sqlite3.connect(path)
        connection.row_factory = sqlite3.Row
        try:
            return connection.execute(QUERY).fetchall()
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"{data.path.name}: {member} can't be read ({error}); pin another release in conf/data"
            ) from error
        finally:
            connection.close()
