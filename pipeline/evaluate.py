"""Stage `evaluate`: asks one method the questions of every split, before and after the graph changes."""

from pathlib import Path

from pipeline.config import Paths, stage
from pipeline.evaluation.checked import asked
from pipeline.evaluation.editors import Editing
from pipeline.evaluation.majority import Majority
from pipeline.evaluation.methods import build
from pipeline.evaluation.runs import Evaluate, run
from pipeline.evaluation.systems import Method
from pipeline.kg.facts import Graph
from pipeline.memory.settings import Memory
from pipeline.processes import joined, own_device
from pipeline.weights import Encoder, LanguageModel


@stage
def evaluate(
    method: Method | Majority | Editing,
    memory: Memory,
    lm: LanguageModel,
    encoder: Encoder,
    evaluate: Evaluate,
    paths: Paths,
    seed: int,
    out: Path,
) -> None:
    """Write the answers of `method` and what they are worth; processes started together share questions."""
    with joined(own_device()):
        graph = Graph.read(paths.tables, relations=paths.kv)
        answerer = build(method, memory=memory, lm=lm, encoder=encoder, graph=graph, paths=paths)
        run(answerer, graph, asked(paths, graph, evaluate.splits), evaluate, seed, out)


if __name__ == "__main__":
    evaluate()
