"""Values of the editors at the size of the tiny models, and some edits."""

from typing import Any

from pipeline.evaluation.editors import Editing
from pipeline.model.editing.editor import Asking
from pipeline.model.editing.finetune import Descent, Finetune
from pipeline.model.editing.lora import Lora
from pipeline.model.editing.memit import Memit
from pipeline.model.editing.request import Edit
from pipeline.model.editing.rome import Rome
from pipeline.model.editing.statistics import Statistics
from pipeline.model.editing.target import Optimisation

PROMPT = "Question: What is the currency of Japan?\nAnswer: yen\n\nQuestion: {question}\nAnswer:"


def asking(**changes: Any) -> Asking:
    values: dict[str, Any] = {"prompt": PROMPT, "wordings": ["What is the {noun} of {name}?"]}
    values |= {"contexts": [3], "end": "\n", "answer_tokens": 4, "seed": 0}
    return Asking(**(values | changes))


def optimisation(**changes: Any) -> Optimisation:
    values: dict[str, Any] = {"steps": 6, "learning_rate": 0.2, "weight_decay": 0.01, "kl_weight": 0.05}
    return Optimisation(**(values | {"clamp": 20.0, "enough": 0.01} | changes))


def statistics(**changes: Any) -> Statistics:
    return Statistics(**({"text": "", "tokens": 300, "ridge": 0.01, "seed": 0} | changes))


def descent(**changes: Any) -> Descent:
    return Descent(**({"steps": 6, "learning_rate": 0.01, "enough": 0.01, "batch": 2} | changes))


def rome(**changes: Any) -> Rome:
    values: dict[str, Any] = {"layer": 1, "optimisation": optimisation(), "statistics": statistics()}
    return Rome(**(values | {"asking": asking()} | changes))


def memit(**changes: Any) -> Memit:
    values: dict[str, Any] = {"layers": [0, 1], "moment_weight": 0.001, "batch": 4, "at_once": 2}
    values |= {"optimisation": optimisation(steps=20, learning_rate=0.5)}
    values |= {"statistics": statistics(), "asking": asking()}
    return Memit(**(values | changes))


def finetune(**changes: Any) -> Finetune:
    values: dict[str, Any] = {"layers": [1, 2], "radius": 0.0, "descent": descent(), "asking": asking()}
    return Finetune(**(values | changes))


def lora(**changes: Any) -> Lora:
    values: dict[str, Any] = {"projections": [], "rank": 2, "rank_alpha": 4.0, "seed": 0}
    return Lora(**(values | {"descent": descent(), "asking": asking()} | changes))


EDITORS: dict[str, Editing] = {"rome": rome(), "memit": memit(), "finetune": finetune(), "lora": lora()}


def edit(subject: str = "Aland", target: str = "Dorland City", noun: str = "capital", **more: Any) -> Edit:
    questions = (f"What is the {noun} of {subject}?",)
    return Edit(**({"subject": subject, "noun": noun, "target": target, "questions": questions} | more))


EDITS = [edit(), edit("Borland", "euro", "currency"), edit("Forland", "Alandish", "official language")]
