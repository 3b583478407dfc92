"""The retriever's three lessons: what is relevant, what the answer's loss says, what the reward says."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from pipeline.longcontext import ppo as proximal
from pipeline.longcontext.answering import Answers, Recorded, losses
from pipeline.longcontext.attending import Watching
from pipeline.longcontext.losses import gates, hybrid_loss, relevance_loss
from pipeline.longcontext.policy import NEVER, NONE, Value, best, drawn, log_probability
from pipeline.longcontext.retriever import Retriever
from pipeline.longcontext.running import Runner
from pipeline.longcontext.settings import Hybrid, Ppo, Towers, Warm

Row = dict[str, float]
Tell = Callable[[Row], object]
"""Takes a step's figures."""
CLIP = 1.0
"""Largest norm of a gradient."""


class Whitened:
    """Recorded states as both towers take them, so that they are whitened once.

    Args:
        retriever: calibrated.
        recorded: of one fold.
    """

    def __init__(self, retriever: Retriever, recorded: Recorded) -> None:
        lessons = recorded.lessons
        self.blocks: Float[Tensor, "R N T P"] = retriever.whitened(recorded.texts.states)
        self.asking: Float[Tensor, "B T P"] = retriever.whitened(recorded.asking)
        self.rows, self.count = lessons.rows, recorded.blocks
        self.alike = lessons.alike

    def scores(self, retriever: Retriever, questions: Int[Tensor, " B"]) -> Float[Tensor, "B N"]:
        """Return the scores of the blocks of each question's own text."""
        rows, places = self.rows[questions].unique(return_inverse=True)  # type: ignore[no-untyped-call]
        summaries = retriever.pooled(self.blocks[rows])[places]
        return retriever.scores(retriever.asks(self.asking[questions]), summaries)

    def against(
        self, retriever: Retriever, questions: Int[Tensor, " B"], blocks: Int[Tensor, " M"]
    ) -> Float[Tensor, "B M"]:
        """Return the scores of any blocks, numbered through all texts."""
        parts = retriever.pooled(self.blocks.flatten(0, 1)[blocks]).unflatten(-1, (retriever.parts, -1))  # type: ignore[no-untyped-call]
        query = retriever.asks(self.asking[questions])
        return retriever.logits(torch.einsum("bd,mjd->bmj", query, parts))

    def everywhere(self, gold: Bool[Tensor, "B N"]) -> Bool[Tensor, "B M"]:
        """Return which blocks of all texts are a question's own `gold` ones."""
        own = torch.nn.functional.one_hot(self.rows, len(self.blocks)).bool()
        return (own[:, :, None] & gold[:, None]).flatten(1)

    def known(self, gold: Bool[Tensor, "B M"]) -> Bool[Tensor, "B M"]:
        """Return of which blocks of all texts it is known whether they answer.

        It isn't of another text's needle that is asked for in the same words.
        """
        words = torch.nn.functional.one_hot(self.alike).T.float()
        of_words = (words @ gold.float() > 0)[self.alike]
        own = torch.arange(gold.shape[1], device=gold.device)[None] // self.count == self.rows[:, None]
        return own | ~of_words


def started(width: int, towers: Towers, states: Float[Tensor, "n C"], seed: int) -> Retriever:
    """Return a retriever whose whitening is that of `states`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        retriever = Retriever(width, towers.kept, towers.parts, towers.size)
    retriever = retriever.to(states.device)
    retriever.calibrate(states)
    return retriever


def warmed(
    retriever: Retriever, whitened: Whitened, gold: Bool[Tensor, "B N"], warm: Warm, seed: int, tell: Tell
) -> Retriever:
    """Return a copy that has learned which blocks are relevant; see `relevance_loss`."""
    retriever = copy.deepcopy(retriever)
    device = whitened.blocks.device
    generator = torch.Generator(device).manual_seed(seed)
    relevant = whitened.everywhere(gold)
    known = whitened.known(relevant)
    optimiser = torch.optim.AdamW(
        retriever.parameters(), lr=warm.learning_rate, weight_decay=warm.weight_decay
    )
    schedule = CosineAnnealingLR(optimiser, max(1, warm.steps))
    for _ in range(warm.steps):
        questions = _some(len(gold), warm.questions, generator, device)
        needed = relevant[questions].any(dim=0).float()
        chance = needed + torch.rand(len(needed), generator=generator, device=device) * 0.5
        blocks = chance.topk(min(warm.blocks, len(chance))).indices
        fetched, asking = whitened.blocks.flatten(0, 1)[blocks], whitened.asking[questions]
        parts = retriever.pooled(_thinned(fetched, warm.dropout, generator))
        query = retriever.asks(_thinned(asking, warm.dropout, generator))
        alike = torch.einsum("bd,mjd->bmj", query, parts.unflatten(-1, (retriever.parts, -1)))  # type: ignore[no-untyped-call]
        scores = retriever.logits(alike)
        loss = relevance_loss(
            scores, relevant[questions][:, blocks], known[questions][:, blocks], warm.margin
        )
        _step(loss, optimiser, retriever)
        schedule.step()
        tell({"loss": number(loss)})
    return retriever


def mixed(
    retriever: Retriever,
    runner: Runner,
    recorded: Recorded,
    whitened: Whitened,
    hybrid: Hybrid,
    seed: int,
    tell: Tell,
) -> Retriever:
    """Return a copy that has learned by the hybrid loss, through gates in the frozen model's attention."""
    retriever = copy.deepcopy(retriever)
    device = whitened.blocks.device
    generator = torch.Generator(device).manual_seed(seed)
    optimiser = torch.optim.Adam(retriever.parameters(), lr=hybrid.learning_rate)
    for _ in range(hybrid.steps):
        questions = _some(len(whitened.rows), hybrid.questions, generator, device)
        scores = whitened.scores(retriever, questions)
        chosen = scores.topk(min(hybrid.blocks, scores.shape[1])).indices
        opened, bias = gates(scores, chosen, hybrid.temperature)
        rows = recorded.lessons.rows[questions]
        replay = Watching(runner, recorded.texts, rows, chosen, bias, hybrid.attention_term)
        lost, right = losses(runner, recorded, questions, replay)
        loss = hybrid_loss(lost, opened, replay.total, hybrid)
        _step(loss, optimiser, retriever)
        tell(
            {
                "loss": number(loss),
                "task": number(lost.mean()),
                "gates": number(opened.sum(dim=1).mean()),
                "attention": number(replay.total.mean()),
                "right": number(right.float().mean()),
            }
        )
    return retriever


