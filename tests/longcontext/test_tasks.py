"""What the tasks ask: lengths, places of answers, streams; and clear errors where files are missing."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import UserError
from pipeline.longcontext import corpora
from pipeline.longcontext.corpora import Asked, Passage
from pipeline.longcontext.fillers import Filler, filler
from pipeline.longcontext.newsstream import Stream
from pipeline.longcontext.passkey import found, passkeys
from pipeline.longcontext.ragqa import among_passages
from pipeline.longcontext.samples import Sample, batches, stacked
from tests.longcontext.texts import written
from tests.tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


def forget() -> None:
    for read in (corpora.natural_questions, corpora.hotpotqa, corpora.passages, corpora.news, corpora.plays):
        read.cache_clear()


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Made-up files as the data root."""
    monkeypatch.setenv("KG_DATA_ROOT", str(written(tmp_path)))
    forget()
    yield tmp_path / "longcontext"
    forget()


@pytest.mark.parametrize("kind", ["classic", "manual", "real"])
def test_keys_stand_where_they_should_in_prompts_of_one_length(
    kind: str, tokenizer: Any, texts: Path
) -> None:
    samples = passkeys(tokenizer, filler(kind, tokenizer), 700, 5, digits=10, asked=64, seed=3)
    assert stacked(samples).shape == (5, 700)
    assert [sample.depth for sample in samples] == sorted(sample.depth for sample in samples)
    assert samples[0].depth == 0
    assert len({sample.answers for sample in samples}) == 5
    for sample in samples:
        [(first, end)] = sample.gold
        needle = tokenizer.decode(sample.ids[first:end])
        [key] = sample.answers
        assert re.fullmatch(r"\d{10}", key)
        assert needle.count(key) == 2
        assert tokenizer.decode(sample.ids).count(key) == 2
        assert tokenizer.decode(sample.ids[-sample.asked :]).endswith("The pass key is")
    again = passkeys(tokenizer, filler(kind, tokenizer), 700, 5, digits=10, asked=64, seed=3)
    assert stacked(again).equal(stacked(samples))
    other = passkeys(tokenizer, filler(kind, tokenizer), 700, 5, digits=10, asked=64, seed=4)
    assert other[0].answers != samples[0].answers


def test_the_classic_text_has_a_key_at_its_very_end(tokenizer: Any) -> None:
    last = passkeys(tokenizer, filler("classic", tokenizer), 900, 3, digits=10, asked=64, seed=0)[-1]
    assert last.depth > 0.9
    with pytest.raises(ValueError, match="a prompt of 90 tokens, 64 of them asking, has no room"):
        passkeys(tokenizer, filler("classic", tokenizer), 90, 1, digits=10, asked=64, seed=0)


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=6),
    st.integers(0, 20),
    st.integers(0, 60),
)
def test_text_is_parted_between_sentences(sizes: list[int], sentence: int, count: int) -> None:
    """Against a filler that is written out."""
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    text = Filler(np.arange(sum(sizes)), starts)
    first = int(starts[sentence % len(starts)])
    written_out = [place % sum(sizes) for place in range(first, first + count + 1)]
    assert text.taken(sentence, count).tolist() == written_out[:count]
    ends = [place for place in range(count + 1) if written_out[place] in set(starts.tolist())]
    assert text.parted(sentence, count) == ends[-1]


@pytest.mark.parametrize(
    ("said", "right"), [("123.", 1), ("is 123, said he", 1), ("1234", 0), ("12", 0), ("no", 0), ("4 123", 0)]
)
def test_only_the_whole_first_number_is_right(said: str, right: int) -> None:
    assert found(said, Sample(torch.zeros(1), 1, ("123",), (), 0.0)) == right


def test_samples_of_other_lengths_are_no_batch() -> None:
    samples = [Sample(torch.zeros(size), 1, ("a",), (), 0.0) for size in (3, 3, 4)]
    with pytest.raises(ValueError, match=r"one length and asked, not \[\(3, 1\), \(4, 1\)\]"):
        list(batches(samples, 3))
    assert [len(batch) for batch in batches(samples[:2] * 2, 3)] == [3, 1]


