"""DySK-Attn: the fusion against slow references, its limits, and facts as vectors."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.config import UserError
from pipeline.memory.facts import Fact
from pipeline.model.dysk import DyskSystem, SparseFusion
from pipeline.model.facts import SPACES, FactVectors, rotate_vectors
from pipeline.model.reader import Reader
from pipeline.weights import Encoder, LanguageModel
from tests.model.tiny_systems import dysk, dysk_dense, opened, shaken, some_examples
from tests.tiny import FAMILIES, SmallWorld, tiny_language_model

QUESTIONS = ["What is the capital of Aland?", "Why?"]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fusion(**changes: Any) -> SparseFusion:
    torch.manual_seed(0)
    made = SparseFusion(6, 9, dysk(**changes))
    torch.nn.init.normal_(made.gate.weight)
    return made


@torch.no_grad()
def test_scores_are_products_of_projected_states_and_projected_facts() -> None:
    made, states, facts = fusion(), drawn(2, 3, 6), drawn(2, 4, 9, seed=1)
    scores = made.scores(states, facts)
    for b in range(2):
        for t in range(3):
            for n in range(4):
                slow = made.query(states[b, t]) @ made.key(facts[b, n]) / 8**0.5
                assert scores[b, t, n].item() == pytest.approx(slow.item(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("kind", ["residual", "norm"])
@torch.no_grad()
def test_the_fusion_is_a_gated_sum_of_the_best_facts(kind: str) -> None:
    made, states, facts = fusion(fusion=kind), drawn(2, 3, 6), drawn(2, 4, 9, seed=1)
    scores = made.scores(states, facts)
    fused, gate = made(states, facts, scores, 2)
    for b in range(2):
        for t in range(3):
            best = sorted(range(4), key=lambda n: -scores[b, t, n])[:2]
            weights = torch.softmax(scores[b, t, best], dim=-1)
            found = sum(w * made.value(facts[b, n]) for w, n in zip(weights, best, strict=True))
            share = torch.sigmoid(made.gate(torch.cat([states[b, t], found])))
            slow = states[b, t] + share * found
            torch.testing.assert_close(gate[b, t], share)
            torch.testing.assert_close(fused[b, t], made.norm(slow) if made.norm else slow)


@pytest.mark.parametrize("count", [1, 2, 7, 512, 513, 10_000])
@torch.no_grad()
def test_pruned_with_k_of_all_is_dense(count: int) -> None:
    made, states, facts = fusion(), drawn(2, 3, 6), drawn(2, count, 9, seed=1)
    scores = made.scores(states, facts)
    weights = torch.softmax(scores, dim=-1) @ facts
    found = made.value(weights)
    dense = states + torch.sigmoid(made.gate(torch.cat([states, found], dim=-1))) * found
    for k in (count, count + 100):
        torch.testing.assert_close(made(states, facts, scores, k)[0], dense)
    assert count == 1 or not torch.allclose(made(states, facts, scores, 1)[0], dense)


@torch.no_grad()
def test_the_gate_starts_where_it_is_told() -> None:
    torch.manual_seed(0)
    made = SparseFusion(6, 9, dysk(gate=0.3))
    _, gate = made(drawn(2, 3, 6), drawn(2, 4, 9), drawn(2, 3, 4), 2)
    torch.testing.assert_close(gate, torch.full((2, 3, 1), 0.3))


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_without_a_gate_the_residual_form_is_the_base_model(
    family: str, world: SmallWorld, encoder: Encoder, tmp_path: Path
) -> None:
    system = opened(dysk(), world, tiny_language_model(tmp_path, family), encoder)
    ids = system.reader.tokens(QUESTIONS)
    base = system.reader.lm(input_ids=ids.ids, attention_mask=ids.mask).logits
    answers = system.reader.generate(ids, 4)

    def fused() -> Tensor:
        with system.attached(), system._candidates(system._search(QUESTIONS).facts):
            out: Tensor = system.reader.lm(input_ids=ids.ids, attention_mask=ids.mask).logits
        return out

    assert not torch.allclose(fused(), base, atol=1e-3)
    for gate in system.fusions:
        gate.gate.bias.fill_(-torch.inf)
    assert torch.equal(fused(), base)
    with system.attached():
        assert system.reply(QUESTIONS).texts == answers
        plain = system.reader.lm(input_ids=ids.ids, attention_mask=ids.mask).logits
    assert torch.equal(plain, base), "attached, but without candidates"


@pytest.mark.parametrize("space", SPACES)
def test_dense_and_k_of_all_candidates_give_the_same_loss(
    space: str, world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    losses = []
    kept: list[dict[str, Any]] = [{"dense": True, "k": 1}, {"k": 12}, {"k": 1}]
    for changes in kept:
        system = opened(dysk(space=space, **changes), world, lm, encoder)
        with system.attached():
            losses.append(system.losses(some_examples(system))["loss"].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[0] != pytest.approx(losses[2], rel=1e-6)


@pytest.mark.parametrize("k", [12, 100])
def test_the_dense_ablation_is_dysk_that_keeps_as_many_as_there_are(
    k: int, world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    """N = 12: answers, shares, losses and gradients are the same; with k = 1 they are not."""
    told = []
    for method in (dysk_dense(k=k), dysk(k=k), dysk(k=1)):
        system = opened(method, world, lm, encoder)
        shaken(system)
        with system.attached():
            reply = system.reply(QUESTIONS)
            system.losses(some_examples(system))["loss"].backward()
        slopes = torch.cat([p.grad.flatten() for p in system.parameters()])
        told.append((reply, slopes))
    (dense, slopes), (kept, others), (one, last) = told
    assert dense == kept
    assert len(dense.facts[0]) == 12 > len(one.facts[0])
    torch.testing.assert_close(slopes, others)
    assert not torch.allclose(slopes, last)


def test_the_dense_ablation_must_be_dense() -> None:
    with pytest.raises(ValueError, match=r"method\.dense must be true: dysk_dense is dysk that"):
        dysk_dense(dense=False)


def test_the_losses_supervise_the_positions_that_ask_for_the_answer(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    """L_Aux alone, by gradient descent on one layer's maps, brings the gold fact to the front."""
    system = opened(dysk(layers=[1], alpha=1.0), world, lm, encoder)
    examples = some_examples(system, 4)
    optimizer = torch.optim.Adam(system.parameters(), lr=0.02)
    curve = []
    with system.attached():
        for _ in range(12):
            parts = system.losses(examples)
            optimizer.zero_grad()
            parts["loss"].backward()
            optimizer.step()
            curve.append((parts["aux_loss"].item(), parts["retrieval_accuracy"].item()))
    assert curve[-1][0] < 0.5 * curve[0][0]
    assert curve[-1][1] == 1.0
    assert 0.3 < parts["gate"].item() < 1


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"fusion": "sum"}, "method.fusion must be one of residual, norm, not 'sum'"),
        ({"gate": 0.0}, r"method.gate must be between 0 and 1, not 0\.0"),
        ({"gate": 1.0}, r"method.gate must be between 0 and 1, not 1\.0"),
        ({"layers": []}, r"method.layers must name at least one layer, counted from 0, not \[\]"),
        ({"layers": [-1]}, r"method.layers must name at least one layer, counted from 0, not \[-1\]"),
        ({"width": 0}, r"method.width, answer_tokens and k must be at least 1"),
        ({"answer_tokens": 0}, r"method.width, answer_tokens and k must be at least 1"),
    ],
)
def test_values_out_of_range_are_errors(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        dysk(**changes)


def test_a_layer_that_the_model_lacks_is_an_error(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    with pytest.raises(UserError, match=r"method\.layers names 9, but the model has layers 0 to 3"):
        opened(dysk(layers=[1, 9]), world, lm, encoder)


def vectors(system: DyskSystem, space: str, world: SmallWorld) -> FactVectors:
    return FactVectors(
        system.memory, space, *rotate_vectors(world.paths.rotate / "rotate.safetensors", world.graph)
    )


def test_a_fact_is_its_heads_relations_and_tails_vectors(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    system = opened(dysk(), world, lm, encoder)
    memory = system.memory
    tables = load_file(world.paths.rotate / "rotate.safetensors")
    head, relation, tail = memory.triples[5].tolist()
    text = torch.cat([memory.entities.vectors[head], memory.relations.vectors[relation],
                      memory.entities.vectors[tail]])  # fmt: skip
    ids = [world.graph.entities["key"].to_pylist().index(memory.entities.keys[e]) for e in (head, tail)]
    kind = world.graph.relations["key"].to_pylist().index(memory.relations.keys[relation])
    rotate = torch.cat([tables["entities"][ids[0]], tables["relations"][kind], tables["entities"][ids[1]]])
    for space, expected in (("text", text), ("rotate", rotate), ("fused", torch.cat([rotate, text]))):
        made = vectors(system, space, world)
        found = made(torch.tensor([[5, -1]]))
        assert found.shape == (1, 2, made.width)
        torch.testing.assert_close(found[0, 0], expected)
        assert torch.equal(found[0, 1], made(torch.tensor([[0]]))[0, 0])


def test_new_entities_are_folded_in(world: SmallWorld, lm: LanguageModel, encoder: Encoder) -> None:
    """A new country with the facts of a known one gets a vector near to what its facts ask for."""
    system = opened(dysk(space="rotate"), world, lm, encoder)
    memory, made = system.memory, system.vectors
    made(torch.tensor([[0]]))
    known = [memory.fact(row) for row in memory.facts_of(memory.entities.row("Q0"))]
    new = [
        Fact("NEW", fact.relation, fact.tail, "Newland", fact.relation_noun, fact.tail_label)
        for fact in known
    ]
    alone = Fact("A", "ruled by", "B", "A", "ruler", "B")
    rows = memory.upsert([*new, alone]).facts
    found = made(torch.tensor([rows]))[0]
    width = made.width // 3
    assert found[0, :width].abs().sum() > 0
    entities, relations = made._known
    residuals = []
    for candidate in (found[0, :width], *list(entities.values())[:5]):
        h = torch.complex(*candidate.chunk(2))
        residuals.append(sum(
            (h * torch.complex(*relations[f.relation].chunk(2)) - torch.complex(*entities[f.tail].chunk(2)))
            .abs().square().sum().item() for f in new
        ))  # fmt: skip
    assert residuals[0] == min(residuals)
    assert found[-1].abs().sum() == 0, "neither of its entities nor its relation has a neighbour"
    incoming = memory.upsert([Fact("Q0", known[0].relation, "T", "", "", "Tail")]).facts
    assert made(torch.tensor([incoming]))[0, 0, -width:].abs().sum() > 0


def test_an_unknown_space_is_an_error(world: SmallWorld, lm: LanguageModel, encoder: Encoder) -> None:
    with pytest.raises(ValueError, match=r"method\.space must be one of rotate, text, fused, not 'bert'"):
        opened(dysk(space="bert"), world, lm, encoder)


def test_rotate_vectors_of_other_tables_are_errors(world: SmallWorld, tmp_path: Path) -> None:
    file = tmp_path / "rotate.safetensors"
    with pytest.raises(UserError, match=r"rotate\.safetensors: no RotatE vectors .*; run the stage `embed`"):
        rotate_vectors(file, world.graph)
    file.write_bytes(b"no tensor")
    with pytest.raises(UserError, match="no RotatE vectors"):
        rotate_vectors(file, world.graph)
    save_file({"entities": torch.zeros(2, 4)}, file)
    with pytest.raises(UserError, match="no RotatE vectors"):
        rotate_vectors(file, world.graph)
    save_file({"entities": torch.zeros(2, 4), "relations": torch.zeros(2, 4)}, file)
    with pytest.raises(UserError, match="belongs to other tables; run the stage `embed` again"):
        rotate_vectors(file, world.graph)


def test_a_reader_is_what_its_name_says(lm: LanguageModel) -> None:
    assert Reader(lm, "cpu").layers == 4
    assert Reader(lm, "cpu").hidden == 48
