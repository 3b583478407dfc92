import pytest
import torch
from torch import Tensor

from pipeline.longcontext.attention import attend, reference


def made(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def visible(batch: int, width: int, places: int) -> Tensor:
    mask = torch.rand((batch, 1, width, places), generator=torch.Generator().manual_seed(5)) < 0.6
    mask[..., -width:] = torch.eye(width, dtype=torch.bool)
    return mask


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize(("width", "places"), [(1, 9), (5, 5), (4, 11)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_is_what_loops_compute(
    groups: int, width: int, places: int, masked: bool, biased: bool, scale: float | None
) -> None:
    queries, keys, values = (
        made(1, 2, 6, width, 8),
        made(2, 2, groups, places, 8),
        made(3, 2, groups, places, 8),
    )
    mask = visible(2, width, places) if masked else None
    bias = made(4, 2, 1, width, places) if biased else None
    told = attend(queries, keys, values, mask, bias, scale)
    right = reference(queries, keys, values, mask, bias, scale)
    torch.testing.assert_close(told, right, rtol=0, atol=1e-5)


def test_gates_learn_through_their_bias() -> None:
    bias = made(4, 1, 1, 2, 5).requires_grad_()
    output = attend(made(1, 1, 2, 2, 8), made(2, 1, 1, 5, 8), made(3, 1, 1, 5, 8), None, bias, None)
    output.square().sum().backward()
    assert bias.grad is not None
    reached = bias.grad[0, 0] != 0
    assert reached.tolist() == [[True] * 4 + [False], [True] * 5]  # the first query doesn't see the last key
