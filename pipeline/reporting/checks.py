"""Condenses what `make test`, or `make soak`, left in build/ into reports/checks.json, or soak.json."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from pipeline.config import ROOT, UserError
from pipeline.evaluation.environment import provenance

ATTENTION = (
    "test_tree",
    "test_knowledge",
    "test_beside",
    "test_vector",
    "test_states",
    "test_fact_attention",
    "test_invariants",
)
"""Test modules that hold the attention family to its formulas."""

UPDATES = (
    "test_conflicts",
    "test_dates",
    "test_as_of",
    "test_dated_journal",
    "test_any_dates",
    "test_any_changes",
    "test_lines",
    "test_durable",
)
"""Test modules that say what becomes of conflicting, repeated, malformed, oversized and hostile updates."""

HOSTILE = ("test_any_requests", "test_guard", "test_no_pickle", "test_hostile_texts")
"""Test modules that send the server what it has to refuse."""

PROCESSES = ("test_sharing", "test_together")
"""Test modules that hold several processes to one, and a run that lost one to a run that lost none."""

CLUSTER = ("test_on_ray", "test_sharded", "test_copies")
"""Test modules that hold stages over Ray and memories in shards to their like here, and kill processes."""

GROUPS = {
    "bad_inputs": ("test_bad_input",),
    "dvc": ("test_dvc",),
    "sweeps": ("test_sweeps",),
    "attention": ATTENTION,
    "updates": UPDATES,
    "chat": ("test_chat",),
    "page": ("test_page_browser",),
    "hostile": HOSTILE,
    "processes": PROCESSES,
    "cluster": CLUSTER,
    "launchers": ("test_launchers",),
    "acceptance": ("test_acceptance",),
}
"""Test modules whose passed tests are counted by themselves."""


def condensed(junit: Path, coverage: Path) -> dict[str, Any]:
    """Return how many tests passed, how long they took, and the branch coverage.

    Args:
        junit: pytest's JUnit XML.
        coverage: coverage's JSON.

    Raises:
        UserError: a file is missing or damaged.
    """
    try:
        suites = ElementTree.parse(junit).getroot().iter("testsuite")
        totals = json.loads(coverage.read_text(encoding="utf-8"))["totals"]
        suite = next(suites)
        cases = [case for case in suite.iter("testcase") if not len(case)]
    except (OSError, ElementTree.ParseError, ValueError, KeyError, StopIteration) as error:
        raise UserError(f"{junit} or {coverage}: can't be read ({error}); run `make test` first") from error
    modules = [case.get("classname", "").split(".")[-1] for case in cases]
    return {
        "tests": int(suite.get("tests", 0)),
        "passed": len(cases),
        "failed": int(suite.get("failures", 0)) + int(suite.get("errors", 0)),
        "skipped": int(suite.get("skipped", 0)),
        "seconds": round(float(suite.get("time", 0))),
        "branch_coverage_percent": round(float(totals["percent_covered"]), 1),
        **{f"{group}_passed": sum(name in own for name in modules) for group, own in GROUPS.items()},
    }


def soaked(junit: Path) -> dict[str, Any]:
    """Return how many of the long tests passed, and what they recorded of themselves.

    Args:
        junit: pytest's JUnit XML.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        suite = next(ElementTree.parse(junit).getroot().iter("testsuite"))
    except (OSError, ElementTree.ParseError, StopIteration) as error:
        raise UserError(f"{junit}: can't be read ({error}); run `make soak` first") from error
    cases = list(suite.iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    told = {
        entry.get("name", ""): round(float(entry.get("value", 0)))
        for case in cases
        for entry in case.iter("property")
        if case not in failed
    }
    passed = len(cases) - len(failed) - skipped
    return {"passed": passed, "failed": len(failed), "skipped": skipped, **told}


def main(arguments: Sequence[str]) -> None:
    """Write reports/checks.json, or, with `soak`, reports/soak.json."""
    build = ROOT / "build"
    if list(arguments) == ["soak"]:
        name, command, found = "soak", "make soak", soaked(build / "soak.xml")
    else:
        name, command = "checks", "make test"
        found = condensed(build / "junit.xml", build / "coverage.json")
    after = " ".join(["python -m pipeline.reporting.checks", *arguments])
    report = provenance(f"{command} && {after}") | {"figures": found}
    text = json.dumps(report, indent=1) + "\n"
    (ROOT / "reports" / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
