"""Makes an answerer of an editor: changes of the graph go into the weights, and it is asked closed-book."""

from collections.abc import Sequence

import torch

from pipeline.evaluation.methods import Answerer, Answers, register
from pipeline.kg.facts import Graph
from pipeline.model.editing.editor import Editor, editable
from pipeline.model.editing.finetune import Finetune, FinetuneEditor
from pipeline.model.editing.lora import Lora, LoraEditor
from pipeline.model.editing.memit import Memit, MemitEditor
from pipeline.model.editing.request import changed
from pipeline.model.editing.rome import Rome, RomeEditor
from pipeline.model.reader import Reader
from pipeline.weights import LanguageModel

Editing = Rome | Memit | Finetune | Lora
"""Values of each editor."""


def editor_of(method: Editing, reader: Reader) -> Editor:
    """Return the editor of a method on a language model that is in float32."""
    if isinstance(method, Rome):
        return RomeEditor(method, reader)
    if isinstance(method, Memit):
        return MemitEditor(method, reader)
    return FinetuneEditor(method, reader) if isinstance(method, Finetune) else LoraEditor(method, reader)


class EditedModel:
    """A language model that is asked closed-book and edited when the graph changes.

    Args:
        editor: what edits it.
    """

    def __init__(self, editor: Editor) -> None:
        self.editor = editor
        self.name = type(editor).__name__.removesuffix("Editor").lower()
        self._snapshot = 0
        self._said: dict[str, str] = {}

    def answer(self, questions: Sequence[str]) -> Answers:
        """Return the answers to one batch of questions; no fact is named, and none refused."""
        fresh = [question for question in dict.fromkeys(questions) if question not in self._said]
        if fresh:
            self._said.update(zip(fresh, self.editor.answer(fresh), strict=True))
        none: list[list[int]] = [[] for _ in questions]
        texts = [self._said[question] for question in questions]
        return Answers(texts, none, [[] for _ in texts], none, [0.0] * len(texts), [False] * len(texts))

    def update(self, graph: Graph, snapshot: int) -> None:
        """Write the slots that changed up to `snapshot` into the weights; deletions alone change nothing."""
        wordings = self.editor.asking.wordings
        self.editor.apply(changed(graph, self._snapshot, snapshot, wordings))
        self._snapshot = snapshot
        self._said.clear()


def _answerer(method: Editing, lm: LanguageModel) -> Answerer:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return EditedModel(editor_of(method, Reader(editable(lm), device)))


for _kind in (Rome, Memit, Finetune, Lora):
    register(_kind)(_answerer)
