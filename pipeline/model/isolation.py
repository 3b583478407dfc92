"""Reading facts apart, and trusting what most of them say: isolate, then aggregate.

Read together, one false fact among k can lead the answer by its text alone. Read apart, it gets one answer,
which counts by the fact's share (keyword aggregation of RobustRAG, Xiang et al., arXiv 2405.15556, with the
probability that retrieval gives a fact in place of one vote each).
"""

from collections.abc import Sequence

import torch

from pipeline.model.attention import reading
from pipeline.model.factreader import FactReader
from pipeline.model.lowrank import LowRank
from pipeline.model.reader import Reader


def weighed(answers: Sequence[str], weights: Sequence[float]) -> str:
    """Return the answer with most weight, answers that differ in case and white space taken together.

    Of its spellings the one of most weight is given; ties go to the first.

    >>> weighed(["Paris", "Lyon", "paris"], [0.3, 0.4, 0.2])
    'Paris'
    """
    summed: dict[str, float] = {}
    spelled: dict[str, tuple[float, str]] = {}
    for answer, weight in zip(answers, weights, strict=True):
        key = " ".join(answer.casefold().split())
        summed[key] = summed.get(key, 0.0) + weight
        if key not in spelled or weight > spelled[key][0]:
            spelled[key] = weight, answer
    return spelled[max(summed, key=summed.__getitem__)][1] if summed else ""


@torch.no_grad()
def read_apart(
    reader: Reader,
    facts: FactReader,
    lowrank: LowRank,
    questions: Sequence[str],
    shown: Sequence[Sequence[str]],
    weights: Sequence[Sequence[float]],
    answer_tokens: int,
) -> list[str]:
    """Return the answer of each question, each of its facts read alone.

    Args:
        reader: the language model, into which facts can be read.
        facts: makes their tokens.
        lowrank: the tuned change of the model.
        questions: B questions.
        shown: the facts of each, at least one.
        weights: their shares, same lengths.
        answer_tokens: longest answer.
    """
    pairs = [(row, text) for row, texts in enumerate(shown) for text in texts]
    tokens = facts.facts([[text] for _, text in pairs], torch.zeros(len(pairs), 1, device=reader.device))
    with reading(tokens), lowrank.attached(reader.lm):
        prompts = reader.tokens([questions[row] for row, _ in pairs])
        said = reader.generate(prompts, answer_tokens)
    by_row: list[list[str]] = [[] for _ in questions]
    for (row, _), answer in zip(pairs, said, strict=True):
        by_row[row].append(answer)
    return [weighed(answers, shares) for answers, shares in zip(by_row, weights, strict=True)]
