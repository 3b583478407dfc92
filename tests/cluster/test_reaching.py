"""Clusters that aren't there are told of before Ray, which would try for minutes, is asked."""

from typing import Any

import pytest

from pipeline.config import UserError
from pipeline.ray import connected

ray = pytest.importorskip("ray", reason="the extra cluster is not installed")


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:", "127.0.0.1:99999", ":x", "127.0.0.1:1"])
def test_where_nothing_answers_ray_is_not_begun(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**given: Any) -> None:
        raise AssertionError(f"ray.init was called with {given}")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(UserError, match=r"no Ray cluster at .*ray start --head"):
        connected(address)
