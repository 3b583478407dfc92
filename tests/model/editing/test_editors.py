"""What holds for every editor, on every type of model: edits take, touch what they name, and are undone."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from pipeline.config import UserError
from pipeline.evaluation.editing import nats
from pipeline.evaluation.editors import EditedModel, Editing, editor_of
from pipeline.evaluation.methods import build
from pipeline.model.editing.editor import Editor, editable
from pipeline.model.editing.places import down
from pipeline.model.reader import Reader
from pipeline.weights import LanguageModel
from tests.model.editing.small_edits import (
    EDITORS,
    EDITS,
    PROMPT,
    asking,
    descent,
    edit,
    finetune,
    lora,
    memit,
    optimisation,
    rome,
)
from tests.tiny import SmallWorld

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"  # peft's call of transformers
)


def opened(method: Editing, reader: Reader) -> Editor:
    if type(method).__name__ == "Lora":
        pytest.importorskip("peft", reason="LoRA is trained by the library peft")
    return editor_of(method, reader)


def weights(reader: Reader) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in reader.lm.state_dict().items()}


def surprise(reader: Reader, asked: Any) -> float:
    return float(nats(reader, PROMPT, [asked.questions[0]], [asked.target])[0])


@pytest.mark.parametrize("name", EDITORS)
def test_an_edit_raises_the_target_and_is_undone_bit_for_bit(name: str, reader: Reader) -> None:
    before = weights(reader)
    editor = opened(EDITORS[name], reader)
    bare = surprise(reader, EDITS[0])
    with editor.edited([EDITS[0]]):
        assert surprise(reader, EDITS[0]) < bare
        assert editor.bytes > 0
    after = weights(reader)
    assert set(after) == set(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert not any(weight.requires_grad for weight in reader.lm.parameters())


@pytest.mark.parametrize("name", ["rome", "memit", "finetune"])
def test_nothing_but_the_named_weights_changes(name: str, reader: Reader) -> None:
    before = weights(reader)
    editor = opened(EDITORS[name], reader)
    layers = {"rome": [1], "memit": [0, 1], "finetune": [1, 2]}[name]
    named = {id(down(reader.lm, number).weight) for number in layers}
    names = {key for key, weight in reader.lm.named_parameters() if id(weight) in named}
    with editor.edited(EDITS[:2]):
        moved = {key for key, weight in weights(reader).items() if not torch.equal(weight, before[key])}
    assert moved == names
    assert len(moved) == len(layers)


@pytest.mark.parametrize("name", EDITORS)
def test_an_error_while_editing_leaves_the_bare_model(name: str, llama: Reader) -> None:
    before = weights(llama)
    editor = opened(EDITORS[name], llama)
    gone = replace(EDITS[1], questions=EDITS[1].questions)
    object.__setattr__(gone, "questions", ("What is it?",))
    with (
        pytest.raises(UserError, match=r"Borland \| currency \| euro.*not in"),
        editor.edited([EDITS[0], gone]),
    ):
        pytest.fail("the edit was made")
    assert all(torch.equal(weight, before[key]) for key, weight in weights(llama).items())


def test_edits_by_rome_come_one_after_another(llama: Reader) -> None:
    editor = opened(rome(), llama)
    with editor.edited(EDITS):
        together = weights(llama)
    with editor.edited(EDITS[:1]):
        editor.apply(EDITS[1:])
        apart = weights(llama)
    assert all(torch.equal(together[key], apart[key]) for key in together)


def test_lora_is_one_adapter_that_learns_on(llama: Reader) -> None:
    editor = opened(lora(), llama)
    with editor.edited(EDITS[:1]):
        first = editor.bytes
        editor.apply(EDITS[1:])
        assert editor.bytes == first
    assert editor.bytes == 0


def test_a_bounded_weight_moves_no_further(llama: Reader) -> None:
    before = down(llama.lm, 1).weight.detach().clone()
    editor = opened(finetune(layers=[1], radius=0.003, descent=descent(batch=3)), llama)
    with editor.edited(EDITS):
        moved = (down(llama.lm, 1).weight - before).abs().max().item()
    assert 0.003 - 1e-6 < moved < 0.003 + 1e-6


def test_losses_that_are_no_numbers_name_the_fact(llama: Reader) -> None:
    for method in (rome(), finetune()):
        editor = opened(method, llama)
        assert editor.before, "written while the weights are whole"
        with torch.no_grad():
            former = llama.lm.get_input_embeddings().weight.clone()
            llama.lm.get_input_embeddings().weight.fill_(float("nan"))
        try:
            with pytest.raises(
                UserError, match=r"Aland \| capital \| Dorland City.*loss at step 0 is nan; lower"
            ):
                editor.apply(EDITS[:1])
        finally:
            with torch.no_grad():
                llama.lm.get_input_embeddings().weight.copy_(former)
            editor.undo()


@pytest.mark.parametrize("name", EDITORS)
def test_an_answerer_follows_the_graph(name: str, llama: Reader, world: SmallWorld) -> None:
    model = EditedModel(opened(EDITORS[name], llama))
    assert model.name == name
    asked = ["What is the capital of Aland?", "What is the capital of Aland?", "Why?"]
    before = model.answer(asked)
    assert before.texts[0] == before.texts[1]
    assert before.facts == before.candidates == [[], [], []]
    assert before.refused == [False] * 3
    bare = weights(llama)
    try:
        model.update(world.graph, world.graph.last_snapshot)
        edited = weights(llama)
        assert any(name not in bare or not torch.equal(edited[name], bare[name]) for name in edited)
        model.answer(asked)
        model.update(world.graph, world.graph.last_snapshot)
        again = weights(llama)
        assert all(torch.equal(again[name], edited[name]) for name in edited), "edited once, not twice"
    finally:
        model.editor.undo()
    assert all(torch.equal(weight, bare[name]) for name, weight in weights(llama).items())


def test_a_method_of_conf_builds_an_answerer_in_float32(lm: LanguageModel) -> None:
    narrow = replace(lm, dtype="bfloat16")
    answerer = build(rome(), lm=narrow)
    assert isinstance(answerer, EditedModel)
    assert answerer.editor.reader.lm.dtype == torch.float32
    assert editable(lm) == lm


def test_values_out_of_range_are_named() -> None:
    bad: list[tuple[Callable[[], Any], str]] = [
        (lambda: asking(prompt="Answer:"), r"method\.asking\.prompt must hold \{question\} once"),
        (lambda: asking(wordings=[]), r"method\.asking\.wordings must hold"),
        (lambda: asking(contexts=[0]), r"method\.asking\.answer_tokens and contexts"),
        (lambda: optimisation(steps=0), r"method\.optimisation\.steps must be at least 1, not 0"),
        (lambda: optimisation(clamp=0.0), r"method\.optimisation\.clamp must be above 0"),
        (lambda: optimisation(enough=-1.0), r"method\.optimisation\.enough must be at least 0"),
        (lambda: memit(layers=[2, 1]), r"method\.layers must hold rising numbers of layers, not \[2, 1\]"),
        (lambda: memit(moment_weight=-1.0), r"method\.moment_weight must be at least 0"),
        (lambda: memit(batch=0), r"method\.batch must be at least 1"),
        (lambda: finetune(layers=[]), r"method\.layers must hold rising numbers"),
        (lambda: finetune(radius=-0.1), r"method\.radius must be at least 0"),
        (lambda: descent(batch=0), r"method\.descent\.batch must be at least 1"),
        (lambda: descent(learning_rate=0.0), r"method\.descent\.learning_rate must be above 0"),
        (lambda: lora(rank=0), r"method\.rank must be at least 1"),
    ]
    for make, text in bad:
        with pytest.raises(ValueError, match=text):
            make()


def test_unknown_types_layers_and_projections_are_named(
    llama: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"there is no layer 9; the model has 0 to 3"):
        editor_of(rome(layer=9), llama)
    with pytest.raises(UserError, match=r"no projection 'other'; it has .*down_proj"):
        editor_of(lora(projections=["other"]), llama)
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(UserError, match=r"method=lora needs the library peft: pip install"):
        editor_of(lora(), llama)
    monkeypatch.setattr(llama.lm.config, "model_type", "mamba")
    with pytest.raises(
        UserError, match=r"models of type 'mamba' can't be edited: known are gemma, .*gpt_neox"
    ):
        editor_of(rome(), llama)


def test_empty_edits_are_named() -> None:
    with pytest.raises(UserError, match=r"'Aland \| capital \| ' has an empty target"):
        edit(target="")
    with pytest.raises(UserError, match=r"has an empty subject"):
        edit(subject=" ")
    with pytest.raises(UserError, match=r"the subject 'Aland' is not in its question 'What\?'"):
        edit(questions=("What?",))
    with pytest.raises(UserError, match=r"has no question to be made with"):
        edit(questions=())
    assert edit().right == ("Dorland City",)
    assert edit(answers=("a", "Dorland City")).right == ("a", "Dorland City")
