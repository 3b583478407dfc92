import pytest

from pipeline.reporting.tables import MISSING, Cell, Table, best_marked, fixed, number, percent


def test_a_table_reads_the_same_in_each_form():
    table = Table(["name", "EM"], [[Cell("a|b"), percent({"mean": 0.5, "low": 0.25, "high": 1.0})]])
    assert table.markdown().splitlines()[2] == "| a\\|b | 50.0 [25.0, 100.0] |"
    assert table.plain().splitlines()[1] == "a|b   50.0 [25.0, 100.0]"
    assert '<td class="number" data-value="0.5">50.0 <small>[25.0, 100.0]</small></td>' in table.html()


def test_long_names_may_be_broken_where_they_have_parts():
    text = Table(["name"], [[Cell("ours:memory.k=3,memory.N=20 <b>")], [Cell("a:b")]]).html()
    assert "<td>ours:<wbr>memory.k=<wbr>3,<wbr>memory.N=<wbr>20 &lt;b&gt;</td>" in text
    assert "<td>a:b</td>" in text


def test_a_row_must_fit_the_header():
    with pytest.raises(ValueError, match="1 cells under 2 headers"):
        Table(["a", "b"], [[MISSING]])


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (number(1234567), "1,234,567"),
        (number(0.12345), "0.123"),
        (number(None), "—"),
        (number(True), "True"),
        (fixed(0.00004), "< 0.001"),
        (fixed(0.0), "0.000"),
        (fixed(None), "—"),
        (percent(None), "—"),
    ],
)
def test_numbers_are_shown_for_people(cell, text):
    assert cell.text == text


def test_the_best_is_marked_unless_all_are_equal():
    assert [cell.best for cell in best_marked([number(1), MISSING, number(2), number(2)])] == [
        False,
        False,
        True,
        True,
    ]
    assert not any(cell.best for cell in best_marked([number(1), number(1)]))
