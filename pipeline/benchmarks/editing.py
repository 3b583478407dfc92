"""Edits a language model by each editor and measures what came of it: `python -m pipeline.benchmark editing`.

Facts that change in the graph are edited one by one, each undone again, and in streams that stay. After each:
are they answered, in other words too; are questions and texts that they are not about answered and read as by
the bare model; are the first edits of a stream still there; and how long did it take. To editing.json.
With `editing=search` the same asks validation edits with other values of the methods.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from omegaconf import OmegaConf
from tqdm import tqdm

from pipeline.benchmarks.perplexity import Perplexity, halves
from pipeline.config import CONF, ConfigError, Paths, UserError, section, stage
from pipeline.evaluation.editing import Measured, Untouched, interval
from pipeline.evaluation.editors import Editing as Method
from pipeline.evaluation.editors import editor_of
from pipeline.evaluation.environment import overridden, provenance
from pipeline.evaluation.metrics import exact_match
from pipeline.evaluation.summary import Bootstrap
from pipeline.kg.facts import FOLDS, Graph, read_table
from pipeline.kg.sources.files import located
from pipeline.model.editing.editor import Editor, editable
from pipeline.model.editing.request import Edit, changed, counterfactual
from pipeline.model.reader import Reader
from pipeline.trainer import Trainer
from pipeline.weights import LanguageModel

SOURCES = ("changes", "counterfactual")
MEGABYTE = 2**20


@dataclass(frozen=True, kw_only=True)
class Editing:
    """Which edits are made, and what is asked after them."""

    entries: list[str]
    """Files of conf/method, each perhaps with other values, as in `rome:layer=4,optimisation.steps=10`."""
    source: str
    """`changes` between the graph's first and last snapshot, or `counterfactual` facts of the last one."""
    folds: list[str]
    """Of which folds the edited facts are; the methods' values were chosen on `train` and `valid`."""
    same_end: int
    """Edits at most whose subjects end in the same word; 0 sets no limit. ROME and MEMIT know a subject by
    its last
    token, so that airports named "… Airport" overwrite each other."""
    singles: int
    """Edits that are each made on the bare model."""
    streams: list[int]
    """Edits that stay, in rising numbers."""
    asked: int
    """Edits of a stream that are asked for, spread evenly over it."""
    first: int
    """Edits from its beginning that are asked for, for what is retained."""
    wordings: list[str]
    """Other wordings of an edited fact's question, with {noun} and {name}."""
    untouched: int
    """Questions about facts that no edit touches."""
    untouched_each: int
    """Of these, those asked after a single edit, in turn."""
    texts: str
    """Ordinary text: a file below the data root; "" lets the bare model write."""
    text_count: int
    """Texts that are read."""
    texts_each: int
    """Of these, those read after a single edit, in turn."""
    text_tokens: int
    """Tokens of a text, of which the first quarter is given."""
    examples: int
    """Answers that are shown."""
    seeds: list[int]
    """Of which edits are made, and in which order; figures are over all of them."""
    bootstrap_samples: int
    """Resamples behind each interval."""

    def __post_init__(self) -> None:
        if not self.entries or not self.seeds:
            raise ValueError("editing.entries and editing.seeds must not be empty")
        if self.source not in SOURCES:
            raise ValueError(f"editing.source must be one of {', '.join(SOURCES)}, not {self.source!r}")
        if not self.folds or set(self.folds) - set(FOLDS):
            raise ValueError(f"editing.folds must be some of {', '.join(FOLDS)}, not {self.folds}")
        if sorted({0, *self.streams}) != [0, *self.streams]:
            raise ValueError(f"editing.streams must hold rising numbers from 1, not {self.streams}")
        if not self.streams and not self.singles:
            raise ValueError("editing.singles or editing.streams must ask for an edit")
        least = {"singles": 0, "examples": 0, "same_end": 0, "text_tokens": 4}
        names = ("asked", "first", "untouched", "untouched_each", "text_count", "texts_each")
        for name in (*names, "bootstrap_samples", *least):
            if getattr(self, name) < least.get(name, 1):
                raise ValueError(f"editing.{name} must be at least {least.get(name, 1)}")
        for template in self.wordings:
            if template.count("{noun}") != 1 or template.count("{name}") != 1:
                raise ValueError(f"editing.wordings must hold {{noun}} and {{name}} once, not {template!r}")


