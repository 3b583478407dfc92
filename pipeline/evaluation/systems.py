"""Builds a system on what the stages wrote, and makes an answerer of it."""

import random
from collections.abc import Sequence
from dataclasses import replace

import torch

from pipeline.config import Paths, UserError
from pipeline.evaluation.learned import examples
from pipeline.evaluation.methods import Answerer, Answers, register
from pipeline.kg.facts import Graph
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.graph import Correspondence, replay
from pipeline.memory.settings import Memory
from pipeline.memory.store import KnowledgeMemory
from pipeline.model.adapter import load_adapter
from pipeline.model.bm25 import Bm25, Bm25System
from pipeline.model.closedbook import ClosedBook, ClosedBookSystem
from pipeline.model.dysk import Dysk, DyskDense, DyskSystem
from pipeline.model.facts import FactVectors, rotate_vectors
from pipeline.model.icl import Icl, IclSystem
from pipeline.model.linking import Linking, LinkingSystem
from pipeline.model.ours import OurSystem
from pipeline.model.rag import Rag, RagSystem
from pipeline.model.ragtuned import RagTuned, RagTunedSystem
from pipeline.model.reader import Reader
from pipeline.model.settings import AtlasKv, AtlasKvAux, AtlasKvFlat, Kblam, KblamSameRows, Ours, Vector
from pipeline.model.system import System
from pipeline.model.tuning import refusal
from pipeline.model.vector import VectorSystem
from pipeline.weights import Encoder, LanguageModel

Method = (
    Ours
    | Rag
    | RagTuned
    | Bm25
    | Linking
    | Dysk
    | DyskDense
    | Kblam
    | KblamSameRows
    | AtlasKv
    | AtlasKvFlat
    | AtlasKvAux
    | Icl
    | ClosedBook
)
NAMES: dict[type, str] = {
    Ours: "ours",
    Rag: "rag",
    RagTuned: "rag_tuned",
    Bm25: "bm25",
    Linking: "linking",
    Dysk: "dysk",
    DyskDense: "dysk_dense",
    Kblam: "kblam",
    KblamSameRows: "kblam_same_rows",
    AtlasKv: "atlaskv",
    AtlasKvFlat: "atlaskv_flat",
    AtlasKvAux: "atlaskv_aux",
    Icl: "icl",
    ClosedBook: "closed_book",
}
ADAPTERS = {"atlaskv_flat": "atlaskv", "icl": "rag", "bm25": "rag", "linking": "rag"}
"""Methods that answer with the adapter of another one."""
VALIDATION = 1000
"""Validation questions of each kind, at most, that `bm25` and `linking` choose their refusals by."""
LAYOUTS = dict.fromkeys((Rag, RagTuned, Kblam, KblamSameRows, AtlasKv, AtlasKvFlat, AtlasKvAux), "slot")
LAYOUTS |= dict.fromkeys((Dysk, DyskDense), "factored")
"""Methods that need one layout of the memory, whatever the configuration chooses for the others."""


def open_system(
    method: Method,
    memory: Memory,
    lm: LanguageModel,
    encoder: Encoder,
    graph: Graph,
    paths: Paths,
    device: torch.device,
    shares: bool = False,
) -> System:
    """Return the untrained system of `method`, on the memory of the stage `index`.

    With `shares`, all processes share the language model's layers out among them.

    Raises:
        UserError: an output of an earlier stage or the weights are missing.
    """
    texts = TextEncoder(encoder, device)
    facts = KnowledgeMemory.open(paths.index, needed(method, memory), texts)
    reader = Reader(lm, device, shares)
    if isinstance(method, Dysk):
        rotate = rotate_vectors(paths.rotate / "rotate.safetensors", graph)
        return DyskSystem(method, reader, texts, facts, FactVectors(facts, method.space, *rotate))
    if isinstance(method, Linking):
        return LinkingSystem(method, reader, texts, facts, graph.aliases)
    return system_on(method, reader, texts, facts)


def needed(method: Method, memory: Memory) -> Memory:
    """Return the memory's settings with the layout that the method needs."""
    return replace(memory, layout=LAYOUTS.get(type(method), memory.layout))


def system_on(method: Method, reader: Reader, texts: TextEncoder, facts: KnowledgeMemory) -> System:
    """Return the untrained system of `method` on what is open already.

    Raises:
        UserError: it is `dysk`, whose vectors of facts belong to the graph.
    """
    if isinstance(method, Ours):
        return OurSystem(method, reader, texts, facts)
    if isinstance(method, RagTuned):
        return RagTunedSystem(method, reader, texts, facts)
    if isinstance(method, Bm25):
        return Bm25System(method, reader, texts, facts)
    if isinstance(method, Linking):
        return LinkingSystem(method, reader, texts, facts, {})
    if isinstance(method, Rag):
        return RagSystem(method, reader, texts, facts)
    if isinstance(method, Vector):
        return VectorSystem(method, reader, texts, facts)
    if isinstance(method, Icl):
        return IclSystem(method, reader, texts, facts)
    if isinstance(method, ClosedBook):
        return ClosedBookSystem(method, reader, texts, facts)
    raise UserError("dysk needs the graph's RotatE vectors, which a memory alone lacks; leave it out")


def has_adapter(method: Method) -> bool:
    """Return whether a method answers with an adapter, its own or another one's."""
    return method.tuned if isinstance(method, Icl) else not isinstance(method, ClosedBook)


class SystemAnswerer:
    """A system that speaks of facts by their ids in the tables.

    Args:
        name: what tables and plots call it.
        system: what answers.
        graph: the tables.
    """

    def __init__(self, name: str, system: System, graph: Graph) -> None:
        self.name = name
        self.system = system
        self._same = Correspondence(graph, system.memory)
        self._snapshot = 0

    def answer(self, questions: Sequence[str]) -> Answers:
        """Return the answers to one batch of questions."""
        with self.system.attached():
            reply = self.system.reply(questions)
        return Answers(
            reply.texts,
            [[self._same.fact(row) for row in rows] for rows in reply.facts],
            reply.weights,
            [[self._same.fact(row) for row in rows] for rows in reply.candidates],
            reply.refusal,
            reply.refused,
        )

    def update(self, graph: Graph, snapshot: int) -> None:
        """Apply the changes up to `snapshot` to the memory."""
        replay(graph, self.system.memory, self._snapshot, snapshot)
        self._snapshot = snapshot


def _answerer(
    method: Method, memory: Memory, lm: LanguageModel, encoder: Encoder, graph: Graph, paths: Paths
) -> Answerer:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    system = open_system(method, memory, lm, encoder, graph, paths, device)
    name = NAMES[type(method)]
    if has_adapter(method):
        load_adapter(system, paths.adapters / ADAPTERS.get(name, name))
    if isinstance(system, Bm25System | LinkingSystem) and system.method.refuse_answerable:
        # Nothing of them is trained, so that no stage before this one could choose it.
        _, valid = examples(system, graph, paths)
        draw = random.Random(0)
        kinds = [[e for e in valid if e.kind == kind] for kind in sorted({e.kind for e in valid if e.gold})]
        drawn = [e for kind in kinds for e in draw.sample(kind, min(len(kind), VALIDATION))]
        system.limit, _ = refusal(system, drawn, system.method.refuse_answerable)
    return SystemAnswerer(name, system.eval(), graph)


for _kind in NAMES:
    register(_kind)(_answerer)
