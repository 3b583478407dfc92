"""Sections at the size of the tiny models, and systems on the small world."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.evaluation.systems import Method, open_system
from pipeline.model.batches import Train
from pipeline.model.bm25 import Bm25
from pipeline.model.closedbook import ClosedBook
from pipeline.model.dysk import Dysk, DyskDense
from pipeline.model.icl import Icl
from pipeline.model.labels import Labels
from pipeline.model.linking import Linking
from pipeline.model.rag import Rag
from pipeline.model.ragtuned import RagTuned
from pipeline.model.retrieval import Retrieval
from pipeline.model.settings import Kblam, Ours, Vector
from pipeline.model.system import Example, System
from pipeline.tracking import Logger
from pipeline.trainer import Trainer
from pipeline.weights import Encoder, LanguageModel
from tests.tiny import SmallWorld, memory_settings

CPU = Trainer(accelerator="cpu", devices=1, hosts=1, strategy="auto")
SILENT = Logger(mode="disabled", project="tests", entity=None, group=None, dir=Path())

LIGHTNING = pytest.mark.filterwarnings(
    # Lightning's own calls of torch, and its advice to load tiny data with many processes.
    "ignore:.*LeafSpec:FutureWarning",
    "ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning",
)

PROJECTIONS = {
    "llama": ["q_proj", "o_proj"],
    "qwen2": ["q_proj", "o_proj"],
    "gemma3": ["q_proj", "o_proj"],
    "gpt_neox": ["query_key_value", "dense"],
}


def ours(**changes: Any) -> Ours:
    values: dict[str, Any] = {
        "first_layer": 1,
        "projections": ["q_proj", "o_proj"],
        "rank": 2,
        "rank_alpha": 4.0,
        "question": "encoder",
        "state_pools": 2,
        "head_width": 16,
        "entity_scale": 10.0,
        "relation_scale": 10.0,
        "letters": False,
        "letters_width": 4,
        "null_width": 4,
        "state_layer": 2,
        "fact_window": 40,
        "fact_cache": 2000,
        "mass": 0.999,
        "hops": 1,
        "shift": True,
        "isolate": False,
        "slot_gap": 1.0,
        "refuse_answerable": 0.1,
        "answer_tokens": 4,
        "alpha": 0.5,
    }
    return Ours(**(values | changes))


def rag(**changes: Any) -> Rag:
    values: dict[str, Any] = {
        "projections": ["q_proj", "v_proj"],
        "rank": 2,
        "rank_alpha": 4.0,
        "scale": 20.0,
        "fact_tokens": 24,
        "answer_tokens": 4,
    }
    return Rag(**(values | changes))


def rag_tuned(**changes: Any) -> RagTuned:
    values: dict[str, Any] = vars(rag()) | {
        "head_width": 16,
        "ks": [1, 3],
        "refuse_answerable": 0.1,
        "rerank": True,
        "reranked": 4,
        "rerank_projections": ["query", "value"],
        "rerank_first_layer": 1,
        "rerank_rank": 2,
        "rerank_width": 8,
    }
    return RagTuned(**(values | changes))


def reader_of_rag() -> dict[str, Any]:
    return {name: value for name, value in vars(rag()).items() if name != "scale"}


def bm25(**changes: Any) -> Bm25:
    values = {"documents": "key", "k1": 1.2, "b": 0.75, "refuse_answerable": 0.1}
    return Bm25(**(reader_of_rag() | values | changes))


def linking(**changes: Any) -> Linking:
    values = {"mention_weight": 1.0, "relation_scale": 30.0, "refuse_answerable": 0.1}
    return Linking(**(reader_of_rag() | values | changes))


def icl(**changes: Any) -> Icl:
    values: dict[str, Any] = {
        "tuned": True,
        "projections": ["q_proj", "v_proj"],
        "rank": 2,
        "rank_alpha": 4.0,
        "fact_tokens": 6,
        "answer_tokens": 4,
    }
    return Icl(**(values | changes))


def dysk(**changes: Any) -> Dysk:
    values: dict[str, Any] = {
        "layers": [1, 2],
        "width": 8,
        "space": "fused",
        "fusion": "residual",
        "gate": 0.3,
        "k": 3,
        "dense": False,
        "scale": 20.0,
        "answer_tokens": 4,
        "alpha": 1.0,
    }
    return Dysk(**(values | changes))


def dysk_dense(**changes: Any) -> DyskDense:
    return DyskDense(**(vars(dysk()) | {"dense": True} | changes))


def vector(kind: type[Vector] = Kblam, **changes: Any) -> Any:
    values: dict[str, Any] = {
        "every": 2,
        "normalised": True,
        "size_weight": 100.0,
        "roots": 0,
        "inner": 4,
        "leaves": 3,
        "block": 5,
        "grounding": 0,
        "selection": "layer",
        "negatives": 3,
        "negatives_every": 2,
        "negatives_most": 9,
        "scored": 0,
        "answer_tokens": 4,
        "alpha": 0.0,
        "pooling": "softmax",
        "logit_scale": 0.0,
        "rows": "graph",
        "refusal": "I am sorry, no fact answers this.",
        "refuses": True,
    }
    return kind(**(values | changes))


def closed_book(**changes: Any) -> ClosedBook:
    return ClosedBook(**({"prompt": "Question: {question} Answer:", "answer_tokens": 4} | changes))


def retrieval(**changes: Any) -> Retrieval:
    values: dict[str, Any] = {
        "steps": 3,
        "batch_size": 8,
        "learning_rate": 0.01,
        "weight_decay": 0.0,
        "hard_negatives": 2,
        "random_negatives": 4,
        "examples": 12,
        "relation_folds": 2,
        "trusts": [0.5],
        "joint_rate": 0.1,
        "held": 0.2,
        "letters_steps": 3,
        "letters_learning_rate": 0.02,
        "correction_steps": 2,
        "correction_weights": [1.0],
        "validation": 6,
        "stop_biases": [-2.0, 2.0],
        "null_steps": 3,
        "null_examples": 5,
        "null_learning_rate": 0.02,
        "texts": 0,
        "rerank_steps": 2,
        "rerank_batch": 4,
        "rerank_slots": 3,
        "rerank_learning_rate": 0.01,
        "rerank_weights": [1.0],
        "k_validation": 3,
    }
    return Retrieval(**(values | changes))


def labels(**changes: Any) -> Labels:
    return Labels(**({"gold": 1.0, "otherwise": "none", "noise": 0.0} | changes))


def training(checkpoints: Path, **changes: Any) -> Train:
    values: dict[str, Any] = {
        "steps": dict.fromkeys(("ours", "rag", "rag_tuned", "dysk", "dysk_dense", "kblam", "atlaskv"), 3),
        "batch_size": 3,
        "learning_rate": 0.01,
        "learning_rates": {},
        "warmup": 1,
        "weight_decay": 0.01,
        "gradient_clip": 1.0,
        "unanswerable": 0.2,
        "human": 0.5,
        "multihop": 0.3,
        "checkpoint_every": 2,
        "checkpoints": checkpoints,
        "labels": labels(),
        "retrieval": retrieval(),
    }
    return Train(**(values | changes))


def opened(
    method: Method,
    world: SmallWorld,
    lm: LanguageModel,
    encoder: Encoder,
    device: torch.device | str = "cpu",
    **changes: Any,
) -> Any:
    """Return the untrained system of `method` on the small world; `changes` are of the memory.

    Every entity is looked at: the vectors of a random encoder say nothing about which ones to.
    """
    torch.manual_seed(0)
    memory = memory_settings(**({"entities": 60} | changes))
    return open_system(method, memory, lm, encoder, world.graph, world.paths, torch.device(device))


def some_examples(system: System, count: int = 3) -> list[Example]:
    """Return a question about each of the first facts of the memory."""
    examples = []
    for row in range(count):
        fact = system.memory.fact(row)
        text = f"What is the {fact.relation_noun} of {fact.head_label}?"
        examples.append(Example(text, (fact.tail_label,), (row,)))
    return examples


def steps(system: System, examples: list[Example], count: int, rate: float, figure: str) -> list[float]:
    """Take so many steps of Adam on the same batch and draws; return `figure` of the losses at each."""
    optimizer = torch.optim.Adam(system.parameters(), lr=rate)
    found = []
    with system.attached():
        for _ in range(count):
            random.seed(0)
            optimizer.zero_grad()
            parts = system.losses(examples)
            parts["loss"].backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            found.append(parts[figure].item())
    return found


def shaken(system: System, size: float = 0.3) -> None:
    """Move every parameter, so that nothing hides behind what starts at zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator).to(parameter.device))