@stage
def editing(editing: Editing, lm: LanguageModel, trainer: Trainer, paths: Paths, out: Path) -> None:
    """Edit by every entry and write what came of it."""
    graph = Graph.read(paths.tables, relations=paths.kv)
    questions = read_table(paths.kv, "questions").to_pylist()
    chosen = {entry: _read(entry) for entry in editing.entries}
    reader = Reader(editable(lm), trainer.device)
    told = provenance(overridden("python -m pipeline.benchmark editing"), editing.seeds)
    told |= {"lm": lm.name, "settings": asdict(editing), "figures": {}}
    how = Bootstrap(editing.bootstrap_samples, editing.seeds[0])
    for entry, method in chosen.items():
        editor = editor_of(method, reader)
        parts: dict[str, list[dict[str, Any]]] = {}
        told["figures"][entry] = {"method": asdict(method)}
        for seed in editing.seeds:
            for name, part in _measured(editor, graph, questions, editing, seed):
                parts.setdefault(name, []).append(part)
                told["figures"][entry][name] = _joined(parts[name], editing, how)
                text = json.dumps(told, indent=1, ensure_ascii=False) + "\n"  # anew: the next may take hours
                (out / "editing.json").write_text(text, encoding="utf-8")


def _read(entry: str) -> Method:
    """Return the values of an entry.

    Raises:
        ConfigError: there is no such file in conf/method, or a value is out of its range.
    """
    name, _, changes = entry.partition(":")
    file = CONF / "method" / f"{name}.yaml"
    if not file.is_file():
        raise ConfigError(f"{entry!r}: there is no {name!r} in conf/method")
    pairs = list(filter(None, re.split(r",(?![^\[]*\])", changes)))
    method: Method = section(
        Method, OmegaConf.merge(OmegaConf.load(file), OmegaConf.from_dotlist(pairs)), "method"
    )
    return method


def _edits(graph: Graph, editing: Editing, wordings: Sequence[str], seed: int) -> list[Edit]:
    """Return as many edits as are needed, in the order in which they are made.

    Raises:
        UserError: there are fewer.
    """
    needed = max(editing.singles, *editing.streams, 1)
    if editing.source == "changes":
        found = changed(graph, 0, graph.last_snapshot, wordings, editing.folds)
    else:
        found = counterfactual(graph, graph.last_snapshot, wordings, editing.folds, 10 * needed, seed)
    edits = list({edit.questions: edit for edit in found}.values())  # one of those that are worded alike
    random.Random(seed).shuffle(edits)
    if editing.same_end:
        spare = Counter({edit.subject.split()[-1]: editing.same_end for edit in edits})
        edits = [edit for edit in edits if _taken(spare, edit.subject.split()[-1])]
    if len(edits) < needed:
        raise UserError(
            f"{needed} edits are asked for, but there are {len(edits)} in the folds "
            f"{', '.join(editing.folds)}: name more in editing.folds, set editing.source=counterfactual, "
            "raise editing.same_end, or lower editing.singles and editing.streams"
        )
    return edits[:needed]


def _taken(spare: Counter[str], end: str) -> bool:
    """Take one of what is spare of an end; return whether there was any."""
    spare[end] -= 1
    return spare[end] >= 0


