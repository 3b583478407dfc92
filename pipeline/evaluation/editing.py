"""What edits did to a language model: whether they took, how far they reach, and what else they changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.evaluation.intervals import bootstrap, resampled_means
from pipeline.evaluation.metrics import exact_match
from pipeline.evaluation.summary import Bootstrap
from pipeline.model.editing.editor import Editor
from pipeline.model.editing.request import Edit, worded
from pipeline.model.reader import Reader, Tokens

Values = NDArray[np.float64]
ASKED = 32
"""Questions that are asked at once."""


def nats(reader: Reader, prompt: str, questions: Sequence[str], answers: Sequence[str]) -> Values:
    """Return the mean cross-entropy of a token of each answer behind its question, in nats: [n]."""
    found = []
    for start in range(0, len(questions), ASKED):
        part = slice(start, start + ASKED)
        tokens = reader.tokens(questions[part], [f" {answer}" for answer in answers[part]], form=prompt)
        tokens = Tokens(*(column[:, :-1] for column in tokens))  # what ends an answer is no part of it
        found.append(reader.surprise(tokens) / (tokens.labels != -100).sum(dim=1))
    return torch.cat(found).double().cpu().numpy() if found else np.zeros(0)


def answers(editor: Editor, questions: Sequence[str]) -> list[str]:
    """Return what the model says, a batch at a time."""
    return [
        text
        for start in range(0, len(questions), ASKED)
        for text in editor.answer(questions[start : start + ASKED])
    ]


@dataclass(frozen=True)
class Untouched:
    """What no edit is about: questions with the bare model's answers, and ordinary text, with their nats."""

    questions: list[str]
    said: list[str]
    said_nats: Values
    texts: list[tuple[str, str]]
    text_nats: Values

    @classmethod
    def of(cls, editor: Editor, questions: Sequence[str], texts: Sequence[tuple[str, str]]) -> "Untouched":
        """Return it as the bare model has it."""
        said = answers(editor, questions)
        kept = [(question, text) for question, text in zip(questions, said, strict=True) if text]
        asked, told = [question for question, _ in kept], [text for _, text in kept]
        return cls(
            asked,
            told,
            nats(editor.reader, editor.asking.prompt, asked, told),
            list(texts),
            text_nats(editor.reader, texts),
        )

    def some(self, turn: int, questions: int, texts: int) -> "Untouched":
        """Return so many questions and texts, others at each turn."""
        asked = [(turn * questions + i) % len(self.questions) for i in range(questions)]
        read = [(turn * texts + i) % len(self.texts) for i in range(texts)]
        return Untouched(
            [self.questions[place] for place in asked],
            [self.said[place] for place in asked],
            self.said_nats[asked],
            [self.texts[place] for place in read],
            self.text_nats[read],
        )


def text_nats(reader: Reader, texts: Sequence[tuple[str, str]]) -> Values:
    """Return the nats a token of each text's end behind its start: [n]."""
    found = []
    for start in range(0, len(texts), ASKED):
        starts, ends = zip(*texts[start : start + ASKED], strict=True)
        tokens = reader.continued(starts, ends)
        found.append(reader.surprise(tokens) / (tokens.labels != -100).sum(dim=1))
    return torch.cat(found).double().cpu().numpy()


@dataclass
class Measured:
    """Rows of what was measured, one list a figure; edits, questions and texts are rows."""

    efficacy: list[float]
    """Whether the answer to the wording of the edit is right now."""
    above: list[float]
    """Whether a token of the target is likelier than one of the former answer, where there is one."""
    generality: list[float]
    """Share of the other wordings that are answered right."""
    same: list[float]
    """Whether an untouched question is answered as by the bare model."""
    same_nats: list[tuple[float, float]]
    """Nats a token of the bare model's answer, bare and now."""
    text_nats: list[tuple[float, float]]
    """Nats a token of ordinary text, bare and now."""
    examples: list[dict[str, Any]]
    """What was said."""

    @classmethod
    def nothing(cls) -> "Measured":
        """Return it without any row."""
        return cls([], [], [], [], [], [], [])

    def ask(self, editor: Editor, edits: Sequence[Edit], wordings: Sequence[str]) -> None:
        """Ask for the edits themselves, in the wording of the edit and in others."""
        questions = [
            text
            for edit in edits
            for text in (edit.questions[0], *(worded(w, edit.noun, edit.subject) for w in wordings))
        ]
        said = answers(editor, questions)
        width = 1 + len(wordings)
        for place, edit in enumerate(edits):
            right = [exact_match(text, edit.right) for text in said[place * width : (place + 1) * width]]
            self.efficacy.append(right[0])
            if wordings:
                self.generality.append(float(np.mean(right[1:])))
            self.examples.append(
                {
                    "question": edit.questions[0],
                    "former": list(edit.former),
                    "target": edit.target,
                    "said": said[place * width],
                }
            )
        with_former = [edit for edit in edits if edit.former]
        asked = [edit.questions[0] for edit in with_former]
        prompt = editor.asking.prompt
        new = nats(editor.reader, prompt, asked, [edit.target for edit in with_former])
        old = nats(editor.reader, prompt, asked, [edit.former[0] for edit in with_former])
        self.above += (new < old).astype(float).tolist()

    def compare(self, editor: Editor, untouched: Untouched) -> None:
        """Ask and read what no edit is about."""
        said = answers(editor, untouched.questions)
        self.same += [float(a == b) for a, b in zip(said, untouched.said, strict=True)]
        now = nats(editor.reader, editor.asking.prompt, untouched.questions, untouched.said)
        self.same_nats += list(zip(untouched.said_nats.tolist(), now.tolist(), strict=True))
        read = text_nats(editor.reader, untouched.texts)
        self.text_nats += list(zip(untouched.text_nats.tolist(), read.tolist(), strict=True))

    def figures(self, how: Bootstrap) -> dict[str, Any]:
        """Return each figure with its 95 % interval."""
        told: dict[str, Any] = {}
        named = {"efficacy": self.efficacy, "new above former": self.above, "generality": self.generality}
        named |= {"locality": self.same}
        for name, values in named.items():
            told[name] = interval(values, how)
        bare, now = np.exp(-np.array(self.same_nats)).T
        told["probability of the bare answer"] = {"bare": float(bare.mean()), **interval(now, how)}
        pairs = np.array(self.text_nats)
        drawn = np.exp(np.minimum(resampled_means(pairs, how.samples, how.seed) @ [-1, 1], 700))
        low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
        mean = float(np.exp(min(700.0, float(pairs.mean(axis=0) @ [-1, 1]))))
        told["perplexity"] = {
            "bare": float(np.exp(pairs[:, 0].mean())),
            "ratio": {"mean": mean, "low": low, "high": high},
        }
        return told


def interval(values: Sequence[float] | Values, how: Bootstrap) -> dict[str, Any]:
    """Return a mean with its interval and how many values it is of."""
    if not len(values):
        return {"n": 0}
    [found] = bootstrap(values, how.samples, how.seed)
    return {**found._asdict(), "n": len(values)}
