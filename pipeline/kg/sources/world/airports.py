"""Airports, from dated releases of airportsdata: the part of `world` that changes between snapshots."""

import csv
import io
from collections.abc import Iterator

from pipeline.config import UserError
from pipeline.kg.sources import Triple
from pipeline.kg.sources.world.draft import Draft, need, plain, tidy
from pipeline.kg.sources.world.geography import time_zone
from pipeline.packages import Wheel

COLUMNS = ("icao", "iata", "name", "city", "subd", "country", "elevation", "tz")
MEMBER = "airportsdata/airports.csv"


def airports(draft: Draft, release: Wheel) -> list[Triple]:
    """Return the facts of one release; releases are read oldest first, so that the newest names stay.

    A city or region is the one that another package knows by that name in that country, if it is the only
    one there, and an entity of its own otherwise: a name spelled otherwise in a later release is no change.
    """
    source = release.path.name.removesuffix("-py3-none-any.whl")
    states = {
        plain(draft.named[key].label): key.removeprefix("subdivision:US-")
        for key in draft.named
        if key.startswith("subdivision:US-")
    }
    facts: dict[tuple[str, str, str], None] = {}
    for row in _rows(release):
        country = draft.country(row["country"])
        if country is None:
            continue
        code, place = row["country"], draft.named[country].label
        key, label = f"airport:{row['icao']}", tidy(row["name"])
        old = draft.named.get(key)
        names = {label, *((old.label, *old.aliases) if old else ())}
        described = f"airport in {place} ({row['icao']})"
        draft.name(
            key,
            label,
            described,
            aliases=tuple(sorted(names - {label})),
            qualified=(f"{label} ({row['icao']})",),
        )
        state = states.get(plain(row["subd"]), "") if code == "US" else ""
        city = draft.find("city", code, row["city"], state) or _own(draft, "place", code, row["city"], place)
        region = draft.find("subdivision", code, row["subd"]) or _own(
            draft, "region", code, row["subd"], place
        )
        tails = {
            "country": country,
            "city_served": city,
            "administrative_region": region,
            "time_zone": time_zone(draft, row["tz"]),
            "iata": draft.literal(row["iata"]) if row["iata"] else None,
            "elevation": draft.literal(f"{row['elevation']} ft") if row["elevation"] else None,
        }
        facts.update({(key, relation, tail): None for relation, tail in tails.items() if tail})
        # Places that only airports name are linked to their country too, or they would hang in the air.
        facts.update(
            {(tail, "country", country): None for tail in (city, region) if tail and ":" + code + ":" in tail}
        )
    return [Triple(head, relation, tail, source=source) for head, relation, tail in facts]


def _own(draft: Draft, kind: str, code: str, name: str, country: str) -> str | None:
    if not plain(name):
        return None
    described = "place" if kind == "place" else "administrative region"
    longer = (f"{tidy(name)}, {country}", f"{tidy(name)} ({described}, {country})")
    return draft.name(f"{kind}:{code}:{plain(name)}", name, f"{described} in {country}", qualified=longer)


def _rows(release: Wheel) -> Iterator[dict[str, str]]:
    """Yield the rows of the CSV file, elevation rounded to feet (releases differ in decimals).

    Raises:
        UserError: a column is missing, a row is cut short, or an elevation is no number.
    """
    name = release.path.name
    try:
        text = release.read(MEMBER).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name}: {MEMBER} is not UTF-8 ({error}); pin another release in conf/data"
        ) from error
    reader = csv.DictReader(io.StringIO(text))
    need(reader.fieldnames or [], COLUMNS, release, MEMBER)
    empty = True
    for row in reader:
        empty = False
        if any(row[column] is None for column in COLUMNS) or not row["icao"]:
            raise UserError(
                f"{name}: {MEMBER}, line {reader.line_num}: cut short; pin another release in conf/data"
            )
        try:
            row["elevation"] = str(round(float(row["elevation"]))) if row["elevation"] else ""
        except ValueError as error:
            raise UserError(
                f"{name}: {MEMBER}, line {reader.line_num}: elevation {row['elevation']!r} is no number; "
                "pin another release in conf/data"
            ) from error
        yield row
    if empty:
        raise UserError(f"{name}: {MEMBER} holds no airport; pin a release that holds data in conf/data")
