"""Asks the trained model a question: `python -m pipeline.ask "What is the capital of France?"`.

It prints the answer and the facts that it was read from. Facts can be changed first, and the answer follows
without any training. With `--experiments` it tries out the three claims that the project began with.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.cluster.actors import Address
from pipeline.config import ConfigError, UserError
from pipeline.memory import generations
from pipeline.memory.dates import Period
from pipeline.memory.statements import cleaned
from pipeline.reporting.tables import Cell, Table
from pipeline.serve.changes import Change
from pipeline.serve.experiments import experiments, told
from pipeline.serve.session import Answer, Session
from pipeline.serve.start import EXAMPLES

EPILOG = """facts are written "Head | relation | Tail" by label or key; deletions come before upserts, several
upserts of one slot stand side by side, and both hold for this call only unless --save is given"""


def options() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.ask", description=(__doc__ or "").partition("\n\n")[2], epilog=EPILOG
    )
    fact = "HEAD | RELATION | TAIL"
    parser.add_argument("question", nargs="?", default="", help="what to ask")
    parser.add_argument("--upsert", action="append", default=[], metavar=fact, help="write a fact first")
    parser.add_argument("--delete", action="append", default=[], metavar=fact, help="delete a fact first")
    date = "2020, 2020-05 or 2020-05-17"
    parser.add_argument("--since", default="", metavar="DATE", help=f"when what is upserted begins: {date}")
    parser.add_argument("--until", default="", metavar="DATE", help="from when on it holds no longer")
    parser.add_argument("--source", default="", help="who says so (docs/memory.md: who is believed)")
    parser.add_argument("--search", default="", metavar="TEXT", help="show the facts that fit a text best")
    parser.add_argument("--history", default="", metavar="HEAD | RELATION", help="show what a slot held when")
    parser.add_argument("--k", type=int, help="facts that the language model reads (default: as trained)")
    parser.add_argument(
        "--adapter", type=Path, help="its folder (default: the trained one, else the shipped one)"
    )
    parser.add_argument(
        "--memory", type=Path, help="folder of the memory (default: models/index, else a few example facts)"
    )
    parser.add_argument(
        "--facts", type=Path, help="file of facts (head TAB relation TAB tail) to use instead"
    )
    parser.add_argument(
        "--as-of", default="", metavar="DATE", help=f"answer and search by what held then: {date}"
    )
    parser.add_argument("--save", action="store_true", help="write the changed memory back to its folder")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--experiments", action="store_true", help="try out the three first experiments")
    parser.add_argument("--out", type=Path, help="file for the experiments' figures, as JSON")
    return parser


def ask(words: Sequence[str]) -> str:
    """Return what the command with these words prints.

    Raises:
        UserError: something in them, or a file that they name, can't be used.
    """
    parser = options()
    given = parser.parse_args(words)
    changed = bool(given.upsert or given.delete)
    looked = given.search.strip() or given.history.strip()
    if not (given.question.strip() or given.experiments or changed or looked):
        return parser.format_help()
    _check(given, changed)
    kept = given.memory is not None and (
        Address.parsed(str(given.memory)) is not None or generations.current(given.memory) is not None
    )
    write = bool(given.save and kept)
    memory = given.memory if write or not given.facts else None
    session = Session.open(given.adapter, memory, given.facts, given.k, write)
    if given.as_of:
        session.as_of(given.as_of)
    target = given.memory or session.origin
    if given.save and target.is_file():
        raise UserError("--save: the facts came from a file; name the folder to write to by --memory")
    changes = [session.delete(*given.delete)] if given.delete else []
    dates = Period(*(cleaned(text) if text else "" for text in (given.since, given.until, given.source)))
    changes += [session.upsert(*given.upsert, period=dates)] if given.upsert else []
    parts: dict[str, Any] = {"changes": changes} | looked_up(session, given.search, given.history)
    if given.question.strip():
        parts["answer"] = session.ask(given.question)
    if given.experiments:
        parts["experiments"] = experiments(session)
        if given.out:
            given.out.parent.mkdir(parents=True, exist_ok=True)
            given.out.write_text(json.dumps(parts["experiments"], indent=1) + "\n", encoding="utf-8")
    if given.save:
        session.save(target)
        parts["saved"] = str(target)
    parts |= {"adapter": str(session.adapter), "memory": str(session.origin)}
    parts["facts_held"] = len(session.system.memory)
    if given.json:
        plain = {**parts, "changes": list(map(asdict, changes))}
        if "answer" in parts:
            plain["answer"] = asdict(parts["answer"])
        return json.dumps(plain, indent=1, ensure_ascii=False) + "\n"
    return _text(parts, changed)


def looked_up(session: Session, text: str, slot: str) -> dict[str, Any]:
    """Return what a search found and what a slot held, where they are wanted.

    Raises:
        UserError: the memory knows no such slot.
    """
    parts: dict[str, Any] = {}
    if text.strip():
        memory = session.system.memory
        parts["found"] = [{"text": memory.text(row), "score": score} for row, score in session.search(text)]
    if slot.strip():
        values = [(session.system.memory.text(one.row), one.period) for one in session.history(slot)]
        parts["history"] = [{"text": told, **period._asdict()} for told, period in values]
    return parts


def _check(given: argparse.Namespace, changed: bool) -> None:
    """Raise UserError where options don't go together."""
    if (given.since or given.until or given.source) and not given.upsert:
        raise UserError("--since, --until and --source: they are of what --upsert writes; give that too")
    if given.as_of and (changed or given.save):
        raise UserError("--as-of: the past can't be changed; leave out --upsert, --delete and --save")
    if given.facts and given.memory and not given.save:
        raise UserError("--facts and --memory: give one of them, or --save to write the facts to that folder")


