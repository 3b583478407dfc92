r"""Figures of answers over text: exact match and F1 as SQuAD has them, and ROUGE-L.

Published results on Natural Questions and HotpotQA use SQuAD's form of an answer (arXiv 1606.05250), which is
coarser than `pipeline.evaluation.metrics.normalise`: all punctuation goes, accents stay.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def plain(text: str) -> str:
    """Return a text in lower case without punctuation, articles and double spaces: SQuAD's form.

    >>> plain("The  U.S. dollar!")
    'us dollar'
    """
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_PUNCTUATION)).split())


def squad_em(said: str, answers: Sequence[str]) -> float:
    """Return 1.0 where what was said is one of the answers, else 0.0."""
    return float(any(plain(said) == plain(answer) for answer in answers))


def squad_f1(said: str, answers: Sequence[str]) -> float:
    """Return the best harmonic mean of word precision and recall over the answers."""
    return max(_f1(plain(said).split(), plain(answer).split()) for answer in answers)


def _f1(said: list[str], right: list[str]) -> float:
    if not said or not right:
        return float(said == right)
    shared = (Counter(said) & Counter(right)).total()
    return 2 * shared / (len(said) + len(right))


def rouge_l(said: str, right: str) -> float:
    r"""Return ROUGE-L (Lin, 2004): F1 of the longest common subsequence of words.

    .. math:: R = \frac{LCS(x, y)}{|x|}, \quad P = \frac{LCS(x, y)}{|y|}, \quad F = \frac{2PR}{P + R}

    Words are runs of letters and digits in lower case, without stemming.

    >>> rouge_l("police kill the gunman", "police killed the gunman")
    0.75
    """
    first, second = (re.findall(r"[a-z0-9]+", text.lower()) for text in (said, right))
    if not first or not second:
        return 0.0
    row = [0] * (len(second) + 1)
    for word in first:
        last = row
        row = [0]
        for place, other in enumerate(second):
            row.append(last[place] + 1 if word == other else max(row[place], last[place + 1]))
    return 2 * row[-1] / (len(first) + len(second))
