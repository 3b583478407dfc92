import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipeline.config import Paths, UserError, options
from pipeline.evaluation.majority import CommonestAnswer
from pipeline.evaluation.runs import Evaluate, run
from pipeline.evaluation.summary import Bootstrap
from pipeline.report import report
from pipeline.reporting import gather
from pipeline.reporting.compare import comparisons, locality, reference, worst
from pipeline.reporting.content import per_answer
from pipeline.reporting.errors import kinds
from pipeline.reporting.limits import SYSTEMS, limits
from pipeline.reporting.page import SOURCES
from tests.evaluation.toys import LookUp, graph, questions


def leaves(value):
    """Return the numbers inside nested objects and lists."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return [leaf for one in inner for leaf in leaves(one)]
    return [float(value)] if isinstance(value, int | float) and not isinstance(value, bool) else []


EVALUATE = Evaluate(
    questions_per_split=0,
    splits=["seen", "unseen", "unanswerable", "unchanged", "updated", "unchanged_after"],
    batch_size=4,
    recall_at=[1, 2, 5],
    kinds=["template", "human", "unanswerable"],
    bootstrap_samples=100,
)


def paths(root: Path) -> Paths:
    return Paths(
        tables=root / "data/tables",
        kv=root / "data/kv",
        rotate=root / "models/embed",
        index=root / "models/index",
        adapters=root / "models/train",
        evaluations=root / "models/evaluate",
        reports=root / "reports",
    )


def evaluate(root, name, mistakes=(), seed=0, folder=None):
    method = LookUp(graph(), name, mistakes)
    run(method, method.graph, questions(), EVALUATE, seed, root / "models/evaluate" / (folder or name))


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """Everything that the stages before the report leave behind, small."""
    tmp_path = tmp_path_factory.mktemp("stages")
    evaluate(tmp_path, "ours", mistakes=[5])
    evaluate(tmp_path, "rag", mistakes=[2, 4, 5, 8])
    run(CommonestAnswer(graph()), graph(), questions(), EVALUATE, 0, tmp_path / "models/evaluate/majority")
    for folder, name, figures in (
        ("data/tables", "ingest", {"facts": 8, "dropped": {"duplicates": 0}}),
        ("models/embed", "embed", {"mrr": 0.5, "evaluator": "<filtered>"}),
        ("models/train/ours", "train", {"seconds": 12.5, "steps": 80, "parameters": 1000}),
    ):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / f"{name}.json").write_text(json.dumps(figures), encoding="utf-8")
    steps = np.arange(80)
    curve = pd.DataFrame({"step": steps, "loss": 1 / (1 + steps), "validation_em": [np.nan] * 79 + [0.9]})
    curve.to_csv(tmp_path / "models/train/ours/curve.csv", index=False)
    return tmp_path


@pytest.fixture
def finished(stages, tmp_path):
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(stages, tmp_path / "copy"))


@pytest.fixture(scope="module")
def made(stages):
    """The report on it."""
    return make(stages)


def make(root, out="reports"):
    report.run(paths(root), 0, root / out)
    return root / out


def test_the_report_is_whole_and_names_what_it_found(finished, capsys, caplog):
    out = make(finished)
    written = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    plots = [f"plots/{name}.{kind}" for name in ("accuracy", "recall", "training") for kind in ("csv", "png")]
    assert written == ["metrics.json", *plots, "report.html", "report.md", "results.md"]
    printed = capsys.readouterr().out
    assert "ours answers 50.0 %" in printed
    assert "unchanged_after" in printed
    assert f"The report: {out / 'report.html'}" in printed
    assert "index.json: not found, so the report says nothing of index" in caplog.text


def test_metrics_are_flat_and_equal_to_those_of_the_stages(stages, made):
    figures = json.loads((made / "metrics.json").read_text(encoding="utf-8"))
    own = json.loads((stages / "models/evaluate/ours/metrics.json").read_text(encoding="utf-8"))
    unseen = figures["evaluate"]["ours"]["unseen"]
    assert [unseen["em"], unseen["em_low"], unseen["em_high"]] == list(own["splits"]["unseen"]["em"].values())
    assert figures["evaluate"]["ours"]["refusal_auroc"] == own["refusal_auroc"]
    assert figures["paired"]["ours_minus_rag"]["unseen"]["mean"] == 0.5
    assert figures["locality"]["ours"]["mean"] == 0.0
    assert figures["ingest"]["dropped"]["duplicates"] == 0
    assert figures["train"]["ours"]["parameters"] == 1000
    assert "recall@1" not in figures["evaluate"]["majority"]["unseen"]


def test_what_a_question_costs_stands_in_tables_and_metrics(stages, made):
    own = json.loads((stages / "models/evaluate/ours/metrics.json").read_text(encoding="utf-8"))
    figures = json.loads((made / "metrics.json").read_text(encoding="utf-8"))
    assert figures["evaluate"]["ours"]["unseen"]["ms"] == own["splits"]["unseen"]["ms"] > 0
    table = per_answer(gather.methods(stages / "models/evaluate"))
    rows = {(row[0].text, row[1].text): [cell.text for cell in row[2:]] for row in table.rows}
    assert rows["unseen", "ms a question"][0] == "< 0.1", "a toy looks its answers up"
    assert rows["unseen", "tokens a prompt"] == ["—"] * 3, "no toy has a language model"
    assert table.markdown() in (made / "report.md").read_text(encoding="utf-8")


def test_the_same_inputs_give_the_same_bytes(finished, made):
    again = make(finished, "elsewhere")
    for path in (path for path in made.rglob("*") if path.is_file()):
        assert path.read_bytes() == (again / path.relative_to(made)).read_bytes(), path.name


def test_plot_tables_hold_what_is_plotted(made):
    out = made / "plots"
    accuracy = pd.read_csv(out / "accuracy.csv").set_index(["method", "split"])
    assert accuracy.loc[("ours", "unseen"), "em"] == 0.5
    recall = pd.read_csv(out / "recall.csv")
    assert set(recall["method"]) == {"ours", "rag"}
    ours = recall[(recall["method"] == "ours") & (recall["split"] == "updated")]
    assert ours["recall"].tolist() == [0.0, 1.0, 1.0]
    training = pd.read_csv(out / "training.csv")
    assert set(training["method"]) == {"ours"}
    assert len(training) == 80


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.tags, self.sources, self.links, self.ids = [], [], [], [], []

    def note(self, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "xlink:href")]
        self.links += [value for name, value in attrs if name == "href"]
        self.ids += [value for name, value in attrs if name == "id"]
        assert not [name for name, _ in attrs if name.startswith("on")], "the page's policy allows none"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.note(attrs)
        if tag not in ("meta", "br", "img", "wbr"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.note(attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_needs_nothing_beside_it(made):
    page = Page()
    text = (made / "report.html").read_text(encoding="utf-8")
    page.feed(text)
    assert page.open == []
    assert page.tags.count("svg") == 3
    assert all(source.startswith(("#", "data:image/png;base64,")) for source in page.sources)
    assert all(link.removeprefix("#") in page.ids for link in page.links)
    assert len(page.ids) == len(set(page.ids))


def test_the_page_allows_its_own_script_and_no_other(made):
    text = (made / "report.html").read_text(encoding="utf-8")
    [script] = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    assert f"script-src 'sha256-{digest}'" in text
    assert "default-src 'none'" in text


def test_each_section_says_where_its_figures_are_from(made):
    text = (made / "report.html").read_text(encoding="utf-8")
    figures = json.loads((made / "metrics.json").read_text(encoding="utf-8"))
    for section in re.split(r"(?=<section id=)", text)[1:]:
        if "<table" in section:
            assert 'class="source"' in section, section[:60]
    for name, source in SOURCES.items():
        assert f'<section id="{name}">' in text
        for keys in re.findall(r" metrics\.json \(([\w, ]+)\)", f" {source}"):
            assert set(keys.split(", ")) <= set(figures), source


def test_every_figure_of_the_results_stands_in_metrics(made):
    text = (made / "report.html").read_text(encoding="utf-8")
    held = set(leaves(json.loads((made / "metrics.json").read_text(encoding="utf-8"))))
    for name in ("results", "paired", "updates", "grounding", "refusal"):
        [section] = re.findall(rf'<section id="{name}">.*?</section>', text, re.DOTALL)
        values = {float(value) for value in re.findall(r'data-value="([^"]*)"', section)}
        assert values, name
        assert values <= held, (name, values - held)


def test_the_report_as_text_has_the_same_tables(made):
    text = (made / "report.md").read_text(encoding="utf-8")
    assert "| unseen | 2 | 50.0 [" in text.replace("**", "")
    assert (made / "results.md").read_text(encoding="utf-8").splitlines()[-1] in text
    for name in ("What this does not show", "False updates", "Wrong answers, by the first reason that holds"):
        assert f"## {name}" in text


def test_wrong_answers_are_counted_by_what_went_wrong(stages):
    methods = gather.methods(stages / "models/evaluate")
    table = kinds(methods)
    for row in table.rows:
        assert row[2].value == sum(cell.value for cell in row[3:])
    by = {row[0].text: dict(zip(table.header, row, strict=True)) for row in table.rows}
    assert by["majority"]["reads no facts"].value + by["majority"]["answered, though no fact does"].value > 0
    assert by["majority"]["right fact not found"].value == 0
    ours = next(method for method in methods if method.name == "ours").rows
    ours.loc[:, "em"] = 0.0
    ours.loc[:, "refused"] = False
    ours.loc[:, ["read_place", "candidate_place"]] = [0, 3]
    row = dict(zip(table.header, kinds(methods).rows[0], strict=True))
    answerable = int((ours["answers"].map(len) > 0).sum())
    assert row["right fact found, not read"].value == answerable > 0
    assert row["answered, though no fact does"].value == len(ours) - answerable > 0


def test_methods_that_were_not_evaluated_are_named(stages):
    assert set(SYSTEMS) == set(options("method"))
    said = " ".join(limits(gather.methods(stages / "models/evaluate"), [], [], []))
    assert "Not among them: rag_tuned," in said
    assert not re.search(r"Not among them:[^.;]*\bours\b", said)


def test_texts_of_models_and_data_are_escaped(finished):
    path = finished / "models/evaluate/ours/answers.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    wrong = next(row for row in rows if row["em"] == 0)
    evil = "<script>alert(1)</script>"
    wrong |= {"text": evil, "prediction": evil, "refused": False, "answers": [evil]}
    wrong |= {"facts": [0], "weights": [1.0], "read": [evil]}
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), path)
    text = (make(finished) / "report.html").read_text(encoding="utf-8")
    assert evil not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 4
    assert "&lt;filtered&gt;" in text


def test_seeds_are_pooled_by_question(tmp_path):
    evaluate(tmp_path, "ours", seed=0, folder="ours-0")
    evaluate(tmp_path, "ours", mistakes=[4], seed=1, folder="ours-1")
    evaluate(tmp_path, "rag", mistakes=[4, 5])
    figures = json.loads((make(tmp_path) / "metrics.json").read_text(encoding="utf-8"))["evaluate"]["ours"]
    assert figures["seeds"] == 2
    assert figures["unseen"]["n"] == 2
    assert figures["unseen"]["em"] == 0.75
    assert (figures["unseen"]["em_seed_min"], figures["unseen"]["em_seed_max"]) == (0.5, 1.0)
    assert "100.0 · 50.0" in (tmp_path / "reports/report.html").read_text(encoding="utf-8")


def test_comparisons_pair_the_same_questions(stages):
    methods = gather.methods(stages / "models/evaluate")
    assert [method.name for method in methods] == ["ours", "majority", "rag"]
    found = {(pair.second, pair.split): pair for pair in comparisons(methods, Bootstrap(100, 0))}
    assert found["rag", "unseen"].result.wins == 1
    assert found["rag", "unseen"].result.losses == 0
    assert found["rag", "unseen"].questions == 2
    assert {pair.first for pair in locality(methods, Bootstrap(100, 0))} == {"ours", "rag", "majority"}
    assert reference(methods[1:]).name == methods[1].name


def test_the_worst_errors_are_the_most_confident(stages):
    majority = next(m for m in gather.methods(stages / "models/evaluate") if m.name == "majority")
    rows = majority.rows
    rows.loc[rows["question"] == 7, "refusal"] = -1.0
    assert worst(majority, "unanswerable", 5)["question"].tolist() == [7, 6]
    assert worst(majority, "unanswerable", 1)["question"].tolist() == [7]


def test_no_evaluation_names_the_remedy(tmp_path):
    with pytest.raises(UserError, match=r"no evaluation .*run `dvc repro`"):
        make(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("metrics.json", '{"method": NaN}', "metrics.json: holds NaN, which is no measurement"),
        ("metrics.json", "{", "metrics.json: damaged"),
        ("metrics.json", "[]", "metrics.json: must hold an object, not a list"),
        ("metrics.json", '{"method": "ours"}', "metrics.json: lacks 'seed'"),
        ("answers.parquet", "no table", "answers.parquet: damaged"),
        ("answers.parquet", None, "answers.parquet: not found beside its metrics.json"),
        ("../../train/ours/curve.csv", "loss\n1\n", "curve.csv: lacks the column 'step'"),
        ("../../train/ours/curve.csv", "step,loss\n1,low\n", "curve.csv: column 'loss' holds text"),
        ("../../train/ours/curve.csv", "", "curve.csv: damaged"),
        ("../../train/ours/train.json", "?", "train.json: damaged"),
    ],
)
def test_what_a_stage_left_damaged_is_named(finished, name, content, text):
    path = finished / "models/evaluate/ours" / name
    path.unlink()
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=rf"{text}.*`dvc repro`"):
        make(finished)


def test_a_wrong_column_is_named(finished):
    path = finished / "models/evaluate/rag/answers.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["refusal"]), path)
    with pytest.raises(UserError, match=r"rag/answers\.parquet: lacks the column 'refusal'"):
        make(finished)


def test_two_evaluations_of_one_method_and_seed_are_refused(finished):
    evaluate(finished, "ours", folder="ours-again")
    with pytest.raises(UserError, match=r"ours and .*ours-again both hold ours with seed 0"):
        make(finished)
