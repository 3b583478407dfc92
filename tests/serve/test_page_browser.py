"""The page in a browser: ask, edit, ask again, delete, ask again; by mouse, by keyboard, on a phone."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.serve.browsing import ARGUMENTS, CHROMIUM, TOKEN, Site, Tab, running, settings, tab

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytest.importorskip("playwright", reason="the page is looked at through Playwright")
pytestmark = [
    pytest.mark.packages,
    pytest.mark.skipif(not CHROMIUM.is_file(), reason=f"no browser at {CHROMIUM}: apt-get install chromium"),
]

QUESTION = "What is the official language of Germany?"
SLOT = "Germany", "official language"
EVIL = "<img src=x onerror=\"document.title='run'\">"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    from pipeline.serve.service import Service

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIVING_MEMORY_TOKEN", TOKEN)
        service = Service.open(settings(tmp_path_factory.mktemp("served")))
    try:
        with running(service) as url:
            made = Site(url, service)
            made.write("Brazil", "capital", "Salvador", start="1549", end="1763", replace=False)
            made.write("Brazil", "capital", "Rio de Janeiro", start="1763", end="1960", replace=False)
            made.write("Brazil", "capital", "Brasília", start="1960", source="gazette")
            yield made
    finally:
        service.close()


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture
def german(site: Site) -> Site:
    """The site, whose memory says that German is spoken in Germany."""
    site.delete(*SLOT)
    site.write(*SLOT, "German")
    return site


def test_an_edit_is_answered_with_and_a_deletion_refused(browser: "Browser", german: Site) -> None:
    with tab(browser, german.url) as shown:
        page = shown.page
        shown.ask(QUESTION)
        assert (shown.answer, shown.read) == ("German", ["The official language of Germany is German."])

        page.locator("#read .fact").click()
        shown.fill("Official language", "Sorbian")
        page.get_by_role("button", name="Save").click()
        shown.fill("Write token", TOKEN)
        page.get_by_role("button", name="Use it").click()
        shown.noticed("Written in")
        assert (
            "No longer: The official language of Germany is German." in page.locator("#notice").inner_text()
        )
        page.keyboard.press("Enter")
        shown.answered()
        assert (shown.answer, shown.read) == ("Sorbian", ["The official language of Germany is Sorbian."])
        shown.shoot("light")

        page.locator("#read .fact").click()
        page.get_by_role("button", name="Delete").click()
        shown.noticed("Deleted in")
        page.keyboard.press("Enter")
        shown.answered()
        assert shown.answer == "I don't know."
        assert "No fact in memory answers this" in page.locator("#note").inner_text()
        assert "refused" in (page.locator("#answer").get_attribute("class") or "")
        shown.shoot("refused")


def test_the_same_by_keyboard_alone(browser: "Browser", german: Site) -> None:
    with tab(browser, german.url) as shown:
        page = shown.page
        page.keyboard.type(QUESTION)
        page.keyboard.press("Enter")
        shown.answered()
        assert shown.answer == "German"
        reach(shown, "button.fact")
        page.keyboard.press("Enter")
        page.wait_for_selector("#read form")
        assert focused(shown, "e => e.name") == "tail"
        page.keyboard.type("Danish")
        page.keyboard.press("Enter")
        page.wait_for_selector("#token[open]")
        page.keyboard.type(TOKEN)
        page.keyboard.press("Enter")
        page.wait_for_selector("#notice:not([hidden])")
        page.keyboard.press("Enter")
        shown.answered()
        assert (shown.answer, shown.read) == ("Danish", ["The official language of Germany is Danish."])
        reach(shown, "button.fact")
        page.keyboard.press("Enter")
        page.wait_for_selector("#read form")
        reach(shown, "button.remove")
        page.keyboard.press("Enter")
        shown.noticed("Deleted in")
        page.keyboard.press("Enter")
        shown.answered()
        assert shown.answer == "I don't know."


def test_graph_and_timeline_work_by_keyboard(browser: "Browser", site: Site) -> None:
    with tab(browser, site.url) as shown:
        page = shown.page
        page.keyboard.type("What is the capital of Brazil?")
        page.keyboard.press("Enter")
        shown.answered()
        page.locator("#timeline li").first.wait_for()
        reach(shown, "#timeline button[aria-label*='1763 to 1960']")
        page.keyboard.press("Enter")
        page.locator("#asked", has_text="as of 1763").wait_for()
        shown.answered()
        assert shown.answer == "Rio de Janeiro"
        assert focused(shown, "e => e.id") == "answer"
        page.locator(".node", has_text="Rio de Janeiro").wait_for()
        reach(shown, ".node[aria-label^='South America']")
        page.keyboard.press("Space")
        page.locator("#entity", has_text="South America").wait_for()
        assert focused(shown, "e => e.id") == "entity"


def focused(shown: Tab, what: str) -> Any:
    return shown.page.evaluate(f"() => ({what})(document.activeElement)")


def reach(shown: Tab, wanted: str) -> None:
    """Press Tab until what is wanted has the focus; whatever has it on the way must show so."""
    for _ in range(60):
        shown.page.keyboard.press("Tab")
        if focused(shown, "e => e === document.body"):
            continue
        assert focused(shown, VISIBLE), focused(shown, "e => e.outerHTML")
        if focused(shown, f"e => e.matches({wanted!r})"):
            return
    raise AssertionError(f"{wanted} isn't reached by Tab")


VISIBLE = """e => {
  const style = getComputedStyle(e), drawn = e.querySelector("rect");
  return style.outlineStyle !== "none" || (drawn && getComputedStyle(drawn).strokeWidth === "3px");
}"""


def test_a_change_is_taken_back(browser: "Browser", german: Site) -> None:
    before = values(german)
    with tab(browser, german.url) as shown:
        page = shown.page
        shown.ask(QUESTION)
        shown.trust()
        for change in ("Save", "Delete"):
            page.locator("#read .fact").click()
            shown.fill("Official language", "Sorbian")
            page.get_by_role("button", name=change).click()
            shown.noticed("Written in" if change == "Save" else "Deleted in")
            assert values(german) != before
            page.get_by_role("button", name="Undo").click()
            shown.noticed("Taken back.")
            assert values(german) == before
            page.keyboard.press("Enter")
            shown.answered()
            assert shown.answer == "German"


def values(site: Site) -> list[tuple[str, str, str]]:
    facts = httpx.get(f"{site.url}facts", params={"head": SLOT[0], "relation": SLOT[1]}).json()["facts"]
    if not facts:
        return []
    told = httpx.get(f"{site.url}facts/{facts[0]['id']}/history").json()["values"]
    return [(value["tail"]["label"], value["start"], value["end"]) for value in told]


def test_a_new_fact_is_told_and_its_head_completed(browser: "Browser", site: Site) -> None:
    with tab(browser, site.url) as shown:
        page = shown.page
        shown.trust()
        page.get_by_text("Tell it a new fact").click()
        page.get_by_label("About").press_sequentially("austral")
        page.wait_for_selector("#new option[value='Australia']", state="attached")
        page.get_by_label("About").fill("Australia")
        page.get_by_label("Relation").fill("currency")
        page.get_by_role("button", name="Write it").click()
        assert page.get_by_text("This can't be empty.").is_visible()
        page.get_by_label("Is", exact=True).fill("Australian dollar")
        page.locator("#new").get_by_label("Since").fill("soon")
        page.get_by_role("button", name="Write it").click()
        assert page.get_by_text("Write a date as 2020").is_visible()
        page.locator("#new").get_by_label("Since").fill("1966")
        page.get_by_role("button", name="Write it").click()
        shown.noticed("Written in")
        shown.ask("What is the currency of Australia?")
        assert shown.answer == "Australian dollar"
        assert "since 1966" in page.locator("#read").inner_text()


def test_the_past_is_asked(browser: "Browser", site: Site) -> None:
    with tab(browser, site.url) as shown:
        page = shown.page
        shown.ask("What is the capital of Brazil?")
        assert shown.answer == "Brasília"
        bars = page.locator("#timeline li")
        assert [text.split("\n")[0] for text in bars.all_inner_texts()] == [
            "Salvador",
            "Rio de Janeiro",
            "Brasília",
        ]
        assert page.locator("#timeline .holds").inner_text().startswith("Brasília")
        bars.nth(1).get_by_role("button").click()
        page.locator("#asked", has_text="as of 1763").wait_for()
        shown.answered()
        assert shown.answer == "Rio de Janeiro"
        page.locator("#timeline .holds", has_text="Rio de Janeiro").wait_for()
        shown.shoot("past")


def test_an_answer_that_no_fact_gives_is_called_doubtful(browser: "Browser", site: Site) -> None:
    """The shipped adapter answers some questions whose fact is missing; the page says how sure it is."""
    site.delete("Brazil", "continent")
    try:
        with tab(browser, site.url) as shown:
            shown.ask("What is the continent of Brazil?")
            note = shown.page.locator("#note").inner_text()
            assert note.startswith(("Doubtful: most likely no fact answers this.", "No fact in memory"))
    finally:
        site.write("Brazil", "continent", "South America")


def test_what_a_fact_says_is_text_and_runs_nothing(browser: "Browser", site: Site) -> None:
    site.write(EVIL, "capital", f"{EVIL} City", source=EVIL)
    site.write("Germany", EVIL, "Bonn")
    try:
        with tab(browser, site.url) as shown:
            page = shown.page
            shown.ask("What is the capital of Germany?")
            node = page.locator(".node", has_text="Germany").first
            node.click()
            page.locator("#entity-facts", has_text=EVIL).wait_for()
            shown.ask(f"What is the capital of {EVIL}?")
            assert any(EVIL in text for text in page.locator("#read, #entity-facts").all_inner_texts())
            assert page.locator("main img, main script").count() == 0
            assert page.title() == "Living memory"
    finally:
        site.delete("Germany", EVIL)
        site.delete(EVIL, "capital")


def test_the_policy_is_in_force(browser: "Browser", site: Site) -> None:
    with tab(browser, site.url) as shown:
        tried = """() => {
            const found = [];
            document.addEventListener("securitypolicyviolation", e => found.push(e.effectiveDirective));
            try { document.body.innerHTML = "<b>x</b>"; } catch { found.push("thrown"); }
            const picture = document.createElement("img");
            picture.src = "https://example.org/x.png";
            document.body.append(picture);
            return new Promise(done => setTimeout(() => done(found), 300));
        }"""
        found = shown.page.evaluate(tried)
        assert {"thrown", "require-trusted-types-for", "img-src"} <= set(found)
        assert shown.page.title() == "Living memory"
        assert all("Content Security Policy" in text or "TrustedHTML" in text for text in shown.problems)
        shown.problems.clear()


def test_a_change_beside_another_one_is_told(browser: "Browser", german: Site) -> None:
    with tab(browser, german.url) as shown:
        page = shown.page
        shown.trust()
        shown.ask(QUESTION)
        page.locator("#read .fact").click()
        shown.fill("Official language", "Sorbian")
        german.write(*SLOT, "Low German")
        page.get_by_role("button", name="Save").click()
        page.get_by_text("Someone else changed this").wait_for()
        assert page.locator("#read input[name=tail]").input_value() == "Low German"
        assert any("412" in text for text in shown.problems)
        shown.problems.clear()


def test_a_wrong_token_is_asked_for_again(browser: "Browser", german: Site) -> None:
    with tab(browser, german.url) as shown:
        page = shown.page
        shown.ask(QUESTION)
        page.locator("#read .fact").click()
        page.get_by_role("button", name="Delete").click()
        shown.fill("Write token", "not this one at all")
        page.get_by_role("button", name="Use it").click()
        page.get_by_text("The server didn't take that one.").wait_for()
        assert page.evaluate("() => sessionStorage.length + localStorage.length") == 0
        page.locator("#token").get_by_role("button", name="Cancel").click()
        assert page.locator("#read form").is_visible()
        assert values(german) != []
        assert all("401" in text for text in shown.problems)
        shown.problems.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(browser: "Browser", site: Site, scheme: str) -> None:
    size = {"width": 360, "height": 740}
    how = {"viewport": size, "color_scheme": scheme, "has_touch": True, "reduced_motion": "reduce"}
    with tab(browser, site.url, **how) as shown:
        page = shown.page
        shown.ask("What is the capital of Brazil?")
        page.locator(".node").first.tap()
        page.locator("#entity:not([hidden])").wait_for()
        page.locator("#read .fact").first.tap()
        page.wait_for_selector("#read form")
        assert page.evaluate("() => document.documentElement.scrollWidth") <= size["width"]
        small = """() => [...document.querySelectorAll("button, input, summary, .node")]
            .filter(e => e.checkVisibility()).map(e => e.getBoundingClientRect())
            .filter(({width, height}) => width < 24 || height < 24).length"""
        assert page.evaluate(small) == 0
        assert page.evaluate(OVERLAPS) == []
        assert page.evaluate("() => document.getAnimations().length") == 0
        light = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        assert (light == "rgb(251, 251, 250)") == (scheme == "light")
        page.keyboard.press("Escape")
        if scheme == "light":
            shown.shoot("phone")


OVERLAPS = """() => {
  const places = [...document.querySelectorAll("#graph .node rect, #graph text.small")]
    .map(e => [e.parentNode.textContent, e.getBoundingClientRect()]);
  return places.flatMap(([text, a], at) => places.slice(at + 1).filter(([, b]) =>
    a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom)
    .map(([other]) => [text, other]));
}"""


def test_it_is_dark_where_that_is_preferred(browser: "Browser", site: Site) -> None:
    with tab(browser, site.url, color_scheme="dark") as shown:
        shown.ask("What is the capital of France?")
        assert shown.answer == "Paris"
        assert shown.page.evaluate(OVERLAPS) == []
        shown.shoot("dark")


def test_everything_has_a_name(browser: "Browser", site: Site) -> None:
    """What can be pressed or filled in is told by a screen reader, and the answer when it is there."""
    with tab(browser, site.url) as shown:
        page = shown.page
        shown.ask("What is the capital of France?")
        page.locator("#read .fact").first.click()
        page.wait_for_selector("#read form")
        unnamed = """() => [...document.querySelectorAll("input, button, [role=button], section")]
            .filter(e => e.checkVisibility())
            .filter(e => !(e.labels?.length || e.textContent.trim() || e.getAttribute("aria-label")))
            .map(e => e.outerHTML)"""
        assert page.evaluate(unnamed) == []
        assert page.locator("[role=status]").inner_text().startswith("Paris")
        assert page.evaluate("() => document.documentElement.lang") == "en"
        levels = page.evaluate("() => [...document.querySelectorAll('h1, h2')].map(e => e.tagName)")
        assert levels[0] == "H1"
        assert levels.count("H1") == 1
