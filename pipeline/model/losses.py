"""L = L_LM + α · L_Aux (DySK-Attn): the language model's loss and the supervision of what it attends to."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pipeline.model.sharing import weighed
from pipeline.shapes import CandidateScores


def auxiliary_loss(
    scores: CandidateScores,
    gold: Bool[Tensor, "B N"],
    null: Float[Tensor, "B 1"] | None = None,
    told: Bool[Tensor, " B"] | None = None,
) -> Float[Tensor, ""]:
    """Return L_Aux, the cross-entropy of the scores before selection against the gold facts, in nats.

    The target is uniform over a question's gold candidates; a question with none has the null fact as its
    target where `null` is given, and is left out where it isn't. So is one that `told` is false for: it is
    not known which facts answer it, nor whether none does.

    Raises:
        ValueError: no question of the batch has a target.
    """
    joined = scores if null is None else torch.cat([scores, null], dim=-1)
    target = gold if null is None else torch.cat([gold, ~gold.any(dim=-1, keepdim=True)], dim=-1)
    has_target = target.any(dim=-1) if told is None else target.any(dim=-1) & told
    if not has_target.any():
        raise ValueError("no question of the batch has a gold fact among its candidates")
    weight = target[has_target] / target[has_target].sum(dim=-1, keepdim=True)
    log_probability = torch.log_softmax(joined[has_target], dim=-1).masked_fill(~target[has_target], 0.0)
    return weighed(-(weight * log_probability).sum(dim=-1).mean(), has_target.sum())
