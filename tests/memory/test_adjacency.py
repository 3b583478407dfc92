import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.memory.adjacency import Groups

CPU = torch.device("cpu")


@given(
    group=st.lists(st.integers(0, 4), max_size=10),
    rows=st.integers(1, 4).flatmap(
        lambda n: st.lists(st.lists(st.integers(0, 4), min_size=n, max_size=n), min_size=1, max_size=3)
    ),
)
def test_expanding_lists_the_members_of_each_group_in_turn(group: list[int], rows: list[list[int]]) -> None:
    members = [10 * place for place in range(len(group))]
    groups = Groups.of(np.array(group, dtype=np.int64), np.array(members, dtype=np.int64), 5, CPU)
    of = [[member for member, own in zip(members, group, strict=True) if own == g] for g in range(5)]
    assert [groups[g] for g in range(6)] == [*of, []]
    assert groups.empty == of.count([])

    facts, owner, valid = groups.expand(torch.tensor(rows))
    wide = max(1, max(sum(len(of[g]) for g in row) for row in rows))
    assert facts.shape == owner.shape == valid.shape == (len(rows), wide)
    for i, row in enumerate(rows):
        right = [(member, place) for place, g in enumerate(row) for member in of[g]]
        count = len(right)
        assert list(zip(facts[i, :count].tolist(), owner[i, :count].tolist(), strict=True)) == right
        assert valid[i].tolist() == [True] * count + [False] * (wide - count)
        assert facts[i, count:].tolist() == [-1] * (wide - count)
        assert owner[i].max() < len(row)


def test_no_row_expands_to_no_row() -> None:
    groups = Groups.of(np.array([0, 1]), np.array([0, 1]), 2, CPU)
    facts, _, _ = groups.expand(torch.empty(0, 2, dtype=torch.long))
    assert facts.shape == (0, 1)
