"""ROME's and MEMIT's closed forms against what they are derived from, and what their parts read."""

from dataclasses import replace

import pytest
import torch

from pipeline.evaluation.editors import editor_of
from pipeline.model.editing.memit import MemitEditor, spread
from pipeline.model.editing.places import down, layer
from pipeline.model.editing.prompts import Batch, at_subject, contexts, rows, split
from pipeline.model.editing.rome import RomeEditor, rank_one
from pipeline.model.editing.statistics import moments
from pipeline.model.editing.target import wanted
from pipeline.model.reader import Reader
from tests.model.editing.small_edits import EDITS, PROMPT, edit, memit, optimisation, rome, statistics


def drawn(inner: int = 12, outer: int = 5, count: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Keys, what they shall give more, and a moment of some text."""
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(40, inner, generator=generator, dtype=torch.float64)
    keys = torch.randn(count, inner, generator=generator, dtype=torch.float64)
    return keys, torch.randn(count, outer, generator=generator, dtype=torch.float64), text.T @ text / 40


def test_the_key_gives_its_value_and_keys_apart_from_it_what_they_gave() -> None:
    keys, more, moment = drawn()
    change = rank_one(keys[0], more[0], moment)
    assert torch.allclose(change @ keys[0], more[0])
    assert torch.linalg.matrix_rank(change) == 1
    across = torch.linalg.solve(moment, keys[0])
    apart = keys[1] - (keys[1] @ across) / (keys[0] @ across) * keys[0]
    assert torch.allclose(change @ apart, torch.zeros(5, dtype=torch.float64), atol=1e-12)


def test_no_other_change_that_gives_the_value_does_less_to_text() -> None:
    keys, more, moment = drawn()
    best = rank_one(keys[0], more[0], moment)
    cost = torch.trace(best @ moment @ best.T)
    for seed in range(20):
        other = torch.randn(5, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        other -= torch.outer(other @ keys[0], keys[0]) / (keys[0] @ keys[0])  # the key gives the same
        moved = best + 0.1 * other
        assert torch.allclose(moved @ keys[0], more[0])
        assert torch.trace(moved @ moment @ moved.T) > cost


def test_without_weight_for_text_the_spread_is_least_squares() -> None:
    keys, rest, moment = drawn(count=30)
    fitted = torch.linalg.lstsq(keys, rest).solution.T
    assert torch.allclose(spread(keys, rest, moment, 0.0), fitted)
    few, aims, _ = drawn(count=3)
    assert torch.allclose(spread(few, aims, moment, 1e-9) @ few.T, aims.T, atol=1e-5)


def test_one_key_is_romes_change_where_text_weighs_nothing() -> None:
    keys, rest, moment = drawn(count=1)
    assert torch.allclose(spread(keys, rest, moment, 1e-6), rank_one(keys[0], rest[0], moment), atol=1e-4)


def test_rome_maps_its_key_to_its_value(reader: Reader) -> None:
    editor = RomeEditor(rome(), reader)
    texts = editor.rows(EDITS[:1], essence=True)
    told = [row for row in texts if row.target]
    module = down(reader.lm, 1)
    taken, _ = at_subject(reader, told, module)
    key = taken.mean(dim=0)
    found = wanted(reader, EDITS[:1], texts, module, rome().optimisation)
    before = module(key).detach()
    with editor.edited(EDITS[:1]):
        assert torch.allclose(module(key), before + found.delta[0], atol=1e-4)
    assert found.delta[0].norm() > 0.1


def test_memit_brings_the_last_layer_nearer_to_z(reader: Reader) -> None:
    editor = MemitEditor(memit(moment_weight=1e-4), reader)
    texts = editor.rows(EDITS, essence=True)
    top = layer(reader.lm, 1)
    asked = [next(row for row in texts if row.edit == place) for place in range(len(EDITS))]
    parts = [editor.rows(EDITS[:2], essence=True), editor.rows(EDITS[2:], essence=True)]
    found = [
        wanted(reader, e, p, top, memit().optimisation)
        for e, p in zip((EDITS[:2], EDITS[2:]), parts, strict=True)
    ]
    aim = torch.cat([one.start + one.delta for one in found])
    before = (aim - at_subject(reader, asked, top)[1]).norm(dim=1)
    with editor.edited(EDITS):
        after = (aim - at_subject(reader, asked, top)[1]).norm(dim=1)
    assert (after < 0.8 * before).all()


def test_edits_do_not_see_each_other_while_their_values_are_sought(reader: Reader) -> None:
    editor = RomeEditor(rome(), reader)
    module = layer(reader.lm, 1)
    settings = optimisation(enough=1.0, steps=5)
    together = wanted(reader, EDITS, editor.rows(EDITS, essence=True), module, settings)
    for place, one in enumerate(EDITS):
        alone = wanted(reader, [one], editor.rows([one], essence=True), module, settings)
        assert torch.allclose(alone.delta[0], together.delta[place], rtol=1e-2, atol=1e-3)
        assert alone.steps == together.steps[place : place + 1]


def test_a_batch_of_one_is_an_edit(llama: Reader) -> None:
    states = []
    for batch in (1, 4):
        with MemitEditor(memit(batch=batch), llama).edited(EDITS[:1]):
            states.append(down(llama.lm, 1).weight.detach().clone())
    assert torch.equal(*states)


def test_the_value_stays_within_its_bounds_and_lowers_the_loss(llama: Reader) -> None:
    editor = RomeEditor(rome(), llama)
    texts, module = editor.rows(EDITS[:1], essence=True), down(llama.lm, 1)
    losses = [
        wanted(llama, EDITS[:1], texts, module, optimisation(steps=steps, enough=0.0)).loss[0]
        for steps in (1, 8)
    ]
    assert losses[1] < losses[0]
    held = wanted(llama, EDITS[:1], texts, module, optimisation(steps=8, clamp=0.5))
    assert held.delta.norm() <= 0.5 * held.start.norm() * (1 + 1e-5)
    still = wanted(llama, EDITS[:1], texts, module, optimisation(enough=1000.0))
    assert not still.delta.any()
    assert still.steps == [0]


def test_what_stands_before_the_subject_is_computed_once_with_the_same_states(llama: Reader) -> None:
    before = contexts(llama, PROMPT, [3, 5], 0)
    texts = rows(llama, EDITS, PROMPT, before, "\n", essence=True)
    once, anew = (Batch(llama, texts, still=still) for still in (True, False))
    assert once.ids.shape[1] < anew.ids.shape[1]
    for place, row in enumerate(texts):
        length = len(row.after) + max(0, len(row.target) - 1)
        left = once.states()[place, :length]
        start = len(row.before)
        assert torch.allclose(left, anew.states()[place, start : start + length], atol=1e-4)


def test_the_subjects_last_token_is_found(reader: Reader) -> None:
    before = contexts(reader, PROMPT, [4], 0)
    assert before[:2] == [split(PROMPT)[0], ""]
    assert before[2].endswith("\n\n")
    assert contexts(reader, PROMPT, [4], 0) == before
    for row in rows(reader, EDITS, PROMPT, before, "\n", essence=True):
        one = EDITS[row.edit]
        decode = reader.tokenizer.decode
        assert decode([*row.before, row.after[0]]).endswith(one.subject)
        rest = f"?\nAnswer: {one.target}\n" if row.target else " is a"
        assert decode([*row.after[1:], *row.target]) == rest
    named = edit("Ålesund", "x")
    [row] = rows(reader, [named], PROMPT, [""], "", essence=False)
    assert reader.tokenizer.decode([*row.before, row.after[0]]).endswith("Ålesund")


def test_moments_are_the_mean_over_text_and_come_from_the_cache(
    reader: Reader, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("texts")
    monkeypatch.setenv("KG_DATA_ROOT", str(folder))
    monkeypatch.setenv("KG_CACHE", str(folder))
    texts = ["the capital of Aland", "ships of Borland sail to the harbour", ""]
    (folder / "some.txt").write_text("\n".join(texts), encoding="utf-8")
    asked = statistics(text="some.txt", tokens=1000, ridge=0.0)
    found = moments(reader, [0, 2], asked)
    seen: list[torch.Tensor] = []
    handle = down(reader.lm, 2).register_forward_hook(lambda _, given, __: seen.append(given[0][0]))
    with torch.no_grad():
        for text in texts[:2]:
            reader.lm(input_ids=torch.tensor(reader.encode([text])))
    handle.remove()
    keys = torch.cat(seen).double()
    assert torch.allclose(found[1], keys.T @ keys / len(keys), rtol=1e-3, atol=1e-4)
    (folder / "some.txt").unlink()
    assert torch.equal(moments(reader, [2], asked)[0], found[1])
    ridged = moments(reader, [2], replace(asked, ridge=0.5))[0] - found[1]
    assert torch.allclose(
        ridged, 0.5 * found[1].diagonal().mean() * torch.eye(len(ridged), dtype=torch.float64)
    )


def test_moments_of_another_model_are_not_taken(readers: object, llama: Reader) -> None:
    bare = moments(llama, [1], statistics())[0]
    editor = editor_of(rome(), llama)
    with editor.edited(EDITS[:1]):
        assert not torch.equal(moments(llama, [1], statistics(tokens=200))[0], bare)
    assert torch.equal(moments(llama, [1], statistics())[0], bare)


def test_values_of_statistics_are_checked() -> None:
    with pytest.raises(ValueError, match=r"method\.statistics\.tokens must be at least 1"):
        statistics(tokens=0)
    with pytest.raises(ValueError, match=r"method\.statistics\.ridge must be at least 0"):
        statistics(ridge=-1.0)
