"""Recorded lessons, and what the frozen model makes of a choice of blocks: its loss, and if it is right."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from pipeline.longcontext.episodes import Replay, Texts, Window, answered, asked, joined, read
from pipeline.longcontext.lessons import IGNORED, Lessons
from pipeline.longcontext.policy import NONE
from pipeline.longcontext.running import Runner

Progress = Callable[[int], object]
"""Takes the number of what was done."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """Lessons whose texts were read and whose questions went through the lower layers."""

    lessons: Lessons
    texts: Texts
    states: Float[Tensor, "B T C"]
    """Of the tokens that ask and the answer but its last, as they enter the lowest layer that fetches."""

    @property
    def asking(self) -> Float[Tensor, "B T C"]:
        """States of the tokens that ask."""
        return self.states[:, : self.lessons.asked.shape[1]]

    @property
    def blocks(self) -> int:
        """Blocks of a text that can be fetched, N."""
        return self.lessons.gold.shape[1]


@torch.no_grad()
def record(
    runner: Runner, lessons: Lessons, window: Window, at_once: int, questions_at_once: int, done: Progress
) -> Recorded:
    """Read the texts of lessons, and let the lower layers read their questions and answers.

    Args:
        runner: of the frozen model.
        lessons: on its device.
        window: what layers see without fetching.
        at_once: texts that are read at once.
        questions_at_once: questions.
        done: told the number of texts and questions.
    """
    parts = []
    for ids in lessons.ids.split(at_once):  # type: ignore[no-untyped-call]
        parts.append(read(runner, ids, window))
        done(len(ids))
    texts = joined(parts)
    ids = torch.cat([lessons.asked, lessons.answers[:, :-1].clamp(min=0)], dim=1)
    states = []
    for some, rows in zip(ids.split(questions_at_once), lessons.rows.split(questions_at_once), strict=True):  # type: ignore[no-untyped-call]
        states.append(asked(runner, texts, rows, some))
        done(len(rows))
    return Recorded(lessons, texts, torch.cat(states))


def losses(
    runner: Runner, recorded: Recorded, questions: Int[Tensor, " B"], replay: Replay
) -> tuple[Float[Tensor, " B"], Bool[Tensor, " B"]]:
    """Return the mean cross-entropy of the right answers, in nats a token, and whether each is what is said.

    All tokens of an answer are most likely, each given those before it, exactly where greedy decoding says
    that answer.
    """
    answers = recorded.lessons.answers[questions]
    logits = answered(runner, replay, recorded.states[questions], answers.shape[1]).float()
    lost = F.cross_entropy(logits.transpose(1, 2), answers, ignore_index=IGNORED, reduction="none")
    there = answers != IGNORED
    right = ((logits.argmax(dim=-1) == answers) | ~there).all(dim=1)
    return lost.sum(dim=1) / there.sum(dim=1), right


class Answers:
    """Remembers what each choice of blocks led to, for no question is asked twice with the same ones.

    Args:
        runner: of the frozen model.
        recorded: what is asked.
        at_once: questions that are answered at once.
    """

    def __init__(self, runner: Runner, recorded: Recorded, at_once: int) -> None:
        self.runner, self.recorded, self.at_once = runner, recorded, at_once
        self._known: dict[tuple[int, ...], tuple[float, bool]] = {}

    @torch.no_grad()
    def __call__(
        self, questions: Int[Tensor, " B"], chosen: Int[Tensor, "B K"]
    ) -> tuple[Float[Tensor, " B"], Bool[Tensor, " B"]]:
        """Return the loss of each question's right answer, and whether that is what is said.

        Args:
            questions: numbers of recorded questions.
            chosen: blocks that are fetched for each; -1 for none.
        """
        keys = [
            (question, *sorted(block for block in row if block != NONE))
            for question, row in zip(questions.tolist(), chosen.tolist(), strict=True)
        ]
        fresh = sorted({key for key in keys if key not in self._known}, key=lambda key: (len(key), key))
        for start in range(0, len(fresh), self.at_once):
            some = fresh[start : start + self.at_once]
            width = max(map(len, some)) - 1
            device = questions.device
            numbers = torch.tensor([key[0] for key in some], device=device)
            rows = [[*key[1:], *[NONE] * (width + 1 - len(key))] for key in some]
            blocks = torch.tensor(rows, dtype=torch.long, device=device).view(len(some), width)
            replay = Replay(self.recorded.texts, self.recorded.lessons.rows[numbers], blocks)
            lost, right = losses(self.runner, self.recorded, numbers, replay)
            self._known.update(zip(some, zip(lost.tolist(), right.tolist(), strict=True), strict=True))
        found = [self._known[key] for key in keys]
        lost, right = (torch.tensor(part, device=questions.device) for part in zip(*found, strict=True))
        return lost, right
