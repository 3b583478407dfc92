"""What every split promises, over random graphs."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config import ConfigError, UserError
from pipeline.kg.facts import SPLITS, Graph, read_table, write_table
from pipeline.kg.questions import Asker
from pipeline.kg.slots import Slots, sample
from pipeline.kg.synthesis import usable
from pipeline.kg.unanswerable import spliced
from tests.kg.graphs import HELD_OUT, synthesis, write_graph

EVALUATED = set(SPLITS) - {"train", "valid"}


def ask(
    graph: Graph, folder: Path, *overrides: str, seed: int = 0
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    config = synthesis(*overrides)
    slots = Slots(graph, graph.nouns)
    asker = Asker(slots, usable(graph, config.rows), config.wording, config.questions, seed)
    columns, counts = asker.ask(read_table(folder, "questions"))
    write_table(folder / "asked", "questions", columns)
    return read_table(folder / "asked", "questions").to_pylist(), counts


def slots_of(graph: Graph, row: dict[str, Any]) -> set[tuple[int, int]]:
    return {tuple(graph.triples[fact, :2].tolist()) for fact in row["facts"]}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), changes=st.booleans())
def test_splits_keep_their_promises(tmp_path: Path, seed: int, changes: bool) -> None:
    folder = tmp_path / f"{seed}-{changes}"
    graph = write_graph(folder, seed, changes=changes)
    rows, _ = ask(graph, folder, seed=seed)
    folds = graph.facts["fold"].to_pylist()
    base, last = graph.live(0), graph.live(graph.last_snapshot)
    triples = graph.triples
    expected = {"train": "train", "valid": "valid", "seen": "train", "unseen_relation": "unseen_relation"}
    assert [row["id"] for row in rows] == list(range(len(rows)))
    for row in rows:
        if row["kind"] == "unanswerable":
            assert row["facts"] == row["answers"] == []
            continue
        (slot,) = slots_of(graph, row)
        mine = (triples[:, :2] == slot).all(axis=1)
        live = last if row["split"] in ("updated", "added", "unchanged") else base
        assert row["facts"] == np.flatnonzero(mine & live).tolist()
        assert set(row["answers"]) == {graph.labels[triples[fact, 2]] for fact in row["facts"]}
        assert {folds[fact] for fact in row["facts"]} == {expected.get(row["split"], "test")}
        before, after = ({graph.labels[tail] for tail in triples[mine & then, 2]} for then in (base, last))
        match row["split"]:
            case "updated":
                assert before
                assert after
                assert before != after
            case "added":
                assert not before
            case "unchanged" | "unseen":
                assert (base == last)[mine].all()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000))
def test_questions_over_two_facts_keep_to_their_folds(tmp_path: Path, seed: int) -> None:
    folder = tmp_path / f"linked {seed}"
    graph = write_graph(folder, seed, linked=True)
    rows, _ = ask(graph, folder, "questions.two_hop=30", seed=seed)
    folds, base = graph.facts["fold"].to_pylist(), graph.live(0)
    both = [row for row in rows if row["kind"] == "multihop"]
    assert {row["split"] for row in both} <= {"train", "valid", "two_hop"}
    assert any(row["split"] == "two_hop" for row in both)
    assert all(row["kind"] == "multihop" for row in rows if row["split"] == "two_hop")
    for row in both:
        (first,), second = graph.hops(row["facts"])
        head, relation, middle = graph.triples[first].tolist()
        assert (graph.triples[second, 0] == middle).all()
        assert base[row["facts"]].all()
        mine = (graph.triples[:, :2] == graph.triples[second[0], :2]).all(axis=1)
        assert second == np.flatnonzero(mine & base).tolist()
        assert set(row["answers"]) == {graph.labels[graph.triples[fact, 2]] for fact in second}
        assert f"the {graph.nouns[relation]} of {graph.labels[head]}" in row["text"]
        assert graph.nouns[graph.triples[second[0], 1]] in row["text"]
        assert folds[first] == {"two_hop": "test"}.get(row["split"], row["split"])
        later = {folds[fact] for fact in second}
        assert "unseen_relation" not in later
        assert (
            later == {"train"}
            if row["split"] == "train"
            else row["split"] == "two_hop" or "test" not in later
        )
    assert not [row for row in ask(graph, folder, "questions.two_hop=0")[0] if row["kind"] == "multihop"]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000))
def test_splits_are_disjoint_by_head_and_by_relation(tmp_path: Path, seed: int) -> None:
    folder = tmp_path / str(seed)
    graph = write_graph(folder, seed)
    rows, _ = ask(graph, folder, seed=seed)
    heads: dict[str, set[int]] = {split: set() for split in SPLITS}
    relations: dict[str, set[int]] = {split: set() for split in SPLITS}
    slots: dict[str, set[tuple[int, int]]] = {split: set() for split in SPLITS}
    for row in rows:
        for slot in slots_of(graph, row):
            heads[row["split"]].add(slot[0])
            relations[row["split"]].add(slot[1])
            slots[row["split"]].add(slot)
    for split in ("valid", "unseen", "updated", "added", "unchanged"):
        assert not heads["train"] & heads[split]
    for split in ("unseen", "updated", "added", "unchanged"):
        assert not heads["valid"] & heads[split]
    assert not slots["unseen"] & slots["unchanged"]
    assert slots["seen"] <= slots["train"]
    for split in set(SPLITS) - {"unseen_relation"}:
        assert HELD_OUT not in relations[split]
    assert relations["unseen_relation"] <= {HELD_OUT}


def test_train_valid_and_test_are_worded_apart(tmp_path: Path) -> None:
    rows, _ = ask(write_graph(tmp_path, heads=120), tmp_path)
    wording = synthesis().wording
    for row in rows:
        mine = {"train": wording.train, "valid": wording.valid}.get(row["split"], wording.held_out)
        fits = [
            template
            for template in (*wording.train, *wording.valid, *wording.held_out)
            if re.fullmatch(re.sub(r"\\{\w+\\}", ".+", re.escape(template)), row["text"])
        ]
        assert set(fits) & set(mine), row["text"]
        assert row["split"] == "train" or not set(fits) & set(wording.train), row["text"]


def test_label_twins_are_not_asked_and_counted(tmp_path: Path) -> None:
    graph = write_graph(tmp_path, seed=3, heads=100, changes=False)
    rows, counts = ask(graph, tmp_path)
    asked = {slot for row in rows for slot in slots_of(graph, row)}
    named: dict[tuple[str, int], set[int]] = {}
    for head, relation, _ in graph.triples.tolist():
        named.setdefault((graph.labels[head], relation), set()).add(head)
    twins = {(head, r) for (_, r), heads in named.items() if len(heads) > 1 for head in heads}
    assert twins
    assert counts["label twins"] == len(twins)
    assert not asked & twins


def test_relations_of_one_noun_are_twins(tmp_path: Path) -> None:
    graph = write_graph(tmp_path, seed=1)
    slots = Slots(graph, ["same noun"] * len(graph.nouns))
    relations_of_label: dict[str, int] = {}
    for head in slots.heads.tolist():
        relations_of_label[graph.labels[head]] = relations_of_label.get(graph.labels[head], 0) + 1
    assert slots.twins.tolist() == [
        relations_of_label[graph.labels[head]] > 1 for head in slots.heads.tolist()
    ]


def test_nothing_answers_an_unanswerable_question(tmp_path: Path) -> None:
    graph = write_graph(tmp_path, heads=150)
    rows, _ = ask(graph, tmp_path, "questions.evaluation=60")
    held = {(graph.labels[head], graph.nouns[relation]) for head, relation, _ in graph.triples.tolist()}
    known = {name.casefold() for name in graph.labels}
    strange: dict[str, set[str]] = {"train": set(), "valid": set(), "unanswerable": set()}
    near = 0
    for row in rows:
        if row["kind"] != "unanswerable":
            continue
        assert not any(name in row["text"] and noun in row["text"] for name, noun in exact(held, row["text"]))
        if any(label in row["text"] for label in graph.labels):
            near += 1
        else:
            strange[row["split"]].add(row["text"])
    assert near > 20
    assert all(strange.values())
    assert known
    total = sum(row["split"] == "train" for row in rows)
    refused = sum(row["split"] == "train" and row["kind"] == "unanswerable" for row in rows)
    assert refused / total == pytest.approx(0.15, abs=0.02)


def exact(held: set[tuple[str, str]], text: str) -> set[tuple[str, str]]:
    """The held slots whose name ends at a word boundary in `text`: "Family1" is not "Family12"."""
    words = {word.rstrip("?.,:;").removesuffix("'s") for word in text.split()}
    return {(name, noun) for name, noun in held if name.split()[-1] in words}


def test_same_seed_same_bytes_and_other_seed_other_questions(tmp_path: Path) -> None:
    graph = write_graph(tmp_path)
    written = []
    for seed in (0, 0, 1):
        ask(graph, tmp_path, seed=seed)
        written.append((tmp_path / "asked" / "questions.parquet").read_bytes())
    assert written[0] == written[1] != written[2]


def test_source_questions_pass_through_and_their_slots_are_not_asked_again(tmp_path: Path) -> None:
    graph = write_graph(tmp_path, changes=False)
    folds = np.array(graph.facts["fold"].to_pylist())
    test, train = int(np.flatnonzero(folds == "test")[0]), int(np.flatnonzero(folds == "train")[0])
    rows = [
        (0, "who was it", "human", [test], ["her"], "unseen"),
        (1, "and who trained", "human", [train], ["him"], "train"),
        (2, "cheating", "human", [test], ["it"], "train"),
        (3, "nobody knows", "unanswerable", [], [], "unanswerable"),
    ]
    names = ("id", "text", "kind", "facts", "answers", "split")
    write_table(tmp_path, "questions", dict(zip(names, zip(*rows, strict=True), strict=True)))
    asked, counts = ask(graph, tmp_path)
    texts = {row["text"]: row for row in asked}
    assert texts["who was it"]["split"] == "unseen"
    assert texts["who was it"]["answers"] == ["her"]
    assert texts["and who trained"]["split"] == "train"
    assert "nobody knows" in texts
    assert "cheating" not in texts
    assert counts["source questions that would train on other folds"] == 1
    slot = tuple(graph.triples[test, :2].tolist())
    again = [row for row in asked if slot in slots_of(graph, row) and row["kind"] == "template"]
    assert not again


def test_an_unknown_split_of_a_source_question_is_named(tmp_path: Path) -> None:
    graph = write_graph(tmp_path)
    row = {"id": [7], "text": ["?"], "kind": ["human"], "facts": [[0]], "answers": [["x"]], "split": ["dev"]}
    write_table(tmp_path, "questions", row)
    with pytest.raises(UserError, match=r"id 7: unknown split 'dev'.*dvc repro ingest"):
        ask(graph, tmp_path)


def test_a_graph_without_a_question_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    graph = write_graph(tmp_path)
    with pytest.raises(UserError, match=r"no question can be asked.*check the data choice"):
        ask(graph, tmp_path, "rows.name_words=1")


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("wording.train=['What is {name}?']", r"\{noun\} and \{name\} once in each template, not 'What is"),
        ("wording.held_out=[]", r"held_out must hold a template, not \[\]"),
        ("questions.relation_share=0", r"relation_share must be in \(0, 1\], not 0"),
        ("questions.unanswerable_share=1.5", r"unanswerable_share must be in \[0, 0.9\], not 1.5"),
        ("questions.train=0", r"questions.train must be at least 1, not 0"),
        ("rows.sides=left", r"rows.sides must be one of both, tail, random, not 'left'"),
        ("generator=other", r"generator must be kg2kv or synthetic, not 'other'"),
        ("nouns.ask=never", r"nouns.ask must be table_first or llm_only, not 'never'"),
        ("endpoint.base_url=ftp://x", r"base_url must begin with http:// or https://, not 'ftp"),
        ("synthetic.names=borrowed", r"synthetic.names must be invented or given, not 'borrowed'"),
        ("questions.colour=1", r"unknown key synthesis.questions.colour"),
        ("questions.train=many", r"synthesis.questions.train"),
    ],
)
def test_a_bad_value_is_named(override: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as error:
        synthesis(override)
    assert str(error.value).count("conf/synthesis") == 1


@pytest.mark.parametrize("name", ["valid", "held_out"])
def test_a_template_belongs_to_one_split_alone(name: str) -> None:
    same = json.dumps(synthesis().wording.train[:1])
    with pytest.raises(ConfigError, match=f"{name} must not repeat a template of train"):
        synthesis(f"wording.{name}={same}")


@given(
    relations=st.lists(st.integers(0, 4), min_size=0, max_size=80),
    size=st.integers(1, 100),
    share=st.floats(0.05, 1),
    seed=st.integers(0, 100),
)
def test_a_sample_obeys_size_share_and_order(
    relations: list[int], size: int, share: float, seed: int
) -> None:
    column = np.array(relations, dtype=np.int64)
    order = np.random.default_rng(seed).permutation(len(column))
    picked = sample(column, size, share, order)
    wanted = min(size, len(column))
    assert len(set(picked.tolist())) == len(picked) <= wanted
    if wanted:
        quota = np.ceil(max(share, 1 / len(set(relations))) * wanted)
        assert max(np.bincount(column[picked])) <= quota
        # Whoever is left out stands after everyone taken of its relation, or the sample is full.
        place = np.argsort(order)
        for position in set(range(len(column))) - set(picked.tolist()):
            same = picked[column[picked] == column[position]]
            assert len(picked) == wanted or (place[same] < place[position]).all()


@pytest.mark.parametrize(
    ("front", "back", "name"),
    [
        ("Marie Curie", "Albert Einstein", "Marie Einstein"),
        ("Lisbon", "Dresden", "Lisden"),
        ("Paris", "New York", "Paris York"),
        ("Anna Maria van Dam", "Jo Li", "Anna Maria Li"),
    ],
)
def test_spliced_names(front: str, back: str, name: str) -> None:
    assert spliced(front, back) == name
