"""Whether a question leads over one fact or over two: the bias of that choice, by validation questions."""

from collections.abc import Sequence

import torch

from pipeline.model.judging import first_right
from pipeline.model.ours import OurSystem
from pipeline.model.refusing import by_kind
from pipeline.model.system import Example

NEVER = 1e4
"""Nats for stopping at which no second hop is ever taken."""
LOST = 0.002
"""Share of a kind of one-hop questions, which are most of all, that may be lost by following second hops."""


@torch.no_grad()
def choose_stop(system: OurSystem, valid: Sequence[Example], biases: Sequence[float]) -> dict[str, float]:
    """Add to the logit of no second relation what answers most validation questions by their first fact.

    Training asks in few wordings, and how sure it is of a second hop in others is chance. Chosen is the bias
    with the best accuracy of the first fact, averaged over kinds of questions, among those that lose at most
    `LOST` of any kind of one-hop questions against never taking a second hop. Where all lose more, that
    which loses least; on a tie that nearest to 0.

    Args:
        system: for two hops; its head's bias is changed.
        valid: validation questions with gold facts.
        biases: nats for stopping that are tried; 0 is always among them.

    Returns:
        Mean accuracy by bias, the bias under `chosen`, and under each kind the accuracy with it, with the
        suffix ` unbiased` that without it, and for one-hop kinds with ` at one hop` that of no second hop.
    """
    second = system.heads.second
    assert second is not None
    before, scale = second.stop.bias.clone(), second.log_scale.exp()

    def right(batch: Sequence[Example]) -> list[bool]:
        answers: list[bool] = first_right(system.found([e.text for e in batch]), batch).tolist()
        return answers

    def accuracy(bias: float) -> dict[str, float]:
        second.stop.bias.copy_(before + bias / scale)
        return {kind: sum(row) / len(row) for kind, row in by_kind(valid, right).items()}

    at_one_hop = {kind: value for kind, value in accuracy(NEVER).items() if kind != "multihop"}
    tried = {bias: accuracy(bias) for bias in sorted({0.0, *biases})}
    mean = {bias: sum(found.values()) / len(found) for bias, found in tried.items()}

    def worth(bias: float) -> tuple[float, float, float]:
        lost = max((value - tried[bias][kind] for kind, value in at_one_hop.items()), default=0.0)
        return -max(lost, LOST), mean[bias], -abs(bias)

    chosen = max(tried, key=worth)
    second.stop.bias.copy_(before + chosen / scale)
    figures = {f"{bias:g}": value for bias, value in mean.items()} | {"chosen": chosen} | tried[chosen]
    figures |= {f"{kind} unbiased": value for kind, value in tried[0.0].items()}
    return figures | {f"{kind} at one hop": value for kind, value in at_one_hop.items()}
