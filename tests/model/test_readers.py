"""The frozen reader: prompts, loss and answers against slow references; facts prefilled alone and cached."""

import pytest
import torch
from torch import Tensor

from pipeline.config import UserError
from pipeline.model.attention import inject, reading
from pipeline.model.factreader import FactReader
from pipeline.model.lowrank import LowRank, decoder_layers
from pipeline.model.reader import Reader
from tests.model.tiny_systems import PROJECTIONS
from tests.tiny import FAMILIES, tiny_language_model

FACTS = ["The capital of Aland is Aland City.", "The currency of Cland is euro.", "It is so."]
QUESTIONS = ["What is the capital of Aland?", "Why?"]
ANSWERS = ["Aland City", "so"]


@pytest.fixture(scope="module", params=FAMILIES)
def reader(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return Reader(tiny_language_model(tmp_path_factory.mktemp(request.param), request.param), "cpu")


def states(facts: FactReader, text: str) -> Tensor:
    return facts._states([text])[text]


def test_prompts_are_padded_on_the_left_and_only_answers_are_labels(reader: Reader) -> None:
    tokens = reader.tokens(QUESTIONS, ANSWERS, ["", FACTS[0] + "\n"])
    for row, (question, answer) in enumerate(zip(QUESTIONS, ANSWERS, strict=True)):
        real = tokens.mask[row].bool()
        assert real.tolist() == sorted(real.tolist())
        before = FACTS[0] + "\n" if row else ""
        prompt = f"<|im_start|>user\n{before}{question}<|im_end|>\n<|im_start|>assistant\n"
        assert reader.tokenizer.decode(tokens.ids[row][real]) == prompt + answer + "<|im_end|>"
        labels = tokens.labels[row] != -100
        assert reader.tokenizer.decode(tokens.labels[row][labels]) == answer + "<|im_end|>"
        assert torch.equal(tokens.ids[row][labels], tokens.labels[row][labels])


@torch.no_grad()
def test_the_loss_of_a_batch_is_that_of_its_answer_tokens_one_by_one(reader: Reader) -> None:
    """Each question alone, with facts before it: the padding of a batch moves no question from its facts."""
    facts, shift = FactReader(reader, 1, 40, 1000), torch.tensor([[-0.3, -1.5], [0.0, 0.0]])
    texts = [FACTS[:2], FACTS[1:2]]
    losses = []
    with inject(reader.lm):
        for row in range(2):
            tokens = reader.tokens(QUESTIONS[row : row + 1], ANSWERS[row : row + 1])
            with reading(facts.facts([texts[row]], shift[row : row + 1, : len(texts[row])])):
                log_probability = torch.log_softmax(reader.lm(input_ids=tokens.ids).logits[0], dim=-1)
            losses += [
                -log_probability[place - 1, token].item()
                for place, token in enumerate(tokens.labels[0].tolist())
                if token != -100
            ]
        with reading(facts.facts(texts, shift)):
            together = reader.loss(reader.tokens(QUESTIONS, ANSWERS))
    assert together.item() == pytest.approx(sum(losses) / len(losses), rel=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("same_start", [False, True])
def test_answers_are_those_of_the_library_whenever_they_end(reader: Reader, same_start: bool) -> None:
    """Each token that a random model says is the stop once: some questions go on long after others."""
    questions = [*QUESTIONS, "What is the capital of Bland?", "What is the capital of the other one of them?"]
    tokens = reader.tokens(questions, form="What stands there? {question}")
    shift = torch.tensor([[-0.3, -1.5]]).expand(len(questions), 2)
    former, ends = reader.stop, 0
    for facts in (None, FactReader(reader, 1, 40, 1000).facts([FACTS[:2]] * len(questions), shift)):
        if facts and same_start:
            continue
        with inject(reader.lm), reading(facts):
            out = reader.lm.generate(
                input_ids=tokens.ids,
                attention_mask=tokens.mask,
                max_new_tokens=9,
                do_sample=False,
                pad_token_id=former,
            )[:, tokens.ids.shape[1] :]
            for stop in {int(token) for token in out.flatten()}:
                wanted = [row[: [*row, stop].index(stop)] for row in out.tolist()]
                reader.stop = stop
                try:
                    found = reader.generate(tokens, 9, same_start=same_start)
                finally:
                    reader.stop = former
                assert found == [
                    text.strip() for text in reader.tokenizer.batch_decode(wanted, skip_special_tokens=True)
                ]
                ends += len({len(row) for row in wanted}) > 1
    assert ends


def test_an_answer_ends_at_the_stop_token(reader: Reader) -> None:
    tokens = reader.tokens(QUESTIONS)
    full = reader.generate(tokens, 6)
    assert all(text == text.strip() for text in full)
    out = reader.lm.generate(
        input_ids=tokens.ids,
        attention_mask=tokens.mask,
        max_new_tokens=1,
        do_sample=False,
        pad_token_id=reader.stop,
    )
    former, reader.stop = reader.stop, int(out[0, -1])
    try:
        assert reader.generate(reader.tokens(QUESTIONS[:1]), 6) in (
            [""],
            [reader.tokenizer.decode([reader.stop]).strip()],
        )
    finally:
        reader.stop = former


@torch.no_grad()
def test_early_states_are_the_mean_of_the_question_alone(reader: Reader) -> None:
    hooks = list(decoder_layers(reader.lm)[1]._forward_hooks)
    found = reader.early_states(QUESTIONS, 2)
    assert list(decoder_layers(reader.lm)[1]._forward_hooks) == hooks
    for row, question in enumerate(QUESTIONS):
        ids = torch.tensor(reader.tokenizer([question], add_special_tokens=False)["input_ids"])
        layers = reader.lm(input_ids=ids, output_hidden_states=True).hidden_states
        torch.testing.assert_close(found[row], layers[2].float().mean(dim=1)[0], rtol=1e-3, atol=1e-4)


def test_texts_are_cut_to_tokens(reader: Reader) -> None:
    short, long = reader.cut(["a", FACTS[0]], 3)
    assert short == "a"
    assert FACTS[0].startswith(long)
    assert len(reader.tokenizer(long)["input_ids"]) == 3


def test_another_fact_in_the_batch_changes_nothing(reader: Reader) -> None:
    alone = states(FactReader(reader, 1, 40, 1000), FACTS[2])
    together = FactReader(reader, 1, 40, 1000)
    together.facts([FACTS], torch.zeros(1, 3))
    torch.testing.assert_close(together._cache[FACTS[2]], alone, rtol=1e-4, atol=1e-4)


def test_the_cache_is_bounded_and_forgets_the_least_recently_used(reader: Reader) -> None:
    lengths = [states(FactReader(reader, 2, 40, 1000), text).shape[3] for text in FACTS]
    facts = FactReader(reader, 2, 40, sum(lengths) - 1)
    for text in (FACTS[0], FACTS[1], FACTS[0], FACTS[2]):
        facts.facts([[text]], torch.zeros(1, 1))
        assert facts._held == sum(kept.shape[3] for kept in facts._cache.values()) <= facts.capacity
    assert list(facts._cache) == [FACTS[0], FACTS[2]]


def test_what_the_cache_can_not_hold_is_read_all_the_same(reader: Reader) -> None:
    small, large = FactReader(reader, 2, 40, 1), FactReader(reader, 2, 40, 1000)
    shift = torch.zeros(1, 3)
    few, many = small.facts([FACTS], shift), large.facts([FACTS], shift)
    assert torch.equal(few.keys, many.keys)
    assert small._held == 0
    assert not small._cache


def test_a_hit_gives_the_same_tensors_without_the_model(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = FactReader(reader, 1, 40, 1000)
    fresh = facts.facts([FACTS[:2], FACTS[1:]], torch.tensor([[-1.0, -2.0], [-3.0, -4.0]]))
    monkeypatch.setattr(facts, "prefill", None)
    again = facts.facts([FACTS[:2], FACTS[1:]], torch.tensor([[-1.0, -2.0], [-3.0, -4.0]]))
    assert torch.equal(fresh.keys, again.keys)
    assert torch.equal(fresh.values, again.values)
    assert torch.equal(fresh.shift, again.shift)


def test_a_long_fact_is_cut_and_counted(reader: Reader) -> None:
    facts = FactReader(reader, 1, 5, 1000)
    tokens = facts.facts([[FACTS[0], "a"]], torch.zeros(1, 2))
    assert facts.cut == 1
    assert tokens.keys.shape[3] == 2 * 5
    assert (tokens.shift[0] == 0).sum() == 5 + 2  # "a" and its end of line


def test_no_question_reading_a_fact_is_no_fact(reader: Reader) -> None:
    tokens = FactReader(reader, 1, 5, 1000).facts([[], []], torch.zeros(2, 3))
    assert (tokens.shift == torch.finfo(torch.float32).min).all()


@pytest.fixture
def change(reader: Reader) -> LowRank:
    torch.manual_seed(0)
    return LowRank(reader.lm, PROJECTIONS[reader.settings.name.removeprefix("tiny-")], 1, 2, 4.0)


@torch.no_grad()
def test_a_low_rank_change_is_nothing_at_the_start_and_gone_afterwards(
    reader: Reader, change: LowRank
) -> None:
    ids = reader.tokens(["Why?"]).ids
    before = reader.lm(input_ids=ids).logits
    with change.attached(reader.lm):
        assert torch.equal(reader.lm(input_ids=ids).logits, before)
        for up in change.up:
            up.normal_()
        assert not torch.allclose(reader.lm(input_ids=ids).logits, before, atol=1e-2)
    assert torch.equal(reader.lm(input_ids=ids).logits, before)
    with pytest.raises(ZeroDivisionError), change.attached(reader.lm):
        raise ZeroDivisionError
    assert torch.equal(reader.lm(input_ids=ids).logits, before)


@torch.no_grad()
def test_a_low_rank_change_is_that_of_the_weights(reader: Reader, change: LowRank) -> None:
    ids = reader.tokens(["Why?"]).ids
    for up in change.up:
        up.normal_(std=0.1)
    with change.attached(reader.lm):
        hooked = reader.lm(input_ids=ids).logits
    layers = decoder_layers(reader.lm)
    weights = [layers[number].get_submodule(name).weight for number, name in change._places]
    former = [weight.clone() for weight in weights]
    for weight, down, up in zip(weights, change.down, change.up, strict=True):
        weight += 2.0 * up @ down  # α/r = 4/2
    merged = reader.lm(input_ids=ids).logits
    for weight, old in zip(weights, former, strict=True):
        weight.copy_(old)
    torch.testing.assert_close(hooked, merged, rtol=1e-3, atol=1e-4)


def test_gradients_reach_every_part_of_a_low_rank_change(reader: Reader, change: LowRank) -> None:
    with torch.no_grad():
        for up in change.up:
            up.normal_(std=0.1)
    with change.attached(reader.lm):
        reader.loss(reader.tokens(QUESTIONS, ANSWERS)).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in change.parameters())
    assert all(p.grad is None for p in reader.lm.parameters())


def test_a_projection_or_layer_that_is_not_there_is_an_error_that_lists_what_is(reader: Reader) -> None:
    known = PROJECTIONS[reader.settings.name.removeprefix("tiny-")][0]
    with pytest.raises(UserError, match=f"layer 1 has no projection 'x_proj'; it has .*{known}"):
        LowRank(reader.lm, ["x_proj"], 1, 2, 4.0)
    with pytest.raises(UserError, match="first_layer is 4, but the model has layers 0 to 3"):
        LowRank(reader.lm, [known], 4, 2, 4.0)


def test_a_model_without_a_stack_of_layers_is_an_error(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader.lm.config, "num_hidden_layers", 5)
    with pytest.raises(UserError, match="found no stack of 5 layers"):
        decoder_layers(reader.lm)
