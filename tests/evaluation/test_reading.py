"""Tasks over long texts at tiny scale: what is measured, told and compared."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config import ConfigError, UserError
from pipeline.evaluation import reading
from pipeline.evaluation.longtasks import everything, fits, opened
from pipeline.evaluation.reading import costs, exponent, measured, read, share, wilson
from pipeline.evaluation.streamreading import followed
from pipeline.longcontext import corpora
from pipeline.longcontext.context import FullKV, Held
from pipeline.longcontext.fillers import filler
from pipeline.longcontext.newsstream import Stream
from pipeline.longcontext.opening import Contexts, changed
from pipeline.longcontext.passagesearch import PassageSearch, widened
from pipeline.longcontext.passkey import passkeys
from pipeline.longcontext.ragways import Attending
from pipeline.longcontext.running import Runner
from pipeline.longcontext.samples import Sample
from pipeline.longcontext.tasks import LongTasks, Passkey, Questions, Searched, Streaming
from tests.longcontext.baseline_settings import baselines
from tests.longcontext.standins import Random, long_context
from tests.longcontext.test_tasks import forget
from tests.longcontext.texts import written
from tests.tiny import tiny_decoder, tiny_tokenizer

STREAMING = "streaming:budget=100"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def runner(tokenizer: Any) -> Runner:
    return Runner(tiny_decoder("llama", len(tokenizer)).eval().requires_grad_(False), chunk=64)


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("KG_DATA_ROOT", str(written(tmp_path)))
    forget()
    yield tmp_path
    forget()


def tasks(**changes: Any) -> LongTasks:
    values: dict[str, Any] = {
        "contexts": ["full", STREAMING, "snapkv:budget=0.5"],
        "at_once": {"streaming": 800, "snapkv": 500},
        "most_tokens": {"streaming": 700},
        "chunk": 64,
        "asked": 160,
        "passkey": Passkey(digits=4, fillers=["classic"], lengths=[300, 700], samples=[3, 2], batches=[2, 2]),
        "questions": Questions(sets=["nq"], length=700, samples=4, batch=3, answer_tokens=3),
        "streaming": Streaming(
            contexts=[STREAMING],
            items=8,
            streams=2,
            segment=500,
            made=1,
            questions=2,
            headlines=2,
            answer_tokens=3,
            headline_tokens=3,
        ),
        "searched": Searched(
            sets=["nq"],
            passages=60,
            samples=3,
            ways=[
                "units:tokens=200,count=1@full",
                f"passages:count=2@{STREAMING}",
                "pruned:count=2,tokens=3@full",
            ],
            batch=2,
            answer_tokens=3,
        ),
        "baselines": baselines(),
        "bootstrap_samples": 20,
    }
    return LongTasks(**(values | changes))


def test_every_task_is_told_row_by_row(runner: Runner, tokenizer: Any, texts: Path) -> None:
    asked = tasks()
    contexts = Contexts(runner, long_context(), asked.baselines, texts)
    seen: list[str] = []
    told = everything(runner, tokenizer, contexts, asked, 0, lambda told: seen.append(json.dumps(told)))
    assert len(seen) == len(set(seen)) == 5 + 2 + 1 + 3
    assert json.loads(seen[-1]) == json.loads(json.dumps(told))
    rows = told["passkey"]["classic"]
    assert {length: list(of) for length, of in rows.items()} == {
        "300": ["full", STREAMING, "snapkv:budget=0.5"],
        "700": ["full", STREAMING],
    }
    for of in rows.values():
        for row in of.values():
            assert 0 <= row["em"]["low"] <= row["em"]["mean"] <= row["em"]["high"] <= 1
            assert row["ms a token"] > 0
            assert row["device bytes a text"] > 0
    assert rows["700"]["full"]["n"] == 2
    assert rows["700"][STREAMING]["batch"] == 1  # 800 tokens hold one text of 700
    assert [rows[length][STREAMING]["n"] for length in rows] == [2, 1]  # of 3 and 2
    assert rows["300"][STREAMING]["depths"] == rows["300"]["full"]["depths"][::2]
    assert rows["700"][STREAMING]["device bytes ratio"] < 1
    assert told["fits"]["classic"]["full"]["device bytes a text"] == pytest.approx(1, abs=0.1)
    assert told["fits"]["classic"]["snapkv:budget=0.5"]["ms a token"] is None
    beyond = told["questions"]["nq"][STREAMING]["f1 beyond the first"]
    assert beyond["low"] <= beyond["mean"] <= beyond["high"]
    assert list(told["questions"]["nq"]) == ["full", STREAMING]
    ways = told["searched"]["nq"]
    assert list(ways) == asked.searched.ways
    assert ways[f"passages:count=2@{STREAMING}"]["tokens read before"] == 0
    pruned = ways["pruned:count=2,tokens=3@full"]
    assert pruned["prefill tokens"] < pruned["tokens read before"]
    assert told["streaming"][STREAMING]["n"] > 0


class Untrained(Contexts):
    """DSRAM with a retriever of random numbers."""

    retriever = Random(hidden=48)  # type: ignore[assignment]
    bases = None  # type: ignore[assignment]


@pytest.mark.parametrize("spill", ["none", "host", "disk"])
def test_dsram_reads_every_task(spill: str, runner: Runner, tokenizer: Any, texts: Path) -> None:
    entry = f"dsram:spill={spill},ring=32"
    asked = tasks(contexts=["full", entry], at_once={"dsram": 1400})
    asked = replace(
        asked,
        streaming=replace(asked.streaming, contexts=[entry]),
        searched=replace(asked.searched, ways=[f"passages:count=2@{entry}"]),
    )
    ours = long_context(window=64, room=200)
    told = everything(
        runner, tokenizer, Untrained(runner, ours, asked.baselines, texts), asked, 0, lambda told: None
    )
    rows = [of[entry] for of in told["passkey"]["classic"].values()]
    assert len(rows) == 2
    assert rows[1]["device bytes ratio"] < 1
    assert (rows[1]["host bytes a text"] > 0) == (spill == "host")
    assert (rows[1]["disk bytes a text"] > 0) == (spill == "disk")
    assert told["streaming"][entry]["n"] > 0
    assert told["searched"]["nq"][f"passages:count=2@{entry}"]["n"] == 3


def test_what_was_not_trained_is_named(runner: Runner, tmp_path: Path) -> None:
    contexts = Contexts(runner, long_context(), baselines(), tmp_path)
    with pytest.raises(
        UserError, match=r"retriever\.safetensors: not found; run `dvc repro longcontext_train`"
    ):
        contexts.make("dsram", 10, 2)
    with pytest.raises(ConfigError, match=r"unknown key longcontext\.rings"):
        contexts.make("dsram:rings=2", 10, 2)
    with pytest.raises(UserError, match="no context 'none'; there is full"):
        contexts.make("none", 10, 2)


def test_what_is_read_is_what_the_runner_generates(runner: Runner, tokenizer: Any) -> None:
    samples = passkeys(tokenizer, filler("classic", tokenizer), 300, 2, digits=4, asked=64, seed=0)
    done = read(runner, tokenizer, FullKV(runner.layers), samples, limit=5)
    ids = torch.stack([sample.ids for sample in samples])
    said = runner.generate(ids, FullKV(runner.layers), asked=64, limit=5)
    assert done.said == reading.first_lines(tokenizer, said)
    assert len(done.steps) == 4
    assert done.held.device == FullKVBytes.of(runner, 2 * (300 + 4))


class FullKVBytes:
    """Bytes of all keys and values of so many tokens."""

    @staticmethod
    def of(runner: Runner, tokens: int) -> int:
        config = runner.lm.config
        return tokens * 2 * 4 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim


def test_only_the_first_line_of_an_answer_counts(tokenizer: Any) -> None:
    texts = [" Paris \nQuestion: Who?", "\nLima. Really"]
    rows = [tokenizer(text)["input_ids"] for text in texts]
    said = [reading.first_lines(tokenizer, torch.tensor([row]))[0] for row in rows]
    assert said == ["Paris", "Lima. Really"]


def test_memory_that_does_not_suffice_is_a_reason(runner: Runner, tokenizer: Any) -> None:
    def make() -> FullKV:
        raise torch.OutOfMemoryError("too much")

    samples = [Sample(torch.zeros(9, dtype=torch.long), 3, ("a",), (), 0.0)]
    row = measured(runner, tokenizer, make, samples, 1, 2, lambda said, sample: {"em": 1.0})
    assert row == {"n": 0, "reason": "out of memory"}


def test_costs_leave_out_what_warms_up() -> None:
    def took(rows: int, prefill: float, steps: list[float], peak: int) -> reading.Reading:
        return reading.Reading([""] * rows, prefill, steps, Held(rows * 100, rows * 10, rows), peak)

    readings = [took(2, 9.0, [9.0, 9.0], 7), took(2, 1.0, [5.0, 0.1, 0.3], 5), took(1, 0.1, [0.01], 1)]
    told = costs(readings, size=2, length=50)
    assert told["prefill seconds"] == 1.0
    assert told["tokens a second"] == 100
    assert told["ms a token"] == pytest.approx(200)
    assert (told["device bytes a text"], told["host bytes a text"], told["disk bytes a text"]) == (100, 10, 1)
    assert told["peak bytes"] == 7
    alone = costs([took(1, 2.0, [0.4], 0)], size=2, length=50)
    assert (alone["tokens a second"], alone["ms a token"]) == (25, pytest.approx(400))


def test_intervals_of_shares() -> None:
    assert wilson(8, 10)[:] == pytest.approx((0.8, 0.490, 0.943), abs=1e-3)  # as in Wilson's tables
    assert wilson(300, 300).low == pytest.approx(0.987, abs=1e-3)
    assert wilson(0, 5).low == 0
    assert share([1.0, 0.0, 1.0])["mean"] == pytest.approx(2 / 3)
    assert 0.4 < share([0.5, 0.6, 0.4])["low"] < share([0.5, 0.6, 0.4])["high"] < 0.6
    with pytest.raises(ValueError, match="at least one sample"):
        wilson(0, 0)


def test_exponents_of_power_laws() -> None:
    assert exponent({10: 3.0, 100: 300.0, 1000: 30000.0}) == pytest.approx(2)
    assert exponent({10: 4.0, 100: 4.0, 50: None, 60: 0.0}) == pytest.approx(0)
    assert exponent({10: 4.0}) is None
    assert fits({"10": {"a": {"ms a token": 1.0}}, "20": {"b": {}}})["a"]["ms a token"] is None


def test_questions_leave_no_trace_in_a_stream(runner: Runner, tokenizer: Any, texts: Path) -> None:
    def stream() -> Stream:
        return Stream(tokenizer, corpora.news(), streams=2, tokens=400, made=1, asked=120, seed=0)

    contexts = []

    def make() -> FullKV:
        contexts.append(FullKV(runner.layers))
        return contexts[-1]

    told = followed(runner, tokenizer, make, stream().segments(6, 2, 2), (2, 3))
    [context] = contexts
    tokens = told["tokens of a stream"]
    assert context.held().device == FullKVBytes.of(runner, 2 * tokens)
    assert told["device bytes a text"] * 2 == context.held().device
    assert told["n"] == sum(row["n"] for row in told["recall by items ago"].values())
    assert told["headlines"] == 2 * 2 * (tokens // 400)


def test_what_the_last_token_attends_to_is_what_the_library_says(runner: Runner, tokenizer: Any) -> None:
    ids = torch.tensor([tokenizer("What is the capital of France? Paris")["input_ids"]])
    context = Attending(runner)
    with torch.no_grad():
        runner.prompt(ids, context, asked=1)
    lm = tiny_decoder("llama", len(tokenizer)).eval()
    lm.set_attn_implementation("eager")
    with torch.no_grad():
        right = sum(layer[:, :, -1].mean(dim=1) for layer in lm(ids, output_attentions=True).attentions)
    torch.testing.assert_close(context.weights(), right, atol=1e-4, rtol=0)


def test_passages_are_found_by_words_and_made_up_ones_have_no_gold(texts: Path) -> None:
    known = corpora.passages()
    gold = {passage for asked in corpora.questions("nq") for passage in asked.gold}
    many = widened(known, gold, 80, seed=1)
    assert len(many) == 80
    assert gold <= set(many)
    assert many == widened(known, gold, 80, seed=1)
    made = [one for one in many if one not in set(known)]
    assert len(made) == 80 - len(known)
    assert not [one for one in made if "capital" in one.text]
    search = PassageSearch(many)
    assert many[search.best("What is the capital of Cland?", 3)[0]].title == "Cland"
    assert search.best("zzz", 2) == [0, 1]


def test_long_units_hold_neighbours(runner: Runner, tokenizer: Any, texts: Path) -> None:
    search = PassageSearch(corpora.passages())
    way = opened("units:tokens=150,count=1", search, runner, tokenizer)
    assert way.first[0] == 0  # type: ignore[attr-defined]
    assert way.first[-1] == len(search.passages)  # type: ignore[attr-defined]
    text = tokenizer.decode(way.prompt("What is the capital of Cland?").ids)
    assert "Cland: Cland is a country" in text
    shown = [one for one in search.passages if f"{one.title}: {one.text}" in text]
    place = search.passages.index(shown[0])
    assert len(shown) > 1
    assert shown == search.passages[place : place + len(shown)]
    assert text.endswith("Question: What is the capital of Cland?\nAnswer:")


def test_pruned_passages_keep_whole_sentences(runner: Runner, tokenizer: Any, texts: Path) -> None:
    search = PassageSearch(corpora.passages())
    whole = opened("passages:count=3", search, runner, tokenizer).prompt("capital of Cland?")
    everything_ = opened("pruned:count=3,tokens=9999", search, runner, tokenizer).prompt("capital of Cland?")
    assert everything_.ids == whole.ids
    assert everything_.before == len(whole.ids)
    few = opened("pruned:count=3,tokens=1", search, runner, tokenizer).prompt("capital of Cland?")
    assert len(few.ids) < len(whole.ids)
    kept = tokenizer.decode(few.ids).split("with a few words.\n\n")[1].split("\n\nQuestion")[0]
    assert kept in tokenizer.decode(whole.ids)


@pytest.mark.parametrize("text", ["best:count=1", "passages:tokens=1", "passages:count=many", "passages"])
def test_unknown_ways_are_named(text: str, runner: Runner, tokenizer: Any, texts: Path) -> None:
    with pytest.raises(ConfigError, match="is none; there is passages, units, pruned"):
        opened(text, PassageSearch(corpora.passages()), runner, tokenizer)


def test_settings_of_an_entry() -> None:
    other = changed(baselines(), "budget=7,razor.least=3", "longtasks")
    assert (other.budget, other.razor.least) == (7, 3)
    assert replace(other, budget=baselines().budget, razor=baselines().razor) == baselines()
    assert changed(baselines(), "", "longtasks") is not None
    with pytest.raises(ConfigError, match=r"unknown key longtasks\.budgets"):
        changed(baselines(), "budgets=7", "longtasks")
    with pytest.raises(ConfigError, match="budget must be above 0"):
        changed(baselines(), "budget=-1", "longtasks")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"contexts": []}, "contexts must not be empty"),
        ({"at_once": {"full": 0}}, "must be at least 1 each"),
        ({"chunk": 0}, r"longtasks\.chunk must be at least 1, not 0"),
    ],
)
def test_settings_that_can_not_be_are_named(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        tasks(**changes)
    with pytest.raises(ValueError, match="fillers must be of classic, manual, real, not 'x'"):
        Passkey(digits=1, fillers=["x"], lengths=[], samples=[], batches=[])
    with pytest.raises(ValueError, match="one entry a length"):
        Passkey(digits=1, fillers=[], lengths=[5], samples=[], batches=[])
    with pytest.raises(ValueError, match=r"longtasks\.searched\.sets must be of nq, hotpotqa, not 'x'"):
        Searched(sets=["x"], passages=1, samples=1, ways=[], batch=1, answer_tokens=1)
