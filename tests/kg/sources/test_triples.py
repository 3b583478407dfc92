import pytest

from pipeline.config import UserError
from pipeline.ingest import ingest
from pipeline.kg.facts import Graph
from pipeline.kg.sources import Triple
from pipeline.kg.sources.triples import Triples, read_triples
from pipeline.kg.splits import Splits
from pipeline.mapping import Local

MINE = Triples(folder="mine", snapshots="none")
FACTS = "Aland\tcapital\tPariston\nBorland\tcapital\tLyonia\n"


def facts(source):
    return [(t.head, t.relation, t.tail) for _, triples in source.extract().snapshots for t in triples]


def test_a_file_without_a_header_holds_facts_from_its_first_line(write):
    path = write("mine/a.tsv", FACTS)
    assert facts(MINE) == [("Aland", "capital", "Pariston"), ("Borland", "capital", "Lyonia")]
    assert facts(Triples(folder=str(path), snapshots="none")) == facts(MINE)
    extract = MINE.extract()
    assert extract.entities["Aland"].label == "Aland"
    assert extract.relations == {"capital": "capital"}
    assert extract.counts == {"files": 1, "rows": 2}


def test_a_header_gives_the_columns_in_any_order(write):
    path = write(
        "mine.tsv.gz",
        "\ufeffTail\tStart\tHead\tremark\tRelation\n"
        "  Pariston \t1999\tA  land\tx\tcapital\n\nLyonia\t\tB\t\tcapital\n",
    )
    assert list(read_triples(path)) == [
        Triple("A land", "capital", "Pariston", "1999", "", "mine.tsv.gz"),
        Triple("B", "capital", "Lyonia", "", "", "mine.tsv.gz"),
    ]


def test_five_columns_without_a_header_are_facts_with_dates(write):
    path = write("mine.txt", "Aland\tcapital\tPariston\t1999\t2001-02-03\n")
    assert list(read_triples(path)) == [
        Triple("Aland", "capital", "Pariston", "1999", "2001-02-03", "mine.txt")
    ]


def test_files_of_a_folder_are_snapshots_or_parts(write):
    write("mine/2024.tsv", FACTS)
    write("mine/2025.txt", FACTS.replace("Pariston", "Nizza"))
    write("mine/notes.md", "not facts")
    assert len(facts(MINE)) == 4
    extract = Triples(folder="mine", snapshots="files").extract()
    assert [(name, rows[0].tail) for name, rows in extract.snapshots] == [
        ("2024.tsv", "Pariston"),
        ("2025.txt", "Nizza"),
    ]


def test_the_stage_makes_tables_of_them(write, tmp_path):
    write("mine/1.tsv", FACTS)
    write("mine/2.tsv", FACTS.replace("Pariston", "Nizza"))
    splits = Splits(test=0.4, valid=0.2, unseen_relations=0.0)
    ingest.run(Triples(folder="mine", snapshots="files"), splits, Local(kept=None), 0, tmp_path / "tables")
    graph = Graph.read(tmp_path / "tables")
    assert graph.changes.num_rows == 2
    assert sorted(graph.labels) == ["Aland", "Borland", "Lyonia", "Nizza", "Pariston"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "mine.tsv: empty; write it again"),
        ("head\trelation\ttail\n", "mine.tsv: holds no fact; write one a line: head TAB relation TAB tail"),
        (FACTS + "Cland\tcapital\n", "mine.tsv, line 3: expected 3 columns .* got 'Cland.tcapital'; correct"),
        (FACTS + "Cland\t\tParis\n", "mine.tsv, line 3: expected 3 columns"),
        ("A\tr\tB\t1999\n", "mine.tsv, line 1: expected 3 columns"),
        ("head;relation;tail\n", "mine.tsv, line 1: .*separated by tabs"),
        ("head\trelation\ttail\tend\nA\tr\tB\n", "line 2: expected 4 columns"),
        (b"A\tr\t\xff\n", "mine.tsv, line 1: not UTF-8"),
    ],
)
def test_bad_rows_are_named(text, words, write):
    with pytest.raises(UserError, match=words):
        list(read_triples(write("mine.tsv", text)))


def test_no_file_names_the_remedy(write, root):
    with pytest.raises(UserError, match=r"mine: not found; put a file .*or set data.folder"):
        MINE.extract()
    write("mine/notes.md", "x")
    with pytest.raises(UserError, match=r"mine: holds no .tsv or .txt file"):
        MINE.extract()
    with pytest.raises(ValueError, match=r"data.snapshots must be one of files, none, not 'daily'"):
        Triples(folder="mine", snapshots="daily")
