"""How a decoder answers at the end of long texts through a context: how well, how soon, in what room."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pipeline.evaluation.intervals import Interval
from pipeline.longcontext.context import Context, Held
from pipeline.longcontext.running import Runner
from pipeline.longcontext.samples import Sample, batches, stacked

Judge = Callable[[str, Sample], dict[str, float]]
"""Figures of what was said to a sample, each from 0 to 1."""
Figures = dict[str, Any]


@dataclass(frozen=True)
class Reading:
    """What came of one batch."""

    said: list[str]
    """Up to the first line's end."""
    prefill: float
    """Seconds until the first token of the answers."""
    steps: list[float]
    """Seconds of each further token of all rows together."""
    held: Held
    """What the context held at the end, of all rows together."""
    peak: int
    """Bytes of the device at most, beyond what was there before; 0 where there is no GPU."""


@torch.no_grad()
def read(runner: Runner, tokenizer: Any, context: Context, batch: Sequence[Sample], limit: int) -> Reading:
    """Let a fresh context read a batch, and generate `limit` tokens after it.

    Args:
        runner: on the device that computes.
        tokenizer: of its decoder.
        context: serves this batch alone.
        batch: of one length.
        limit: tokens of an answer.
    """
    device = runner.lm.device
    before = _reset(device)
    began = time.perf_counter()
    best = runner.prompt(stacked(batch), context, batch[0].asked).argmax(dim=-1, keepdim=True)
    _wait(device)
    prefill = time.perf_counter() - began
    said, steps = [best], []
    for _ in range(limit - 1):
        began = time.perf_counter()
        best = runner.step(best, context, logits=1)[:, -1].argmax(dim=-1, keepdim=True)
        _wait(device)
        steps.append(time.perf_counter() - began)
        said.append(best)
    peak = torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else 0
    return Reading(first_lines(tokenizer, torch.cat(said, dim=1)), prefill, steps, context.held(), peak)


def first_lines(tokenizer: Any, said: Tensor) -> list[str]:
    """Return each row's text up to its first line's end: base models go on with a next question."""
    texts = tokenizer.batch_decode(said.cpu(), skip_special_tokens=True)
    return [text.strip().split("\n")[0].strip() for text in texts]


def measured(
    runner: Runner,
    tokenizer: Any,
    make: Callable[[], Context],
    samples: Sequence[Sample],
    size: int,
    limit: int,
    judge: Judge,
    title: str = "",
) -> Figures:
    """Return how samples are answered, and what that costs; or `reason` where memory does not suffice.

    Args:
        runner: on the device that computes.
        tokenizer: of its decoder.
        make: a fresh context.
        samples: of one length.
        size: samples at a time.
        limit: tokens of an answer.
        judge: of what was said.
        title: of the progress bar.
    """
    steps = tqdm(list(batches(samples, size)), desc=title, unit="batch", disable=not title)
    try:
        readings = [read(runner, tokenizer, make(), batch, limit) for batch in steps]
    except torch.OutOfMemoryError:
        return {"n": 0, "reason": "out of memory"}
    said = [text for reading in readings for text in reading.said]
    found = [judge(text, sample) for text, sample in zip(said, samples, strict=True)]
    return {"n": len(samples), "batch": size, "depths": [round(sample.depth, 3) for sample in samples]} | {
        "right": {name: [round(one[name], 4) for one in found] for name in found[0]},
        **{name: share([one[name] for one in found]) for name in found[0]},
        **costs(readings, size, len(samples[0].ids)),
    }


def costs(readings: Sequence[Reading], size: int, length: int) -> Figures:
    """Return time and room of readings of `size` rows of `length` tokens each.

    The first of several readings warms up and isn't timed, as is the first step of each.
    """
    timed = readings[1:] or readings
    whole = [reading for reading in timed if len(reading.said) == size] or timed
    rows = len(whole[0].said)
    prefill = mean(reading.prefill for reading in whole)
    steps = [second for reading in whole for second in reading.steps[1:] or reading.steps]
    held = readings[0].held
    first = len(readings[0].said)
    return {
        "prefill seconds": prefill,
        "tokens a second": rows * length / prefill,
        "ms a token": 1000 * median(steps) if steps else None,
        "device bytes a text": held.device / first,
        "host bytes a text": held.host / first,
        "disk bytes a text": held.disk / first,
        "peak bytes": max(reading.peak for reading in readings),
    }


def share(values: Sequence[float]) -> dict[str, float]:
    """Return a mean of values from 0 to 1 with its interval: Wilson's where all are 0 or 1."""
    if all(value in (0.0, 1.0) for value in values):
        return wilson(int(sum(values)), len(values))._asdict()
    middle, error = mean(values), 1.96 * float(np.std(values)) / math.sqrt(len(values))
    return Interval(middle, max(0.0, middle - error), min(1.0, middle + error))._asdict()


def wilson(right: int, count: int, z: float = 1.96) -> Interval:
    r"""Return a share with Wilson's 95 % interval (1927), which holds for few samples and for shares near 1.

    .. math:: \frac{p + z²/2n ± z \sqrt{p(1-p)/n + z²/4n²}}{1 + z²/n}

    Raises:
        ValueError: there is no sample.
    """
    if count < 1:
        raise ValueError("an interval needs at least one sample")
    p = right / count
    middle = p + z * z / (2 * count)
    reach = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    below, above = (middle - reach) / (1 + z * z / count), (middle + reach) / (1 + z * z / count)
    return Interval(p, max(0.0, below), min(1.0, above))


def exponent(values: Mapping[int, float | None]) -> float | None:
    """Return b of the power law y = a·lengthᵇ that fits best in logarithms; None of fewer than two lengths.

    Args:
        values: y by length; what is None or 0 is left out.
    """
    points = [(math.log(length), math.log(value)) for length, value in values.items() if value]
    if len(points) < 2:
        return None
    x, y = np.array(points).T
    return float(np.polyfit(x, y, 1)[0])


def _reset(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
