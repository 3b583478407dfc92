import json

import pytest

from pipeline.config import UserError
from pipeline.reporting.checks import condensed, soaked

XML = """<testsuites><testsuite tests="4" failures="1" errors="0" skipped="1" time="61.4">
<testcase classname="tests.test_bad_input" name="a"/><testcase classname="tests.test_sweeps" name="b"/>
<testcase classname="tests.memory.test_conflicts" name="f"/>
<testcase classname="tests.model.test_beside" name="e"/>
<testcase classname="tests.serve.test_chat" name="g"/>
<testcase classname="tests.serve.test_page_browser" name="h"/>
<testcase classname="tests.serve.test_guard" name="i"/><testcase classname="tests.serve.test_guard" name="j"/>
<testcase classname="tests.model.test_sharing" name="k"/><testcase classname="tests.test_together" name="l"/>
<testcase classname="tests.test_launchers" name="m"/>
<testcase classname="tests.cluster.test_copies" name="n"/>
<testcase classname="tests.test_x" name="c"><failure>no</failure></testcase>
<testcase classname="tests.test_bad_input" name="d"><skipped/></testcase></testsuite></testsuites>"""


def test_counts_time_and_coverage_are_taken_over(tmp_path):
    (tmp_path / "junit.xml").write_text(XML)
    (tmp_path / "coverage.json").write_text(json.dumps({"totals": {"percent_covered": 93.456}}))
    assert condensed(tmp_path / "junit.xml", tmp_path / "coverage.json") == {
        "tests": 4,
        "passed": 12,
        "failed": 1,
        "skipped": 1,
        "seconds": 61,
        "branch_coverage_percent": 93.5,
        "bad_inputs_passed": 1,
        "dvc_passed": 0,
        "sweeps_passed": 1,
        "attention_passed": 1,
        "updates_passed": 1,
        "chat_passed": 1,
        "page_passed": 1,
        "hostile_passed": 2,
        "processes_passed": 2,
        "cluster_passed": 1,
        "launchers_passed": 1,
        "acceptance_passed": 0,
    }


@pytest.mark.parametrize("xml", [None, "<testsuites/>", "<broken"])
def test_what_is_missing_or_damaged_is_named_with_the_remedy(xml, tmp_path):
    (tmp_path / "coverage.json").write_text('{"totals": {"percent_covered": 1}}')
    if xml:
        (tmp_path / "junit.xml").write_text(xml)
    with pytest.raises(UserError, match=r"junit.xml .* run `make test` first"):
        condensed(tmp_path / "junit.xml", tmp_path / "coverage.json")


SOAK = """<testsuites><testsuite tests="4">
<testcase name="a"><properties><property name="kills" value="1000"/></properties></testcase>
<testcase name="b"><properties><property name="seconds" value="6.0"/></properties><failure/></testcase>
<testcase name="c"><skipped/></testcase><testcase name="d"/></testsuite></testsuites>"""


def test_what_long_tests_record_is_taken_over_where_they_passed(tmp_path):
    (tmp_path / "soak.xml").write_text(SOAK)
    assert soaked(tmp_path / "soak.xml") == {"passed": 2, "failed": 1, "skipped": 1, "kills": 1000}
    with pytest.raises(UserError, match=r"absent.xml.* run `make soak` first"):
        soaked(tmp_path / "absent.xml")
