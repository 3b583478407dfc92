import json

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from pipeline.config import ConfigError, UserError, section
from pipeline.evaluation import environment
from pipeline.evaluation.majority import CommonestAnswer
from pipeline.evaluation.methods import Answers
from pipeline.evaluation.runs import Evaluate, run
from pipeline.evaluation.splits import AFTER, BEFORE
from pipeline.evaluation.summary import ANSWERS, Bootstrap, summarise
from tests.evaluation.toys import QUESTIONS, LookUp, graph, questions

VALUES = {
    "questions_per_split": 0,
    "splits": [*BEFORE, *AFTER],
    "kinds": ["template", "human", "multihop", "unanswerable"],
    "batch_size": 2,
    "recall_at": [1, 2, 3],
    "bootstrap_samples": 200,
}


def evaluate(**changes):
    return Evaluate(**VALUES | changes)


def rows(folder):
    return pq.read_table(folder / "answers.parquet").to_pylist()


def test_a_method_is_asked_before_and_after_the_update(tmp_path):
    method = LookUp(graph())
    metrics = run(method, method.graph, questions(), evaluate(), 0, tmp_path)
    assert method.updates == [1]
    splits = metrics["splits"]
    assert list(splits) == ["seen", "unseen", "unanswerable", "unchanged", "updated", "unchanged_after"]
    assert [splits[name]["em"]["mean"] for name in splits] == [1.0] * 6
    assert [split["n"] for split in splits.values()] == [2, 2, 2, 1, 1, 1]
    assert metrics["refusal_auroc"] == 1.0
    assert metrics["update_changes"] == 3
    assert metrics["update_seconds"] >= 0
    assert metrics == json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))


def test_rows_say_what_was_read_and_where_gold_stood(tmp_path):
    method = LookUp(graph())
    run(method, method.graph, questions(), evaluate(), 0, tmp_path)
    assert pq.read_schema(tmp_path / "answers.parquet").names == ANSWERS.names
    found = {(row["question"], row["split"]): row for row in rows(tmp_path)}
    updated = found[9, "updated"]
    assert updated["read"] == ["Cland | capital | Lyon", "Cland | capital | Nice"]
    assert (updated["read_place"], updated["candidate_place"], updated["answer_seen"]) == (1, 2, False)
    assert found[5, "unseen"]["answer_seen"] is False
    assert found[4, "unseen"]["answer_seen"] is True
    refused = found[6, "unanswerable"]
    assert (refused["em"], refused["read_place"], refused["answer_seen"]) == (1.0, None, None)
    assert [row["question"] for row in rows(tmp_path) if row["split"] == "unchanged_after"] == [8]


def test_metrics_of_a_split_follow_from_its_rows(tmp_path):
    method = LookUp(graph(), mistakes=[4])
    splits = run(method, method.graph, questions(), evaluate(), 0, tmp_path)["splits"]
    unseen = splits["unseen"]
    assert {name: figure["mean"] for name, figure in unseen.items() if isinstance(figure, dict)} == {
        "em": 0.5,
        "f1": 0.5,
        "refused": 0.5,
        "acc@1": 0.5,
        "acc@5": 0.5,
        "recall@1": 0.0,
        "recall@2": 0.5,
        "recall@3": 0.5,
        "em_answer_seen": 0.0,
        "em_answer_new": 1.0,
    }
    assert unseen["em_answer_new"]["n"] == 1
    assert splits["unanswerable"]["acc@1"] is None
    assert splits["unanswerable"]["em_answer_new"] is None


def test_a_method_without_facts_has_no_grounding(tmp_path):
    metrics = run(CommonestAnswer(graph()), graph(), questions(), evaluate(), 0, tmp_path)
    unseen = metrics["splits"]["unseen"]
    assert unseen["em"]["mean"] == 0.5
    assert [unseen[name] for name in ("acc@1", "acc@5", "recall@1")] == [None, None, None]
    assert metrics["splits"]["unanswerable"]["em"]["mean"] == 0.0
    assert metrics["refusal_auroc"] == 0.5


def test_costs_are_taken_over_prompts_and_over_questions():
    spent = [(0.1, 1.0, 40.0), (0.1, 1.0, 40.0), (0.4, 0.5, 15.0), (0.4, 0.5, 15.0)]
    frame = pd.DataFrame(
        {"question": number, "split": "unseen", "em": 1.0, "f1": 1.0, "refused": number == 3}
        | {"read_place": 1, "candidate_place": 1, "answer_seen": True}
        | {"seconds": seconds, "prompts": prompts, "tokens": tokens}
        for number, (seconds, prompts, tokens) in enumerate(spent)
    )
    told = summarise(frame, [1], Bootstrap(20, 0))["unseen"]
    assert told["ms"] == pytest.approx(250)
    assert told["prompt_tokens"] == pytest.approx(110 / 3), "the question that is refused has no prompt"
    unread = summarise(frame.assign(prompts=0.0, tokens=0.0), [1], Bootstrap(20, 0))["unseen"]
    assert unread["prompt_tokens"] is None


