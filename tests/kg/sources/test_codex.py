from dataclasses import replace

import pytest

from pipeline.config import UserError
from pipeline.kg.sources.codex import Codex

CODEX = Codex(folder="codex", size="s", labels="slice")


@pytest.fixture(autouse=True)
def codex(write) -> None:
    write("codex/codex-s/train.txt", "Q1\tP17\tQ2\nQ3\tP17\tQ2\nQ2\tP47\tQ2\n")
    write("codex/codex-s/valid.txt", "Q4\tP17\tQ2\n")
    write("codex/codex-s/test.txt", "Q1\tP17\tQ2\nQ1\tP47\tQ4\n")
    write(
        "codex/en/relations.json",
        '{"P17": {"label": "country"}, "P47": {"label": "border"}, "P1": {"label": "x"}}',
    )
    write("slice/entities.tsv.gz", "qid\tlabel\tdescription\nQ1\tLyon\tcity\nQ2\tFrance\t\nQ9\tother\t\n")


def test_the_published_split_is_the_source_of_a_fact() -> None:
    extract = CODEX.extract()
    ((_, facts),) = extract.snapshots
    assert [fact.source for fact in facts] == ["train", "train", "train", "valid", "test"]
    assert extract.relations == {"P17": "country", "P47": "border"}
    assert {key: entity.label for key, entity in extract.entities.items()} == {
        "Q1": "Lyon",
        "Q2": "France",
        "Q3": "Q3",
        "Q4": "Q4",
    }
    assert extract.entities["Q1"].description == "city"
    expected = {"rows_train": 3, "rows_valid": 1, "rows_test": 2, "facts_repeated": 1, "self_loops": 1}
    assert extract.counts == {**expected, "entities_without_label": 2}


def test_keys_serve_as_labels_without_the_slice() -> None:
    assert replace(CODEX, labels="").extract().counts["entities_without_label"] == 4
    with pytest.raises(UserError, match=r"put the slice of Wikidata there, or leave data.labels empty"):
        replace(CODEX, labels="nowhere").extract()


def test_bad_files_are_named(write, root) -> None:
    write("codex/codex-s/valid.txt", "Q1\tP17\tQ2\nQ1\tP99\tQ2\n")
    with pytest.raises(UserError, match=r"valid.txt, line 2: P99 is not in en/relations.json; add its label"):
        CODEX.extract()
    write("codex/en/relations.json", '["P17"]')
    with pytest.raises(UserError, match=r"relations.json: must hold .*fetch it again"):
        CODEX.extract()
    (root / "codex" / "en" / "relations.json").unlink()
    with pytest.raises(UserError, match=r"relations.json: not found; .* put it there"):
        CODEX.extract()
    write("codex/en/relations.json", "{}")
    with pytest.raises(UserError, match=r"train.txt: not found"):
        replace(CODEX, size="m").extract()


def test_the_size_is_checked() -> None:
    with pytest.raises(ValueError, match=r"data.size must be one of s, m, l, not 'xl'"):
        replace(CODEX, size="xl")
