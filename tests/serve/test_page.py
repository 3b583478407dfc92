"""What the page is served with: its files and no others, the policy, and the state of the server."""

import pytest

from pipeline.serve.page import KINDS, POLICY, files
from tests.serve.served import Server, fails


def test_each_file_has_its_type_and_the_policy(calm: Server) -> None:
    assert {"index.html", "page.css", "page.js", "icon.svg"} <= set(files())
    for place in ("/", *(f"/web/{name}" for name in files())):
        response = calm("GET", place)
        assert response.status_code == 200
        ending = "." + ("html" if place == "/" else place.rpartition(".")[2])
        assert response.headers["content-type"] == KINDS[ending]
        assert response.headers["content-security-policy"] == POLICY
        assert response.headers["x-content-type-options"] == "nosniff"


def test_the_policy_lets_nothing_inline_run_and_nothing_foreign_in() -> None:
    rules = dict(rule.split(" ", 1) for rule in POLICY.split("; "))
    assert rules["default-src"] == "'none'"
    assert {rules[kind] for kind in rules if kind.endswith("-src")} == {"'none'", "'self'"}
    assert rules["require-trusted-types-for"] == "'script'"
    assert rules["trusted-types"] == rules["frame-ancestors"] == rules["base-uri"] == "'none'"


def test_the_page_has_nothing_inline_and_nothing_from_elsewhere(calm: Server) -> None:
    text = calm("GET", "/").text
    for forbidden in ("<style", "style=", "onclick", "onload", "javascript:", "http:", "https:", "//"):
        assert forbidden not in text
    assert text.count("<script") == text.count('<script type="module" src="web/')


def test_a_browser_that_has_a_file_is_told_so(calm: Server) -> None:
    first = calm("GET", "/web/page.js")
    again = calm("GET", "/web/page.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])


@pytest.mark.parametrize(
    "name", ["nothing.js", "..%2Fpage.py", "%2e%2e%2Fpage.py", "page.py", "PAGE.JS", "%00"]
)
def test_no_other_file_is_served(calm: Server, name: str) -> None:
    response = calm("GET", f"/web/{name}")
    assert response.status_code == 404
    assert "def " not in response.text


def test_an_unknown_file_is_refused_in_the_form_of_all_errors(calm: Server) -> None:
    fails(calm("GET", "/web/nothing.js"), 404, "unknown_file")


def test_the_status_is_that_of_the_memory(server: Server) -> None:
    before = server("GET", "/status").json()
    assert before["facts"] == len(server.service.memory)
    assert before["resident_bytes"] > 1 << 20
    assert before["running"] == before["waiting"] == 0
    server.service.editor.upsert(["France | language | French"], True)
    after = server("GET", "/status").json()
    assert after["facts"] == before["facts"] + 1
    assert after["version"] > before["version"]
