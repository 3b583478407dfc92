"""Which heads look things up: scores on random tokens that are repeated (RazorAttention, section 3.3).

On such text nothing can be guessed but by looking at the former copy. An echo head attends to the former
occurrence of the present token, an induction head to the token that followed it.
"""

import hashlib
import json
import logging
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pipeline.longcontext.baselines.full import RotatedKV
from pipeline.longcontext.baselines.settings import Razor
from pipeline.longcontext.context import Seen
from pipeline.longcontext.running import Runner

log = logging.getLogger(__name__)

QUERIES = 128
"""Tokens that are read at once; their attention to all that came before is held in memory."""


class Scoring(RotatedKV):
    """FullKV that sums, for each head, the attention to former copies of the tokens that it reads.

    Args:
        layers: of the model.
        rotary: the model's rotary embedding.
        period: tokens after which the text repeats itself.
        length: of the text.
    """

    def __init__(self, layers: int, rotary: nn.Module, period: int, length: int) -> None:
        super().__init__(layers, rotary, length)
        self.period, self.length = period, length
        self.sums: list[dict[str, Tensor]] = [{} for _ in range(layers)]

    def read(
        self,
        layer: int,
        queries: Float[Tensor, "B H T D"],
        keys: Float[Tensor, "B G T D"],
        values: Float[Tensor, "B G T D"],
    ) -> Seen:
        """See `Context.read`."""
        seen = super().read(layer, queries, keys, values)
        turned = self.rotation.turned(queries, seen.queries_at)
        every = seen.keys.repeat_interleave(queries.shape[1] // keys.shape[1], dim=1)
        logits = (turned @ every.transpose(2, 3)).float() * queries.shape[-1] ** -0.5
        places = torch.arange(every.shape[2], device=keys.device)
        back = seen.queries_at[:, None] - places
        attention = logits.masked_fill(back < 0, -torch.inf).softmax(dim=-1)
        again = back.remainder(self.period)
        former = (back > 0) & (seen.queries_at[:, None] >= self.period)
        ways = {"echo": former & (again == 0), "induction": former & (again == self.period - 1)}
        for way, aimed in ways.items():
            given = (attention * aimed).sum(dim=(0, 2, 3)) / len(queries)
            self.sums[layer][way] = self.sums[layer].get(way, 0) + given
        return seen

    def scores(self, way: str) -> Float[Tensor, "L H"]:
        """Return each head's mean attention per token after the first copy; `way`: `echo` or `induction`."""
        return torch.stack([sums[way] for sums in self.sums]).cpu() / (self.length - self.period)


@torch.no_grad()
def head_scores(runner: Runner, tokens: int, repeats: int, seed: int) -> dict[str, Float[Tensor, "L H"]]:
    """Return the `echo` and `induction` scores of all heads, from 0 to 1.

    Args:
        runner: the model.
        tokens: random tokens, drawn from the whole vocabulary.
        repeats: how often they stand in the text.
        seed: of the tokens.
    """
    lm = runner.lm
    drawn = torch.randint(lm.config.vocab_size, (1, tokens), generator=torch.Generator().manual_seed(seed))
    text = drawn.repeat(1, repeats).to(lm.device)
    context = Scoring(runner.layers, lm.base_model.rotary_emb, tokens, text.shape[1])
    for start in range(0, text.shape[1], QUERIES):
        runner.step(text[:, start : start + QUERIES], context, logits=0)
    return {way: context.scores(way) for way in ("echo", "induction")}


def retrieval_groups(
    scores: dict[str, Float[Tensor, "L H"]], groups: int, induction: float, echo: float
) -> Bool[Tensor, "L G"]:
    """Return which key-value heads are kept whole: the best by either score, over all layers.

    The paper counts query heads; here a group has the score of its best head, and shares are of groups, so
    that the share that is kept whole is the paper's.

    Args:
        scores: of `head_scores`.
        groups: key-value heads of a layer, G.
        induction: share of them that is taken by induction score.
        echo: share that is taken by echo score.
    """
    layers = len(scores["echo"])
    chosen = torch.zeros(layers * groups, dtype=torch.bool)
    for way, share in (("induction", induction), ("echo", echo)):
        grouped = scores[way].view(layers, groups, -1).amax(dim=-1).flatten()
        chosen[grouped.topk(round(share * len(grouped))).indices] = True
    return chosen.view(layers, groups)


def measured(runner: Runner, razor: Razor, seed: int, folder: Path) -> dict[str, Float[Tensor, "L H"]]:
    """Return `head_scores`, from a file in `folder` where this model was measured before."""
    # to six digits: sums differ in the last ones from machine to machine
    signs = [f"{name} {part.double().sum():.5e}" for name, part in sorted(runner.lm.named_parameters())]
    asked = {"tokens": razor.tokens, "repeats": razor.repeats, "seed": seed}
    digest = hashlib.sha256(json.dumps([signs, asked]).encode()).hexdigest()[:16]
    file = folder / f"{digest}.json"
    if not file.is_file():
        log.info("scoring the heads on %s random tokens, %s times", razor.tokens, razor.repeats)
        scores = head_scores(runner, razor.tokens, razor.repeats, seed)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"asked": asked} | {way: score.tolist() for way, score in scores.items()})
        part = file.with_suffix(".part")
        part.write_text(text, encoding="utf-8")
        part.replace(file)
    stored = json.loads(file.read_text(encoding="utf-8"))
    return {way: torch.tensor(stored[way]) for way in ("echo", "induction")}
