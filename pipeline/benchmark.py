"""Runs one of the measurements that take sections of conf/: `python -m pipeline.benchmark grounding`."""

import sys

from pipeline.benchmarks.ablation import ablation
from pipeline.benchmarks.asof import asof
from pipeline.benchmarks.editing import editing
from pipeline.benchmarks.fetching import fetching
from pipeline.benchmarks.foldin import foldin
from pipeline.benchmarks.footprint import footprint
from pipeline.benchmarks.grounding import grounding
from pipeline.benchmarks.injection import injection
from pipeline.benchmarks.longcontext import longcontext
from pipeline.benchmarks.memory_scale import memory_scale
from pipeline.benchmarks.pairing import pairing
from pipeline.benchmarks.perplexity import perplexity
from pipeline.benchmarks.pruning import pruning
from pipeline.benchmarks.recall import recall
from pipeline.benchmarks.recall_scale import recall_scale
from pipeline.benchmarks.refresh import refresh
from pipeline.benchmarks.relevance import relevance
from pipeline.benchmarks.robustness import robustness
from pipeline.benchmarks.rotate_scale import rotate_scale
from pipeline.benchmarks.scaling import scaling
from pipeline.benchmarks.serving import serving
from pipeline.benchmarks.speed import speed
from pipeline.benchmarks.streams import streams
from pipeline.benchmarks.timeline import timeline
from pipeline.benchmarks.updates import updates
from pipeline.benchmarks.variants import variants

COMMANDS = {
    "ablation": ablation,
    "asof": asof,
    "editing": editing,
    "fetching": fetching,
    "foldin": foldin,
    "footprint": footprint,
    "grounding": grounding,
    "injection": injection,
    "longcontext": longcontext,
    "memory_scale": memory_scale,
    "pairing": pairing,
    "perplexity": perplexity,
    "pruning": pruning,
    "recall": recall,
    "recall_scale": recall_scale,
    "refresh": refresh,
    "relevance": relevance,
    "robustness": robustness,
    "rotate_scale": rotate_scale,
    "scaling": scaling,
    "serving": serving,
    "speed": speed,
    "streams": streams,
    "timeline": timeline,
    "updates": updates,
    "variants": variants,
}


def main(arguments: list[str]) -> None:
    """Run the measurement that is named first; what follows is its overrides."""
    name = arguments[1] if len(arguments) > 1 else ""
    if name not in COMMANDS:
        sys.exit(f"error: name one of {', '.join(COMMANDS)} first, not {name!r}")
    sys.argv = [arguments[0], *arguments[2:]]
    COMMANDS[name]()


if __name__ == "__main__":
    main(sys.argv)
