"""Looks after a memory's folder: `python -m pipeline.memory import facts.tsv --folder mine`.

What is changed is in the folder when the command ends. The layout and the encoder are those of params.yaml.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from tqdm import tqdm

from pipeline.config import CONF, ConfigError, UserError, choices, section
from pipeline.memory.dates import Period
from pipeline.memory.durable import DurableMemory
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.facts import Fact, Query
from pipeline.memory.journal import POLICIES
from pipeline.memory.lines import facts
from pipeline.memory.settings import Memory
from pipeline.memory.statements import Editor, cleaned
from pipeline.memory.store import KnowledgeMemory
from pipeline.memory.verify import contents, repair, verify
from pipeline.weights import Encoder

CHUNK = 1024
"""Facts that are written at once: one record of the journal."""
SHOWN = 20
"""Lines that an import lists of those it skipped."""
PATIENCE = 5
"""Seconds after which a progress bar appears."""


def options() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.memory", description=(__doc__ or "").partition("\n\n")[2]
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--folder", type=Path, required=True, help="folder of the memory")
    shared.add_argument("--json", action="store_true", help="print JSON")
    writing = argparse.ArgumentParser(add_help=False, parents=[shared])
    writing.add_argument("--start", type=Path, help="memory that a new folder begins with (default: none)")
    writing.add_argument(
        "--sync", choices=POLICIES, default="always", help="when a change is on disk (default: always)"
    )
    date = "a year, a month or a day, as 2020, 2020-05 or 2020-05-17"
    writing.add_argument("--on", default="", metavar="DATE", help="date of the change (default: today)")
    fact = "HEAD | RELATION | TAIL"

    taken = commands.add_parser("import", parents=[writing], help="add the facts of a file")
    taken.add_argument("file", help="one fact a line, tab-separated or as JSON objects; - reads the input")
    taken.add_argument("--skip", action="store_true", help="pass over lines that are no fact, and list them")
    taken.add_argument("--replace", action="store_true", help="let facts supersede others of their slots")
    taken.add_argument(
        "--through", action="store_true", help="ends are the last year, month or day that facts held in"
    )
    written = commands.add_parser("upsert", parents=[writing], help="write facts, by label or key")
    written.add_argument("facts", nargs="+", metavar=fact)
    written.add_argument("--keep", action="store_true", help="let other facts of the same slots stand")
    written.add_argument("--since", default="", metavar="DATE", help=f"when they began to hold: {date}")
    written.add_argument("--until", default="", metavar="DATE", help="from when on they hold no longer")
    written.add_argument("--source", default="", help="who says so (memory.sources: who is believed)")
    commands.add_parser("advance", parents=[writing], help="let facts begin and end by their dates")
    deleted = commands.add_parser(
        "delete", parents=[writing], help="delete facts, by label or key, for all dates"
    )
    deleted.add_argument("facts", nargs="+", metavar=fact)
    found = commands.add_parser("search", parents=[shared], help="show the facts nearest to a text")
    found.add_argument("text")
    found.add_argument("--count", type=int, default=10, help="facts to show (default: 10)")
    found.add_argument("--as-of", default="", metavar="DATE", help=f"search what held then: {date}")
    checked = commands.add_parser("verify", parents=[shared], help="read everything and check it")
    checked.add_argument("--repair", action="store_true", help="set aside what stands behind a damaged place")
    commands.add_parser("merge", parents=[writing], help="fold the journal into a new snapshot")
    commands.add_parser("stats", parents=[shared], help="say what the folder holds")
    return parser


def run(words: Sequence[str], settings: Memory, encoder: Encoder) -> str:
    """Return what the command with these words prints.

    Args:
        words: the command line.
        settings: layout and sizes of the search.
        encoder: what turns names into vectors.

    Raises:
        UserError: something in them, or a file that they name, can't be used.
    """
    given = options().parse_args(words)
    texts = TextEncoder(encoder, "cuda" if torch.cuda.is_available() else "cpu")
    if given.command == "verify":
        aside = repair(given.folder, texts) if given.repair else None
        result = asdict(verify(given.folder, settings, texts)) | ({"set_aside": str(aside)} if aside else {})
    elif given.command in ("stats", "search"):
        memory = KnowledgeMemory.open(given.folder, settings, texts)
        if given.command == "stats":
            result = asdict(contents(given.folder, memory))
        else:
            asked = memory.as_of(given.as_of) if given.as_of else memory
            result = {"facts": _search(asked, texts, cleaned(given.text), given.count)}
    else:
        if given.command != "import":  # too short for a merge beside it, which its end would give up
            settings = replace(settings, merge_after=0)
        start = KnowledgeMemory.open(given.start, settings, texts) if given.start else None
        with DurableMemory.begun(given.folder, settings, texts, given.sync, start) as memory:
            result = _changed(memory, given) | {"facts_held": len(memory)}
    return json.dumps(result, indent=1, ensure_ascii=False) + "\n" if given.json else _plain(result)


def _changed(memory: DurableMemory, given: argparse.Namespace) -> dict[str, Any]:
    """Carry out a command that writes and return what it did."""
    if given.command == "merge":
        memory.merge()
        return asdict(contents(given.folder, memory))
    if given.command == "import":
        return _import(memory, given)
    editor = Editor(memory)
    if given.command == "advance":
        return {"notes": editor.turned(memory.advance(given.on)), "date": memory.chronicle.on}
    if given.command == "delete":
        return {"deleted": editor.delete(given.facts, given.on)}
    period = Period(*(cleaned(text) if text else "" for text in (given.since, given.until, given.source)))
    rows, superseded, notes = editor.upsert(given.facts, not given.keep, period, given.on)
    return {
        "written": list(map(memory.text, rows)),
        "superseded": list(map(memory.text, superseded)),
        "notes": notes,
    }


def _import(memory: DurableMemory, given: argparse.Namespace) -> dict[str, Any]:
    """Add the facts of a file.

    Raises:
        UserError: a line is no fact and `skip` isn't given; the facts before it are in the memory then.
    """
    editor, file = Editor(memory), given.file
    skipped: list[str] = []
    count = 0

    def named() -> Iterator[Fact]:
        nonlocal count
        for number, found in tqdm(
            facts(file, given.through), "import", unit=" facts", delay=PATIENCE, disable=None
        ):
            try:
                if isinstance(found, UserError):
                    raise found
                yield editor.named(found)
            except UserError as error:
                where = "" if isinstance(found, UserError) else f"{file}, line {number}: "
                if not given.skip:
                    raise UserError(f"{where}{error}; or pass over such lines by --skip") from error
                count += 1
                skipped.extend([f"{where}{error}"] if len(skipped) < SHOWN else [])

    written = 0
    try:
        for chunk in _chunks(named(), given.replace):
            written += len(set(memory.upsert(chunk, given.replace, on=given.on).facts))
    except UserError as error:
        raise UserError(f"{error} ({written} facts before it are in the memory)") from error
    return {"imported": written, "skipped": count, "skipped_lines": skipped}


def _chunks(lines: Iterable[Fact], apart: bool) -> Iterator[list[Fact]]:
    """Yield facts, some at a time, where `apart` no two of a slot; an error of theirs comes behind them."""
    chunk: list[Fact] = []
    slots: set[tuple[str, str]] = set()
    try:
        for fact in lines:
            if len(chunk) == CHUNK or (apart and fact.key[:2] in slots):
                yield chunk
                chunk, slots = [], set()
            chunk.append(fact)
            slots.add(fact.key[:2])
    except UserError:
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk


def _search(memory: KnowledgeMemory, texts: TextEncoder, text: str, count: int) -> list[dict[str, Any]]:
    """Return the facts whose entity and relation are nearest to `text`, with their scores."""
    if count < 1:
        raise UserError(f"--count must be at least 1, not {count}")
    vector = texts.encode([text])
    found = memory.search(Query(vector, vector), count)
    pairs = zip(found.facts[0].tolist(), found.scores[0].tolist(), strict=True)
    return [
        {"key": memory.fact(row).key, "text": memory.text(row), "score": score}
        for row, score in pairs
        if row >= 0
    ]


def _plain(result: dict[str, Any]) -> str:
    lines: list[str] = []
    for name, value in result.items():
        if isinstance(value, list):
            lines += [f"{name}: none" if not value else f"{name}:", *map(_item, value)]
        else:
            lines.append(f"{name}: {value:,}" if isinstance(value, int) else f"{name}: {value}")
    return "\n".join([*lines, ""])


def _item(value: Any) -> str:
    return f"  {value['score']:.3f}  {value['text']}" if isinstance(value, dict) else f"  {value}"


def chosen(kind: Any, group: str) -> Any:
    """Return the section that params.yaml chooses of `group`, as `kind`."""
    file = CONF / group / f"{choices()[group]}.yaml"
    return section(kind, yaml.safe_load(file.read_text(encoding="utf-8")), group)


def main(words: Iterable[str]) -> None:
    """Print what the command does, and turn what the user can put right into one line."""
    try:
        sys.stdout.write(run(list(words), chosen(Memory, "memory"), chosen(Encoder, "encoder")))
    except (ConfigError, UserError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