def test_questions_stand_behind_their_passages(tokenizer: Any, texts: Path) -> None:
    for name, count in (("nq", 6), ("hotpotqa", 1)):
        known = corpora.questions(name)
        assert len(known) == count
        samples = among_passages(tokenizer, known, corpora.passages(), 1500, asked=160, seed=1)
        assert stacked(samples).shape == (count, 1500)
        for sample, asked in zip(samples, known, strict=True):
            shown = [tokenizer.decode(sample.ids[first:end]) for first, end in sample.gold]
            assert sorted(shown) == sorted(f"\n\n{one.title}: {one.text}" for one in asked.gold)
            assert tokenizer.decode(sample.ids[-sample.asked :]).endswith(f"Question: {asked.text}\nAnswer:")
    assert corpora.questions("nq")[0].text == "What is the capital of aland?"


def test_questions_that_do_not_fit_are_left_out(tokenizer: Any) -> None:
    long = Asked("Why?", ("so",), (Passage("Title", "word " * 500),))
    short = Asked("Why?", ("so",), (Passage("Title", "word"),))
    pool = [Passage("Other", "text of another")]
    assert len(among_passages(tokenizer, [long, short], pool, 600, asked=64, seed=0)) == 1
    assert not among_passages(tokenizer, [short], pool, 600, asked=3, seed=0)


def test_a_stream_tells_its_items_and_asks_about_old_ones(tokenizer: Any, texts: Path) -> None:
    stream = Stream(tokenizer, corpora.news(), streams=2, tokens=600, made=2, asked=120, seed=0)
    segments = list(stream.segments(items=20, questions=3, headlines=3))
    assert len(segments) > 1
    read = ["".join(tokenizer.decode(part.ids[row]) for part in segments) for row in range(2)]
    assert read[0] != read[1]
    for segment in segments:
        assert segment.ids.shape == (2, 600)
        for row, asked in enumerate(segment.recall):
            for age, sample in asked:
                assert len(sample.ids) == 120
                assert age > 0
                question = tokenizer.decode(sample.ids).split("Answer: ")[1]
                assert f"{question} {sample.answers[0]}." in read[row]
                assert sample.answers[0] not in read[1 - row]
        assert all(len(row) == 3 for row in segment.headlines)
    first, last = segments[0].recall[0], segments[-1].recall[0]
    assert last[0][1].answers == first[0][1].answers  # the oldest item is asked about to the end
    assert last[0][0] > first[0][0]
    assert "It rained in Aland 's north on Monday.\nHeadline: Rain in Aland" in read[0]


@pytest.mark.parametrize("name", ["nq_open_oracle", "multihop_text", "ag_news", "tiny_shakespeare"])
def test_missing_files_are_named(name: str, texts: Path) -> None:
    (texts / name).rename(texts / "elsewhere")
    with pytest.raises(UserError, match=rf"{name}.*not found.*leave out the tasks.*KG_DATA_ROOT"):
        list(filler("real", tiny_tokenizer()).ids)


@pytest.mark.parametrize(
    ("file", "content", "text"),
    [
        ("nq_open_oracle/nq-open-oracle.jsonl", '{"question": "who"}\n', "entry 1: another form"),
        ("nq_open_oracle/nq-open-oracle.jsonl", "{", "line 1, column 2: no JSON"),
        ("multihop_text/hotpotqa_train.json", '[{"question": 3}]', "entry 1: another form"),
        ("multihop_text/2wikimultihopqa_corpus.json", '[["a"]]', "entry 1: another form"),
        ("ag_news/test.csv", '"1","two"\n', "a class, a headline and a text"),
    ],
)
def test_damaged_files_are_named(file: str, content: str, text: str, texts: Path) -> None:
    (texts / file).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=text):
        list(filler("real", tiny_tokenizer()).ids)