def test_the_sample_depends_on_the_seed_alone(tmp_path):
    many = [*QUESTIONS, *((10 + place, QUESTIONS[2][1], *QUESTIONS[2][2:]) for place in range(40))]
    asked = {}
    for name, seed, batch in (("a", 0, 2), ("b", 0, 5), ("c", 1, 2)):
        method = LookUp(graph(), name)
        choice = evaluate(questions_per_split=6, splits=["seen"], batch_size=batch)
        run(method, method.graph, questions(many), choice, seed, tmp_path / name)
        answered = rows(tmp_path / name)
        asked[name] = [row["question"] for row in answered]
        lengths = [len(row["text"]) for row in answered]
        assert lengths == sorted(lengths)  # alike in length, so that a batch holds little padding
        assert max(map(len, method.asked)) <= batch
    assert asked["a"] == asked["b"] != asked["c"]
    assert len(set(asked["a"])) == 6


def test_batches_change_no_answer(tmp_path):
    for size in (1, 7):
        method = LookUp(graph(), mistakes=[3, 8])
        run(method, method.graph, questions(), evaluate(batch_size=size), 0, tmp_path / str(size))
    one, seven = (rows(tmp_path / str(size)) for size in (1, 7))
    assert [row | {"seconds": 0} for row in one] == [row | {"seconds": 0} for row in seven]


def test_a_graph_with_one_snapshot_is_never_updated(tmp_path, caplog):
    method = LookUp(graph(snapshots=1))
    metrics = run(method, method.graph, questions(), evaluate(), 0, tmp_path)
    assert method.updates == []
    assert "update_seconds" not in metrics
    assert "updated, added, unchanged_after can't be asked" in caplog.text


class Wrong(LookUp):
    def answer(self, texts):
        given = super().answer(texts)
        if self.name == "short":
            return Answers(*([] for _ in range(6)))
        return Answers(
            given.texts, [[-1] for _ in texts], [[1.0] for _ in texts], *list(vars(given).values())[3:]
        )


@pytest.mark.parametrize(
    ("name", "text"), [("short", "short gave 0 answers to 2"), ("padded", "padded read fact -1")]
)
def test_answers_that_do_not_fit_the_questions_are_refused(name, text, tmp_path):
    with pytest.raises(ValueError, match=text):
        run(Wrong(graph(), name), graph(), questions(), evaluate(), 0, tmp_path)


def test_questions_that_can_not_be_asked_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no question in the splits valid; .*`dvc repro"):
        run(LookUp(graph()), graph(), questions(), evaluate(splits=["valid"]), 0, tmp_path)
    broken = questions([(0, "Who?", "template", [], ["Paris"], "seen")])
    with pytest.raises(
        UserError, match=r"question 0 \('Who\?'\) of split seen has no answer or no gold fact"
    ):
        run(LookUp(graph()), graph(), broken, evaluate(), 0, tmp_path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"questions_per_split": -1}, "evaluate.questions_per_split must be 0 .all. or more, not -1"),
        ({"batch_size": 0}, "evaluate.batch_size must be at least 1, not 0"),
        ({"splits": ["unsen"]}, "evaluate.splits must be some of valid, .*, not .'unsen'."),
        ({"recall_at": [0, 5]}, "evaluate.recall_at must hold numbers from 1"),
    ],
)
def test_values_out_of_range_are_named(change, text):
    with pytest.raises(ConfigError, match=text):
        section(Evaluate, VALUES | change, "evaluate")


def test_the_machine_is_described_without_its_name(tmp_path):
    assert environment.versions()["torch"]
    assert environment.machine()["cores"] >= 1
    listing = tmp_path / "cpuinfo"
    listing.write_text("processor\t: 0\nmodel name\t: A fast one\n", encoding="utf-8")
    assert environment.processor(listing) == "A fast one"
    assert environment.processor(tmp_path / "absent")


def test_a_command_is_told_with_the_values_it_was_given_but_without_folders(tmp_path):
    assert environment.overridden("python -m x") == "python -m x"
    (tmp_path / "config.yaml").write_text(
        "k: 1\ntexts: []\npaths: {kv: here}\nscale: {folder: here}\n", encoding="utf-8"
    )
    given = ["k=3", "texts=[a b]", "paths.kv=there", "scale.folder=there"]
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        HydraConfig.instance().set_config(compose("config", given, return_hydra_config=True))
    try:
        assert environment.overridden("python -m x") == "python -m x k=3 'texts=[a b]'"
    finally:
        HydraConfig.instance().cfg = None
