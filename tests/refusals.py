"""What a threshold for refusals may cost."""

from collections.abc import Sequence
from typing import Any

from pipeline.model.refusing import Judged, rightly, spare
from pipeline.model.system import Example, gold_mask


def assert_few_are_refused(system: Any, valid: Sequence[Example], threshold: float, share: float) -> None:
    """Refuse `share` at most of those whose first fact answers, of a kind no more than chance makes of it."""
    judged = {}
    for kind in {example.kind for example in valid if example.gold}:
        asked = [example for example in valid if example.kind == kind and example.gold]
        found = system.found([example.text for example in asked])
        right = gold_mask(found.facts[:, :1], asked)[:, 0]
        judged[kind] = [Judged(*pair) for pair in zip(found.doubt.tolist(), right.tolist(), strict=True)]
    counted = rightly(judged)
    refused = {kind: sum(doubt > threshold for doubt in doubts) for kind, doubts in counted.items()}
    assert counted
    assert all(count <= spare(len(counted[kind]), share) for kind, count in refused.items())
    assert sum(refused.values()) <= share * sum(map(len, counted.values()))
