"""Each number that README.md states by itself stands in a JSON file that the same paragraph links to."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import ROOT
from tests.reporting.test_report import leaves

STATED = {
    r"Python 3\.11": "a requirement",
    r"8 GB of memory": "a requirement",
    r"95 % intervals": "how intervals are taken",
    r"N = 200, k = 5": "a setting of the paper's",
    r"1,500 steps": "a setting",
    r"at most 0\.5 % of the": "a setting: method.refuse_answerable",
}
"""Numbers that nobody measured."""

NUMBER = re.compile(r"(?<![\w.,-])(\d[\d,]*(?:\.\d+)?)(?![\w-])(?=(?:\s(?:to|and)\s\d[\d.]*)?(\s?%)?)")
LINK = re.compile(r"\[([^\]]*)\]\(([^)]+)\)")


def paragraphs(page: str) -> list[str]:
    """Return rows, list items and paragraphs, without code, licences and the blocks made of JSON files."""
    text = re.sub(r"<!-- (\w+):begin -->.*?<!-- \1:end -->", "", page, flags=re.DOTALL)
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL).partition("## Licences")[0]
    text = re.sub(r"`[^`]*`", "", text)
    return re.split(r"\n\s*\n|\n(?=[-|])", text)


def untraced(paragraph: str, root: Path) -> list[str]:
    """Return the numbers of a paragraph that stand in none of the JSON files that it links to."""
    files = [root / target for _, target in LINK.findall(paragraph)]
    found = [file for path in files for file in ([path] if path.suffix == ".json" else path.rglob("*.json"))]
    held = [leaf for file in found for leaf in leaves(json.loads(file.read_text(encoding="utf-8")))]
    text = LINK.sub(r"\1", paragraph)
    for stated in STATED:
        text = re.sub(stated, "", text)
    return [word for word, percent in NUMBER.findall(text) if not _stands(word, bool(percent), held)]


def _stands(word: str, percent: bool, held: list[float]) -> bool:
    decimals = len(word.partition(".")[2])
    wanted = float(word.replace(",", ""))
    return any(round(value * (100 if percent else 1), decimals) == wanted for value in held)


README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("paragraph", [text for text in paragraphs(README) if re.search(r"\d", text)])
def test_every_number_of_the_readme_stands_in_a_file_that_it_links_to(paragraph: str) -> None:
    missing = untraced(paragraph, ROOT)
    assert not missing, (
        f"{missing} of README.md stand in no JSON file linked in the same paragraph: link the file, or add "
        f"the number to STATED if it was not measured"
    )


def test_what_is_said_not_to_be_measured_is_still_there() -> None:
    for stated in STATED:
        assert re.search(stated, README), f"{stated} is no longer in README.md: take it out of STATED"


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("It takes 13.5 minutes ([a](a.json)).", []),
        ("It takes 13.6 minutes ([a](a.json)).", ["13.6"]),
        ("It takes 13.5 minutes.", ["13.5"]),
        ("93 and 95 % ([all](.)) of 1,234", []),
        ("93 and 96 % ([all](.))", ["96"]),
        ("93 % of ROME-2 and 94 % [here](a.json)", ["94"]),
    ],
)
def test_a_number_without_its_file_is_found(text: str, missing: list[str], tmp_path: Path) -> None:
    told: dict[str, Any] = {"minutes": 13.52, "of": [{"em": 0.9333}, {"em": 0.95}], "n": 1234, "yes": True}
    (tmp_path / "a.json").write_text(json.dumps(told), encoding="utf-8")
    assert untraced(text, tmp_path) == missing