def rewarded(
    retriever: Retriever, answers: Answers, whitened: Whitened, ppo: Ppo, limit: int, seed: int, tell: Tell
) -> Retriever:
    """Return a copy that has learned by PPO; see `pipeline.longcontext.ppo`.

    Blocks of other texts are never worth fetching. A term keeps the likeliest of them below the stop action,
    because texts to come have a thousand times as many blocks as those of training.
    """
    retriever = copy.deepcopy(retriever)
    device = whitened.blocks.device
    generator = torch.Generator(device).manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        critic = Value(retriever.blocks.turn.out_features, ppo.hidden).to(device)
    optimiser = torch.optim.Adam([*retriever.parameters(), *critic.parameters()], lr=ppo.learning_rate)
    schedule = CosineAnnealingLR(optimiser, max(1, ppo.rounds))
    known = whitened.known(whitened.everywhere(answers.recorded.lessons.gold))
    for _ in range(ppo.rounds):
        questions = _some(len(whitened.rows), ppo.questions, generator, device).repeat(ppo.samples)
        with torch.no_grad():
            scores = whitened.scores(retriever, questions) / ppo.temperature
            order = drawn(scores, limit, generator)
            old, entropy = log_probability(scores, order, limit)
            values = critic(retriever.asks(whitened.asking[questions]), scores)
        lost, right = answers(questions, order)
        rewards = proximal.reward(lost, order, ppo)
        gains = proximal.advantages(rewards, values)
        for _ in range(ppo.epochs):
            places = torch.randperm(len(questions), generator=generator, device=device)
            for some in places.split(ppo.batch):  # type: ignore[no-untyped-call]
                scores = whitened.scores(retriever, questions[some]) / ppo.temperature
                new, now = log_probability(scores, order[some], limit)
                expected = critic(retriever.asks(whitened.asking[questions[some]]), scores)
                loss = proximal.objective(new, old[some], gains[some], now, expected, rewards[some], ppo)
                if ppo.others:
                    loss = loss + ppo.others * _others(
                        retriever, whitened, questions[some], known, ppo, generator
                    )
                _step(loss, optimiser, nn.ModuleList([retriever, critic]))
        schedule.step()
        tell(
            {
                "reward": number(rewards.mean()),
                "right": number(right.float().mean()),
                "blocks": number((order != NONE).sum(dim=1).float().mean()),
                "entropy": number(entropy.mean()),
                "loss": number(lost.mean()),
            }
        )
    return retriever


def _others(
    retriever: Retriever,
    whitened: Whitened,
    questions: Int[Tensor, " B"],
    known: Bool[Tensor, "B M"],
    ppo: Ppo,
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    """Return by how much blocks of other texts come near the stop action."""
    device = questions.device
    blocks = _some(known.shape[1], ppo.other_blocks, generator, device)
    scores = whitened.against(retriever, questions, blocks)
    own = blocks[None] // whitened.count == whitened.rows[questions][:, None]
    scores = scores.masked_fill(own | ~known[questions][:, blocks], NEVER)
    return torch.nn.functional.softplus(ppo.margin + scores.logsumexp(dim=1)).mean()


def chosen(retriever: Retriever, whitened: Whitened, limit: int, threshold: float) -> Int[Tensor, "B K"]:
    """Return the blocks that are fetched for every question: those above a threshold, `limit` at most."""
    with torch.no_grad():
        questions = torch.arange(len(whitened.rows), device=whitened.rows.device)
        return best(whitened.scores(retriever, questions), limit, threshold)


def number(value: Float[Tensor, ""]) -> float:
    """Return a figure that is told."""
    return float(value.detach())


def _thinned(
    states: Float[Tensor, "*n P"], share: float, generator: torch.Generator
) -> Float[Tensor, "*n P"]:
    kept = torch.rand(states.shape, generator=generator, device=states.device) >= share
    return states * kept / (1 - share)


def _some(total: int, count: int, generator: torch.Generator, device: Any) -> Int[Tensor, " n"]:
    return torch.randperm(total, generator=generator, device=device)[:count]


def _step(loss: Float[Tensor, ""], optimiser: torch.optim.Optimizer, trained: nn.Module) -> None:
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(trained.parameters(), CLIP)
    optimiser.step()
