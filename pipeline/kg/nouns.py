"""The reviewed nouns of relations, and what a noun must be to stand in "the {noun} of {name}"."""

import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import UserError

TABLE = Path(__file__).with_name("nouns.tsv")
COLUMNS = ("key", "label", "noun_tail", "noun_head", "symmetric", "origin")
VERBS = frozenset(
    {"is", "are", "was", "were", "be", "has", "have", "had", "does", "do", "did", "can", "will"}
)
PRONOUNS = frozenset({"it", "he", "she", "they", "who", "which", "that"})
PREPOSITIONS = frozenset({"of", "in", "by", "to", "for", "with", "from", "at", "on", "as"})
SMALL_WORDS = PREPOSITIONS | {"and", "or", "the", "a", "an"}
"""What a noun phrase neither begins nor ends with."""


@dataclass(frozen=True)
class Row:
    """A line of the reviewed table."""

    noun_tail: str
    noun_head: str


def read_table(path: Path = TABLE) -> dict[tuple[str, str], Row]:
    """Return the reviewed nouns under ("key", "P19") and under ("label", "place of birth"), in lower case.

    Raises:
        UserError: the file is missing, or a line is not one of the table; the text names file and line.
    """
    if not path.is_file():
        raise UserError(f"{path}: not found; restore it from the repository")
    rows: dict[tuple[str, str], Row] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        cells = tuple(line.split("\t"))
        if number == 1:
            if cells != COLUMNS:
                raise UserError(
                    f"{path}, line 1: the columns must be {', '.join(COLUMNS)}, not {', '.join(cells)}"
                )
            continue
        if len(cells) != len(COLUMNS):
            raise UserError(
                f"{path}, line {number}: {len(cells)} cells, not {len(COLUMNS)}; part them by tabs"
            )
        key, label, tail, head, symmetric, _ = cells
        if not (label and tail and head) or symmetric not in ("yes", "no"):
            raise UserError(
                f"{path}, line {number}: a label, two nouns, and yes or no under symmetric; correct it"
            )
        if (tail == head) != (symmetric == "yes"):
            raise UserError(
                f"{path}, line {number}: the nouns are equal if and only if symmetric is yes; correct it"
            )
        for name in [("key", key)] * bool(key) + [("label", label.casefold())]:
            if name in rows:
                raise UserError(f"{path}, line {number}: the {name[0]} {name[1]!r} is there twice; keep one")
            rows[name] = Row(tail, head)
    return rows


def reviewed(table: dict[tuple[str, str], Row], key: str, label: str) -> Row | None:
    """Return the reviewed nouns of a relation, by key, else by label; "R19" is the inverse of "P19"."""
    row = table.get(("key", key)) or table.get(("label", label.casefold()))
    if row is None and re.fullmatch(r"R\d+", key) and (other := table.get(("key", f"P{key[1:]}"))):
        return Row(other.noun_head, other.noun_tail)
    return row


def clean(answer: str) -> str:
    """Return the first line of a model's answer without quotes, article and final full stop.

    >>> clean(' "The capital city."' + chr(10) + "Relation: …")
    'capital city'
    """
    line = (answer.strip().splitlines() or [""])[0].strip().strip("\"'`*").rstrip(".").strip()
    return re.sub(r"^(the|an?)\s+", "", line, flags=re.IGNORECASE)


def fault(noun: str, words: int) -> str | None:
    """Return why `noun` can't stand in "the {noun} of …", or None."""
    tokens = noun.casefold().split()
    if not tokens:
        return "empty"
    if len(tokens) > words:
        return "too long"
    if re.search(r"[^\w\s'’&/-]|_", noun):
        return "punctuation"
    if (VERBS | PRONOUNS) & set(tokens):
        return "a sentence"
    if tokens[0] in SMALL_WORDS or tokens[-1] in SMALL_WORDS:
        return "begins or ends with a small word"
    if not any(character.isalpha() for character in noun):
        return "no word"
    return None


def rule(label: str, side: str) -> str:
    """Return the noun of last resort: the relation's label; with "subject" for the head.

    >>> rule("has dialect (DEPRECATED)", "tail"), rule("place of birth", "head")
    ('has dialect', 'place of birth subject')
    """
    plain = re.sub(r"\s*\([^)]*\)", "", label).strip() or label.strip() or "relation"
    return plain if side == "tail" else f"{plain} subject"
