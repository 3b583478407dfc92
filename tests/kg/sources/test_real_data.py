"""The sources on the real files: sizes that their publishers or the data's README state."""

from collections import Counter
from dataclasses import replace

import pytest
import yaml

from pipeline.config import CONF, section
from pipeline.kg.sources import Extract, Source
from pipeline.kg.sources.codex import Codex
from pipeline.kg.sources.files import data_root
from pipeline.kg.sources.questions.entityquestions import EntityQuestions
from pipeline.kg.sources.questions.kamel import Kamel
from pipeline.kg.sources.questions.pat import Pat
from pipeline.kg.sources.questions.templama import TempLama
from pipeline.kg.sources.temporalwiki import TemporalWiki
from pipeline.kg.sources.wikidata5m import Wikidata5M
from pipeline.kg.sources.wikidata_slice import WikidataSlice

SOURCES = Codex | EntityQuestions | Kamel | Pat | TempLama | TemporalWiki | Wikidata5M | WikidataSlice
CHOICES = [
    "codex-m",
    "codex-s",
    "entityquestions",
    "kamel",
    "pat",
    "templama",
    "temporalwiki",
    "temporalwiki-monthly",
    "wikidata5m",
    "wikidata_slice",
    "wikidata_slice-free",
]


def chosen(choice: str) -> Source:
    values = yaml.safe_load((CONF / "data" / f"{choice}.yaml").read_text(encoding="utf-8"))
    return section(SOURCES, values, "data")


def slots(extract: Extract) -> int:
    return len({(fact.head, fact.relation) for fact in extract.snapshots[-1][1]})


@pytest.fixture
def present(request: pytest.FixtureRequest) -> str:
    name = request.param
    if not any((data_root() / f"{name}{end}").exists() for end in ("", ".tar.gz", ".zip")):
        pytest.skip(f"KG_DATA_ROOT ({data_root()}) has no {name}")
    return name


def needs(name: str):
    def mark(test):
        return pytest.mark.real_data(pytest.mark.parametrize("present", [name], indirect=True)(test))

    return mark


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_is_a_source(choice: str) -> None:
    source = chosen(choice)
    assert hasattr(source, "extract") or hasattr(source, "write")


@needs("temporalwiki_probes")
def test_temporalwiki(present: str) -> None:
    extract = chosen("temporalwiki").extract()
    assert (slots(extract), len(extract.entities), len(extract.relations)) == (35_115, 49_839, 537)
    assert len(extract.snapshots) == 1
    monthly = chosen("temporalwiki-monthly").extract()
    assert [len(facts) for _, facts in monthly.snapshots] == [8_711, 18_024, 26_687, 35_906]


@needs("wikidata_slice")
def test_wikidata_slice(present: str) -> None:
    extract = chosen("wikidata_slice").extract()
    ((_, facts),) = extract.snapshots
    assert (len(facts), slots(extract)) == (603_696, 357_357)
    assert (len(extract.entities), len(extract.relations)) == (206_135, 407)
    asked = Counter(question.split for question in extract.questions)
    assert asked == {"train": 14_885, "valid": 2_209, "test": 4_294}
    assert extract.counts["simplequestions_test_slot_absent"] == 2


@pytest.mark.soak
@needs("wikidata_slice")
def test_the_free_slice_holds_nothing_of_the_excluded_sources(present: str) -> None:
    source = replace(chosen("wikidata_slice-free"), questions=[])
    extract = source.extract()
    excluded = set(source.exclude_sources)
    facts = extract.snapshots[0][1]
    assert len(facts) == 480_009
    assert all(set(fact.source.split(",")) - excluded for fact in facts)


@needs("codex")
@pytest.mark.parametrize(
    ("size", "expected"), [("s", (32_888, 1_827, 1_828)), ("m", (185_584, 10_310, 10_311))]
)
def test_codex(present: str, size: str, expected: tuple[int, int, int]) -> None:
    extract = replace(chosen(f"codex-{size}"), labels="").extract()
    sizes = Counter(fact.source for fact in extract.snapshots[0][1])
    assert (sizes["train"], sizes["valid"], sizes["test"]) == expected


@needs("pat_questions")
def test_pat(present: str) -> None:
    extract = chosen("pat").extract()
    assert [len(facts) for _, facts in extract.snapshots] == [6_440, 7_006, 7_210]
    assert {len(question.slots) for question in extract.questions} == {1, 2}


@needs("templama_edits")
def test_templama(present: str) -> None:
    extract = chosen("templama").extract()
    assert [len(facts) for _, facts in extract.snapshots] == [928, 928]
    assert extract.counts["slots_that_end_as_they_began"] == 10


@pytest.mark.soak
@needs("entityquestions")
def test_entityquestions(present: str) -> None:
    assert len(chosen("entityquestions").extract().questions) == 220_703


@pytest.mark.soak
@needs("kamel")
def test_kamel(present: str) -> None:
    extract = replace(chosen("kamel"), labels="").extract()
    assert len(extract.questions) == 327_600
    assert len(extract.relations) == 234
