"""What is measured on one question, and how well refusals tell answerable questions from the others."""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

ARTICLES = frozenset({"a", "an", "the"})

_DELETED = re.compile(r"['’ʼ`´]|(?<!\d)\.|\.(?!\d)|(?<=\d),(?=\d{3}(?!\d))")
_KEPT = re.compile(r"[+#]|(?<=\d)\.(?=\d)|(?<![^\W_])-(?=\d)")


def normalise(text: str) -> str:
    """Return `text` in the form in which two answers are compared.

    Compatibility characters are unified (NFKC), case is folded, articles and punctuation go, white space
    is collapsed: none of them makes an answer to a question about a fact right or wrong, and a generating
    model chooses them freely. What does make a difference stays: diacritics, a minus sign before a number
    and a decimal point (elevations and masses are answers), "+" and "#". Apostrophes, full stops and
    thousands separators vanish ("U.S." is "US"), other punctuation parts words ("Baden-Württemberg").
    An answer that consists of nothing else ("A", "?") is kept, or it would equal every empty prediction.

    >>> normalise("The  U.S. dollar."), normalise("−1,024.5 m"), normalise("A")
    ('us dollar', '-1024.5 m', 'a')
    """
    folded = unicodedata.normalize("NFKC", text).replace("−", "-").casefold()
    folded = " ".join(unicodedata.normalize("NFKC", folded).split())
    kept = _DELETED.sub("", folded)
    signs = {match.start() for match in _KEPT.finditer(kept)}
    letters = [
        " " if unicodedata.category(letter)[0] == "P" and place not in signs else letter
        for place, letter in enumerate(kept)
    ]
    words = "".join(letters).split()
    return " ".join([word for word in words if word not in ARTICLES] or words) or folded


def exact_match(prediction: str, answers: Collection[str]) -> float:
    """Return 1.0 where the prediction equals one of the answers after `normalise`, else 0.0.

    A slot has a set of tails and any of them is right, so the set is what a prediction is held against;
    listing several at once equals none of them and is wrong. An empty prediction is always wrong.
    """
    said = normalise(prediction)
    return float(bool(said) and any(said == normalise(answer) for answer in answers))


def token_f1(prediction: str, answers: Collection[str]) -> float:
    """Return the best harmonic mean of word precision and recall over the answers, in [0, 1].

    Exact match calls "Paris, France" as wrong as "Lima"; the overlap of words (with multiplicity, after
    `normalise`) tells them apart. The maximum over answers is taken because any answer is right.
    """
    said = Counter(normalise(prediction).split())
    return max((_overlap_f1(said, Counter(normalise(answer).split())) for answer in answers), default=0.0)


def _overlap_f1(said: Counter[str], right: Counter[str]) -> float:
    shared = (said & right).total()
    return 2 * shared / (said.total() + right.total()) if shared else 0.0


def place_of_gold(ids: Sequence[int], gold: Collection[int]) -> int:
    """Return the place, from 1, of the first gold fact among `ids`; 0 where there is none.

    Grounding accuracy ACC@n is the share of questions with a place in 1…n among the facts that were read,
    recall@N the same among the coarse candidates. One gold fact is enough, as one answer is: it asks
    whether the answer that was given can have come from a right fact.
    """
    return next((place for place, fact in enumerate(ids, start=1) if fact in gold), 0)


def auroc(answerable: ArrayLike, unanswerable: ArrayLike) -> float:
    """Return how likely an unanswerable question's refusal score is above an answerable one's.

    It judges the score itself, whatever threshold a method refuses at, so methods with other thresholds
    compare. Computed as the exact rank statistic, (Σ pairs [u > a] + ½ [u = a]) / (pairs): no curve is
    approximated, and a method whose scores are all equal gets one half.

    Args:
        answerable: refusal scores of questions that a fact answers, [A].
        unanswerable: refusal scores of questions that none answers, [U].

    Raises:
        ValueError: either side is empty, or a score is not a number.
    """
    low, high = _scores(answerable, "answerable"), _scores(unanswerable, "unanswerable")
    ordered = np.sort(low)
    below = np.searchsorted(ordered, high, side="left")
    up_to = np.searchsorted(ordered, high, side="right")
    return float((below + up_to).sum() / (2 * len(low) * len(high)))


def _scores(values: ArrayLike, name: str) -> NDArray[np.float64]:
    scores = np.asarray(values, dtype=np.float64).ravel()
    if not len(scores):
        raise ValueError(f"AUROC needs at least one {name} question")
    if np.isnan(scores).any():
        raise ValueError(f"the refusal score of an {name} question is not a number")
    return scores
