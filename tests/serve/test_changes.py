import pytest

from pipeline.config import UserError
from pipeline.memory.statements import LONGEST, parse
from pipeline.serve.changes import relation_labels


def test_a_statement_has_three_parts():
    assert parse(" Aland|official  language | Alandish ") == ("Aland", "official language", "Alandish")


@pytest.mark.parametrize("statement", ["", "Aland", "Aland | capital", "A | b | c | d", "A | | c", "|||"])
def test_another_form_is_shown_what_is_expected(statement):
    with pytest.raises(UserError, match=r"expected Head \| relation \| Tail, got .*; write \"France"):
        parse(statement)


def test_a_name_has_an_end():
    with pytest.raises(UserError, match=r"301 characters, but a name has at most 300; shorten it"):
        parse(f"A | b | {'x' * (LONGEST + 1)}")


def test_an_upsert_replaces_the_facts_of_its_slot_at_once(session):
    change = session.upsert("aland | CAPITAL | Nowhere", "New Land | capital | Aland City")
    assert change.written == ["The capital of Aland is Nowhere.", "The capital of New Land is Aland City."]
    assert change.superseded == ["The capital of Aland is Aland City."]
    assert change.notes == ["new entity 'Nowhere'", "new entity 'New Land'"]
    assert change.seconds > 0
    memory = session.system.memory
    assert memory.find("Q0", "P36", "local:Nowhere") is not None
    assert memory.find("Q0", "P36", "C0") is None
    assert session.upsert("Q0 | P36 | C0").superseded == ["The capital of Aland is Nowhere."]


def test_several_tails_of_one_slot_stand_side_by_side(session):
    change = session.upsert("Aland | capital | One", "Aland | capital | Two")
    assert len(change.superseded) == 1
    assert session.upsert("Aland | capital | Three", replace=False).superseded == []
    memory = session.system.memory
    tails = {memory.fact(row).tail_label for row in memory.slot(0, memory.relations.row("P36"))}
    assert {"One", "Two", "Three"} <= tails


def test_a_new_relation_is_told_with_those_like_it(session):
    [note] = session.upsert("Aland | capitol | Aland City").notes
    assert note.startswith("new relation 'capitol'; known ones like it: capital")
    assert session.upsert("Aland | zzz | Aland City").notes == ["new relation 'zzz'"]


def test_a_wrong_statement_leaves_the_memory_as_it_was(session):
    before = len(session.system.memory)
    with pytest.raises(UserError, match="expected Head"):
        session.upsert("Aland | capital | Nowhere", "Borland")
    with pytest.raises(UserError, match="not in the memory"):
        session.delete("Borland | capital | Borland City", "Aland | capital | Nowhere")
    assert len(session.system.memory) == before
    assert "local:Nowhere" not in session.system.memory.entities


def test_deleting_names_what_there_is(session):
    assert session.delete("Aland | capital | Aland City").deleted == ["The capital of Aland is Aland City."]
    with pytest.raises(UserError, match=r"can't be deleted; Aland has .*official language \| "):
        session.delete("Aland | capital | Aland City")
    with pytest.raises(UserError, match=r"can't be deleted; Borland has capital \| Borland City$"):
        session.delete("Borland | capital | Aland City")
    with pytest.raises(UserError, match=r"there is no fact of 'Nowhere'"):
        session.delete("Nowhere | capital | Aland City")


def test_labels_of_relations_come_from_the_tables(world, tmp_path):
    assert relation_labels(world.paths.kv)["official language"] == "P37"
    assert relation_labels(tmp_path) == {}
    (tmp_path / "relations.parquet").write_text("no table")
    with pytest.raises(UserError, match=r"relations\.parquet: damaged .*`dvc repro`"):
        relation_labels(tmp_path)
