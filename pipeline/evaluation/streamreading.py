"""How a stream of news is remembered: questions about old items, and headlines, after each segment."""

import time
from collections.abc import Callable, Iterable
from copy import deepcopy
from statistics import mean
from typing import Any

import torch
from tqdm import tqdm

from pipeline.evaluation.answers import rouge_l, squad_f1
from pipeline.evaluation.reading import Figures, first_lines, share
from pipeline.longcontext.context import Context
from pipeline.longcontext.newsstream import Segment
from pipeline.longcontext.running import Runner
from pipeline.longcontext.samples import Sample, stacked


@torch.no_grad()
def followed(
    runner: Runner,
    tokenizer: Any,
    make: Callable[[], Context],
    segments: Iterable[Segment],
    limits: tuple[int, int],
    title: str = "",
) -> Figures:
    """Let one context read a stream; copies of it are asked after each segment, so that it goes on as it was.

    Args:
        runner: on the device that computes.
        tokenizer: of its decoder.
        make: a fresh context.
        segments: of B streams that are read side by side.
        limits: tokens of an answer, and of a headline.
        title: of the progress bar.

    Returns:
        F1 of answers by how long ago they were told (from 1, 2, 4, … items), ROUGE-L of headlines, and the
        bytes held after the first and the last segment.
    """
    context = make()
    recall: dict[int, list[float]] = {}
    headlines: list[float] = []
    held, seconds, tokens = [], 0.0, 0
    for segment in tqdm(segments, desc=title, unit="segment", disable=not title):
        began = time.perf_counter()
        context.asking = False
        for start in range(0, segment.ids.shape[1], runner.chunk):
            runner.step(segment.ids[:, start : start + runner.chunk], context, logits=0)
        if runner.lm.device.type == "cuda":
            torch.cuda.synchronize(runner.lm.device)
        seconds += time.perf_counter() - began
        tokens += segment.ids.shape[1]
        for row in zip(*segment.recall, strict=True):
            ages, samples = zip(*row, strict=True)
            said = _answered(runner, tokenizer, context, list(samples), limits[0])
            for age, text, sample in zip(ages, said, samples, strict=True):
                ended = text.split(".")[0]
                recall.setdefault(1 << (age.bit_length() - 1), []).append(squad_f1(ended, sample.answers))
        for asked in zip(*segment.headlines, strict=True):
            said = _answered(runner, tokenizer, context, list(asked), limits[1])
            headlines += [rouge_l(text, sample.answers[0]) for text, sample in zip(said, asked, strict=True)]
        held.append(context.held())
    streams = segment.ids.shape[0]
    by_age = {str(age): {"n": len(recall[age]), "f1": share(recall[age])} for age in sorted(recall)}
    return {
        "recall by items ago": by_age,
        "f1": share([value for values in recall.values() for value in values]),
        "n": sum(map(len, recall.values())),
        "headline rouge-l": mean(headlines) if headlines else None,
        "headlines": len(headlines),
        "tokens of a stream": tokens,
        "tokens a second": tokens * streams / seconds,
        "device bytes a text, first segment": held[0].device / streams,
        "device bytes a text": held[-1].device / streams,
        "host bytes a text": held[-1].host / streams,
        "disk bytes a text": held[-1].disk / streams,
    }


def _answered(
    runner: Runner, tokenizer: Any, context: Context, samples: list[Sample], limit: int
) -> list[str]:
    copied = deepcopy(context)
    copied.asking = True
    best = runner.step(stacked(samples), copied, logits=1)[:, -1].argmax(dim=-1, keepdim=True)
    copied.ready()
    said = [best]
    for _ in range(limit - 1):
        best = runner.step(best, copied, logits=1)[:, -1].argmax(dim=-1, keepdim=True)
        said.append(best)
    return first_lines(tokenizer, torch.cat(said, dim=1))
