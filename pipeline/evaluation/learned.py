"""The questions that methods learn from, and those that their settings are chosen by."""

from pipeline.config import Paths, UserError
from pipeline.kg.facts import Graph, read_table
from pipeline.memory.graph import Correspondence
from pipeline.model.batches import Pool
from pipeline.model.system import Example, System


def examples(system: System, graph: Graph, paths: Paths) -> tuple[Pool, list[Example]]:
    """Return the training questions by kind, and the validation questions, with an answer and without.

    Raises:
        UserError: there is no training question, or none for validation.
    """
    same = Correspondence(graph, system.memory)
    table = read_table(paths.kv, "questions").to_pydict()
    kinds: dict[str, list[Example]] = {"template": [], "human": [], "unanswerable": [], "multihop": []}
    valid: list[Example] = []
    rows = zip(*(table[name] for name in ("text", "kind", "facts", "answers", "split")), strict=True)
    for text, kind, facts, answers, split in rows:
        if split not in ("train", "valid") or (kind == "multihop" and system.hops == 1):
            continue
        parts = graph.hops(facts) if kind == "multihop" else [facts]
        held = [tuple(row for fact in part if (row := same.row(fact)) is not None) for part in parts]
        if not all(held) and kind != "unanswerable":
            continue  # of a later snapshot
        example = Example(text, tuple(answers), held[-1], kind, held[0] if len(held) > 1 else ())
        if split == "train" and kind in kinds and bool(held[-1]) != (kind == "unanswerable"):
            kinds[kind].append(example)
        elif split == "valid" and bool(held[-1]) != (kind == "unanswerable"):
            valid.append(example)
    if not kinds["template"] and not kinds["human"]:
        raise UserError(f"{paths.kv}: no training question in it; check conf/splits and conf/synthesis")
    if not any(example.gold for example in valid):
        raise UserError(f"{paths.kv}: no validation question in it; raise splits.valid in conf/splits")
    return Pool(**kinds), valid
