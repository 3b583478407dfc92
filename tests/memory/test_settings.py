import pytest

from tests.tiny import memory_settings


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"layout": "tree"}, r"memory\.layout must be one of factored, slot, not 'tree'"),
        (
            {"backend": "lsh"},
            r"memory\.backend must be one of exact, codes, int8, hikvp, hnsw, ivf, ivfpq, not 'lsh'",
        ),
        *(
            ({name: 0}, rf"memory\.{name} must be at least 1, not 0")
            for name in ("N", "k", "links", "lists", "probes", "roots", "inner", "rescored")
        ),
        ({"share": 0}, r"memory\.share must be above 0 and at most 1, not 0"),
        ({"beam": -1}, r"memory\.beam must be at least 0, not -1"),
        ({"merge_after": -1}, r"memory\.merge_after must be at least 0, not -1"),
        ({"entities": -3}, r"memory\.entities must be at least 1, not -3"),
        ({"sources": ["a", "b", "a"]}, r"memory\.sources must name each source once, not \['a', 'b', 'a'\]"),
        ({"sources": [" "]}, r"memory\.sources must name each source once"),
        ({"k": 13}, r"memory\.k \(13\) must not exceed memory\.N \(12\)"),
        ({"relation_weight": -0.1}, r"memory\.relation_weight must be 0 or more, not -0\.1"),
        ({"relation_weight": float("nan")}, r"memory\.relation_weight must be 0 or more, not nan"),
    ],
)
def test_a_value_out_of_range_is_named(changes: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        memory_settings(**changes)


def test_the_bounds_themselves_are_taken() -> None:
    memory_settings(N=1, k=1, entities=1, links=1, lists=1, probes=1, relation_weight=0.0)
