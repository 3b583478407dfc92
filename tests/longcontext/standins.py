"""A retriever without training, settings of DSRAM at the size of tests, and states of a tiny decoder."""

from dataclasses import replace
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from pipeline.config import CONF, section
from pipeline.longcontext.settings import Dsram, LongContext

BLOCK = 4


class Random(nn.Module):
    """Compares projections of mean states; nothing in it is learned."""

    def __init__(self, hidden: int, size: int = 8) -> None:
        super().__init__()
        projection = torch.randn(hidden, size, generator=torch.Generator().manual_seed(7))
        self.register_buffer("projection", projection)

    def summaries(self, states: Tensor) -> Tensor:
        return states.float().mean(dim=2) @ self.projection

    def query(self, states: Tensor) -> Tensor:
        return states[:, -1].float() @ self.projection

    def scores(self, query: Tensor, summaries: Tensor) -> Tensor:
        return torch.einsum("bs,bns->bn", query, summaries)


class Wanted(Random):
    """Wants the same blocks whatever is asked, of each text its own."""

    def __init__(self, hidden: int, rows: list[list[int]], first: int) -> None:
        super().__init__(hidden)
        self.rows, self.first = rows, first

    def scores(self, query: Tensor, summaries: Tensor) -> Tensor:
        scores = torch.full(summaries.shape[:2], -1.0)
        for text, row in enumerate(self.rows):
            scores[text, torch.tensor(row, dtype=torch.long) - self.first] = 1.0
        return scores


def dsram_settings(**changes: Any) -> Dsram:
    values: dict[str, Any] = {"first_layer": 1, "block": BLOCK, "sinks": BLOCK, "window": 8, "room": 16}
    values |= {
        "k_base": 2,
        "k_from": 64,
        "k_log": 0,
        "k_most": 100,
        "stop": False,
        "reading_k": 0,
        "stride": 0,
    }
    values |= {"ring": 8 * BLOCK, "rank_keys": 0, "rank_values": 0, "precision": "float32"}
    values |= {"summary_precision": "float16", "spill": "host", "host_bytes": 0, "folder": ""}
    return Dsram(**(values | changes))


def long_context(**changes: Any) -> LongContext:
    """Return the section with the settings of DSRAM above, with `changes`, and the least training."""
    values = OmegaConf.load(CONF / "longcontext" / "tiny.yaml")
    found: LongContext = section(LongContext, values, "longcontext")
    return replace(found, dsram=dsram_settings(**changes))
