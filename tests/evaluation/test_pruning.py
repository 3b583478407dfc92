"""Pruning with other numbers: what is kept, that the tree stays, and that nothing lasts."""

from typing import Any

import pytest
import torch

from pipeline.config import UserError
from pipeline.evaluation.pruning import Kept, keeping, scored
from pipeline.memory.tree import build_tree
from pipeline.model.settings import AtlasKv
from pipeline.weights import Encoder, LanguageModel
from tests.model.tiny_systems import opened, ours, rag, vector
from tests.tiny import SmallWorld

QUESTIONS = ["What is the capital of Aland?", "Tell me the currency of Cland, please.", "Why?"]
PRUNED: list[tuple[Any, dict[str, Any]]] = [
    (vector(AtlasKv, roots=2, inner=2, leaves=2), {}),
    (ours(), {"backend": "hikvp", "entities": 4}),
    (rag(), {"backend": "hikvp"}),
]


@pytest.mark.parametrize(("method", "changes"), PRUNED, ids=["atlaskv", "ours", "rag"])
def test_all_kept_is_flat_and_few_are_few(
    method: Any, changes: dict[str, Any], world: SmallWorld, lm: LanguageModel, encoder: Encoder
) -> None:
    system = opened(method, world, lm, encoder, **changes)
    torch.manual_seed(0)
    with system.attached():
        before = system.ground(QUESTIONS, 5).tolist()
        with keeping(system, None) as none:
            assert none is None
            # The flat search takes the memory's own number of entities: as many as the trees are to return.
            leaves = system.memory.settings.entities if isinstance(method, type(ours())) else 99
            flat = system.ground(QUESTIONS, 5).tolist()
        with keeping(system, Kept(99, 99, leaves)) as tree:
            assert system.ground(QUESTIONS, 5).tolist() == flat
        with keeping(system, Kept(1, 1, 1)) as few:
            assert few is not None
            assert tree is not None
            assert few.leaves is tree.leaves, "the tree is built once"
            assert (few.roots_kept, few.inner_kept) == (1, 1)
            assert scored(few) < scored(tree)
            least = system.ground(QUESTIONS, 5).tolist()
            assert all(sum(fact >= 0 for fact in row) < 5 for row in least)
        assert system.ground(QUESTIONS, 5).tolist() == before, "nothing lasts"


def test_what_is_scored_is_counted() -> None:
    tree = build_tree(torch.randn(27, 4), 2, 1)
    assert scored(tree) == (3 + 2 * 3 + 1 * 3) / 27
    assert scored(build_tree(torch.randn(27, 4), 99, 99)) == (3 + 9 + 27) / 27


def test_a_search_without_a_tree_is_refused(world: SmallWorld, lm: LanguageModel, encoder: Encoder) -> None:
    system = opened(ours(), world, lm, encoder)
    with (
        pytest.raises(UserError, match=r"memory\.backend=exact, which prunes nothing"),
        keeping(system, None),
    ):
        pass