def _untouched(
    editor: Editor, questions: Sequence[dict[str, Any]], edits: Sequence[Edit], editing: Editing, seed: int
) -> Untouched:
    """Return questions beside the edits, and texts, as the bare model answers and reads them.

    Raises:
        UserError: there is no such question, or no text.
    """
    touched = {(edit.subject, edit.noun) for edit in edits}
    asked = [
        row["text"]
        for row in questions
        if row["split"] in ("unchanged", "unseen") and row["kind"] == "template"
    ]
    asked = [t for t in asked if not any(name in t and noun in t for name, noun in touched)]
    random.Random(seed).shuffle(asked)
    if not asked:
        raise UserError("no question of the split unchanged or unseen: run `dvc repro synthesize`")
    start = max(1, editing.text_tokens // 4)
    if editing.texts:
        located(editing.texts, "put a file of texts there, or let the model write: editing.texts=''")
        like = Perplexity(
            file=editing.texts,
            texts=editing.text_count,
            start_tokens=start,
            end_tokens=editing.text_tokens - start,
            entries=["bare"],
            seeds=[seed],
            batch_size=1,
            bootstrap_samples=1,
        )
        texts = halves(editor.reader, like)
    else:
        written = editor.reader.write(["The"] * editing.text_count, editing.text_tokens)
        cut = [editor.reader.encode([text])[0] for text in written]
        decode = editor.reader.tokenizer.decode
        texts = [(decode(ids[:start]), decode(ids[start:])) for ids in cut if len(ids) > start]
    return Untouched.of(editor, asked[: editing.untouched], texts)


def _measured(
    editor: Editor, graph: Graph, questions: Sequence[dict[str, Any]], editing: Editing, seed: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give what one seed gives for single edits and for each stream."""
    edits = _edits(graph, editing, editor.asking.wordings, seed)
    untouched = _untouched(editor, questions, edits, editing, seed)
    if editing.singles:
        rows, seconds = Measured.nothing(), []
        bar = tqdm(edits[: editing.singles], desc=f"{type(editor).__name__} singles", unit="edit")
        for turn, edit in enumerate(bar):
            began = perf_counter()
            with editor.edited([edit]):
                seconds.append(perf_counter() - began)
                rows.ask(editor, [edit], editing.wordings)
                rows.compare(editor, untouched.some(turn, editing.untouched_each, editing.texts_each))
                size = editor.bytes
        yield "single", {"rows": rows, "seconds": seconds, "bytes": size, "edits": 1}
    done, spent = 0, 0.0
    try:
        for length in editing.streams:
            if done % editor.at_once:  # what was begun as one batch can't be added to
                editor.undo()
                done, spent = 0, 0.0
            began = perf_counter()
            try:
                editor.apply(edits[done:length])
            except UserError as error:
                yield str(length), {"stopped": str(error)}
                break
            spent += perf_counter() - began
            done = length
            part = _stream(editor, edits[:length], untouched, editing)
            part |= {"seconds": [spent / length], "bytes": editor.bytes, "edits": length}
            yield str(length), part
    finally:
        editor.undo()


def _stream(editor: Editor, edits: Sequence[Edit], untouched: Untouched, editing: Editing) -> dict[str, Any]:
    rows = Measured.nothing()
    count = min(editing.asked, len(edits))
    rows.ask(editor, [edits[place * len(edits) // count] for place in range(count)], editing.wordings)
    rows.compare(editor, untouched)
    first = edits[: editing.first]
    said = editor.answer([edit.questions[0] for edit in first])
    kept = [exact_match(text, edit.right) for text, edit in zip(said, first, strict=True)]
    return {"rows": rows, "retention": kept}


def _joined(parts: Sequence[dict[str, Any]], editing: Editing, how: Bootstrap) -> dict[str, Any]:
    """Return the figures over all seeds."""
    whole = [part for part in parts if "rows" in part]
    stopped = [part["stopped"] for part in parts if "stopped" in part]
    if not whole:
        return {"stopped": stopped}
    rows = Measured.nothing()
    for part in whole:
        for name, values in vars(part["rows"]).items():
            getattr(rows, name).extend(values)
    told = rows.figures(how) | ({"stopped": stopped} if stopped else {})
    kept = [value for part in whole for value in part.get("retention", [])]
    if kept:
        told["retention of the first"] = interval(kept, how)
    edits, held = whole[0]["edits"], whole[0]["bytes"] / MEGABYTE
    told["seconds an edit"] = interval([s for part in whole for s in part["seconds"]], how)
    told |= {"edits": edits, "MB held": round(held, 3), "MB an edit": round(held / edits, 4)}
    return told | {"examples": rows.examples[: editing.examples]}


if __name__ == "__main__":
    editing()
