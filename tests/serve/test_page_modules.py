"""The page's logic, run by the Node that comes with Playwright; and the contrast of its colours."""

import re
import subprocess
from itertools import product
from pathlib import Path

import pytest

from pipeline.config import ROOT

PAGE = ROOT / "pipeline" / "serve" / "web"
TEXT = ("ink", "soft", "accent", "bad")
GROUNDS = ("page", "panel", "mark")


def test_the_logic_of_the_page_holds() -> None:
    driver = pytest.importorskip("playwright._impl._driver", reason="Playwright brings the Node to run it")
    node, _ = driver.compute_driver_executable()
    tests = Path(__file__).with_name("page.test.mjs")
    done = subprocess.run([node, "--test", tests], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"pass (\d+)", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 30


@pytest.mark.parametrize("form", ["light", "dark"])
def test_the_colours_can_be_told_apart(form: str) -> None:
    """WCAG 2.2 AA: 4.5 : 1 for text (1.4.3), 3 : 1 for borders of inputs, bars and focus (1.4.11)."""
    colours = _colours(form)
    wanted = [(text, ground, 4.5) for text, ground in product(TEXT, GROUNDS)]
    wanted += [("on-accent", "accent", 4.5)]
    wanted += [(mark, ground, 3.0) for mark, ground in product(("edge", "accent"), GROUNDS)]
    wanted += [("accent", "line", 3.0)]
    found = {(a, b): contrast(colours[a], colours[b]) for a, b, _ in wanted}
    assert {
        pair: found[pair] for *pair_, least in wanted if found[pair := (pair_[0], pair_[1])] < least
    } == {}


def test_contrast_is_that_of_wcag() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


def test_every_colour_is_one_of_the_named() -> None:
    """Else one could slip past the check of contrast."""
    rules = re.sub(r":root \{.*?\}", "", _style(), flags=re.S)
    assert re.findall(r"#[0-9a-f]{3,8}\b", rules) == []
    assert {name for name in re.findall(r"(?<!-)color: ([^;]+);", rules)} <= {
        "var(--ink)", "var(--soft)", "var(--accent)", "var(--bad)", "var(--on-accent)"
    }  # fmt: skip


def contrast(one: str, other: str) -> float:
    """Return the ratio of contrast of two colours, (L₁ + 0.05) / (L₂ + 0.05) with L₁ ≥ L₂ (WCAG 2.2)."""
    light, dark = sorted(map(_luminance, (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _style() -> str:
    return (PAGE / "page.css").read_text(encoding="utf-8")


def _colours(form: str) -> dict[str, str]:
    light, dark = re.findall(r":root \{(.*?)\}", _style(), flags=re.S)
    found = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", dark if form == "dark" else light))
    assert len(found) == 10
    return found
