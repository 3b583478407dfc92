import pytest

from pipeline.config import UserError
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.labels import SHOWN, Labels
from pipeline.memory.names import Names


@pytest.fixture
def names(encoder):
    names = Names(TextEncoder(encoder, "cpu"))
    names.add({"Q1": "Paris", "Q2": "paris", "Q3": "Lyon", "Q4": "Lyon", "Q5": "Nice", "Nice": "Nizza"})
    return names


def test_a_name_is_a_key_or_a_label_or_a_label_in_another_case(names):
    labels = Labels(lambda: names, "entity")
    assert labels.find("Q3") == "Q3"
    assert labels.find("Nice") == "Nice", "a key goes before a label"
    assert labels.find("Paris") == "Q1"
    assert labels.find("  paris ") == "Q2"
    assert labels.find("NIZZA") == "Nice"
    assert labels.find("Rome") is None


def test_a_new_name_gets_a_key_of_its_own_and_is_known_from_then_on(names):
    labels = Labels(lambda: names, "entity")
    assert labels.key("New  Town") == "local:New Town"
    names.add({"local:New Town": "New Town"})
    assert labels.find("new town") == "local:New Town"
    assert labels.key("new town") == "local:New Town"


def test_an_ambiguous_label_lists_the_keys(names):
    labels = Labels(lambda: names, "entity")
    with pytest.raises(
        UserError, match=r"entity 'Lyon': 2 have this label; give the key .*Q3 .*, Q4 \(Lyon\)"
    ):
        labels.find("Lyon")
    with pytest.raises(UserError, match=r"'PARIS': 2 have this label.*Q1 \(Paris\), Q2 \(paris\)"):
        labels.key("PARIS")
    names.add({f"X{number}": "Many" for number in range(SHOWN + 2)})
    with pytest.raises(UserError, match=r"10 have this label.* and 2 more"):
        labels.find("many")


def test_further_labels_mean_their_key(names):
    labels = Labels(lambda: names, "relation", {"Nizza la Bella": "Nice"})
    assert labels.find("nizza la bella") == "Nice"


def test_labels_that_are_written_alike_are_offered(names):
    assert Labels(lambda: names, "entity").alike("Pariss", 1) == ["Paris"]
    assert Labels(lambda: names, "entity").alike("zzzzz") == []
