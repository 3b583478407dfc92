"""Attention over what a context shows: one dense call, since what is seen was gathered before it.

Sparsity is in what is gathered: T queries over S keys, S = sinks + k·block + window + T, cost O(T·S) whatever
the length of the text. FlexAttention would skip blocks of a mask; here there is nothing left to skip.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.bias import causal_lower_right

FLASH = (torch.float16, torch.bfloat16)
"""Types that the kernel without a mask computes in."""


def attend(
    queries: Float[Tensor, "B H T D"],
    keys: Float[Tensor, "B G S D"],
    values: Float[Tensor, "B G S D"],
    mask: Bool[Tensor, "#B #G T S"] | None,
    bias: Float[Tensor, "#B #G T S"] | None,
    scale: float | None,
) -> Float[Tensor, "B H T D"]:
    """Return softmax(q·k · scale + bias) v over the keys that each query sees.

    Query head h reads the key-value head ⌊h·G/H⌋. `reference` is the same, slowly.

    Args:
        queries: rotated; the last T keys are their own.
        keys: rotated.
        values: of the keys.
        mask: True where a query sees a key; None where each sees all keys but those of later queries.
        bias: nats.
        scale: of the logits; None for 1 / √D.
    """
    width, places = queries.shape[2], keys.shape[2]
    if mask is None and bias is None and width > 1 and queries.is_cuda and queries.dtype in FLASH:
        causal = causal_lower_right(width, places)
        return F.scaled_dot_product_attention(queries, keys, values, causal, scale=scale, enable_gqa=True)
    shared = queries.shape[1] // keys.shape[1]
    added = _added(queries, places, mask, bias)
    # The heads that share keys stand one after the other as queries of one head: no kernel copies keys then.
    folded = queries.reshape(queries.shape[0], keys.shape[1], shared * width, queries.shape[3])
    told = None if added is None else added.repeat(1, 1, shared, 1)
    output = F.scaled_dot_product_attention(folded, keys, values, told, scale=scale)
    return output.reshape(*queries.shape[:3], values.shape[3])


def _added(
    queries: Float[Tensor, "B H T D"],
    places: int,
    mask: Bool[Tensor, "#B #G T S"] | None,
    bias: Float[Tensor, "#B #G T S"] | None,
) -> Tensor | None:
    """Return mask and bias as one argument of the library's function."""
    width = queries.shape[2]
    if mask is None and width > 1:
        ones = torch.ones(width, places, dtype=torch.bool, device=queries.device)
        mask = ones.tril(places - width)[None, None]
    if bias is None:
        return mask
    bias = bias.to(queries.dtype)
    return bias if mask is None else bias.masked_fill(~mask, torch.finfo(queries.dtype).min)


def reference(
    queries: Float[Tensor, "B H T D"],
    keys: Float[Tensor, "B G S D"],
    values: Float[Tensor, "B G S D"],
    mask: Bool[Tensor, "#B #G T S"] | None,
    bias: Float[Tensor, "#B #G T S"] | None,
    scale: float | None,
) -> Float[Tensor, "B H T D"]:
    """Return what `attend` returns, by loops over texts, heads and queries, in float64."""
    batch, heads, width, size = queries.shape
    groups, places = keys.shape[1], keys.shape[2]
    output = queries.new_empty(batch, heads, width, values.shape[3])
    for text in range(batch):
        for head in range(heads):
            group = head * groups // heads
            for query in range(width):
                logits = []
                for place in range(places):
                    if mask is None:
                        visible = place <= places - width + query
                    else:
                        visible = bool(mask[text, 0, query, place])
                    product = queries[text, head, query].double() @ keys[text, group, place].double()
                    logit = product * (size**-0.5 if scale is None else scale)
                    if bias is not None:
                        logit = logit + bias[text, 0, query, place]
                    logits.append(logit if visible else logit - torch.inf)
                shares = torch.stack(logits).softmax(dim=0)
                output[text, head, query] = (shares @ values[text, group].double()).to(output.dtype)
    return output