def _text(parts: dict[str, Any], changed: bool) -> str:
    shown = [_change(change) for change in parts["changes"]]
    if "found" in parts:
        shown.append(
            _table("found", "score", [(one["text"], f"{one['score']:.2f}") for one in parts["found"]])
        )
    if "history" in parts:
        held = [(one["text"], _dates(one)) for one in parts["history"]]
        shown.append(_table("held", "when and by whom", held))
    if "answer" in parts:
        shown.append(_answer(parts["answer"]))
    if "experiments" in parts:
        shown.append(told(parts["experiments"]))
    if "saved" in parts:
        shown.append(f"Saved to {parts['saved']}.")
    elif changed:
        shown.append("The changes were for this call only; --save keeps them.")
    what = "the example facts that come along (`make repro` makes a memory)"
    memory = what if Path(parts["memory"]) == EXAMPLES else parts["memory"]
    shown.append(f"Memory: {parts['facts_held']:,} facts, {memory}. Adapter: {parts['adapter']}.")
    return "\n\n".join(shown) + "\n"


def _table(first: str, second: str, rows: Sequence[tuple[str, str]]) -> str:
    return Table([first, second], [[Cell(text) for text in row] for row in rows]).plain()


def _dates(one: dict[str, str]) -> str:
    period = Period(one["start"], one["end"], one["source"])
    return f"{period} {period.source}".strip()


def _change(change: Change) -> str:
    lines = [f"+ {text}" for text in change.written] + [f"- {text}" for text in change.deleted]
    lines += [f"- {text} (superseded)" for text in change.superseded]
    lines += [f"  {note}" for note in change.notes]
    return "\n".join([*lines, f"  changed in {1000 * change.seconds:.0f} ms"])


def _answer(answer: Answer) -> str:
    first = answer.text
    if answer.refused:
        first = f"I don't know (probability that no fact answers: {100 * answer.refusal:.1f} %)"
    rows = [[Cell(f"{used.via} {used.text}".strip()), Cell(f"{used.weight:.3f}")] for used in answer.facts]
    header = "looked at" if answer.refused else "read from"
    table = Table([header, "weight"], rows).plain()
    return f"{first}\n\n{table}\n\nanswered in {1000 * answer.seconds:.0f} ms"


def main() -> None:
    """Read the command line, print, and turn what the user can put right into one line."""
    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries; none concerns the user
    try:
        sys.stdout.write(ask(sys.argv[1:]))
    except (ConfigError, UserError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
