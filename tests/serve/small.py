"""A trained folder, small: the adapter of an untrained system, and the memory of the small world."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.model.adapter import save_adapter
from pipeline.weights import Encoder, LanguageModel
from tests.model.tiny_systems import opened, ours
from tests.tiny import SmallWorld, memory_settings

FACTS = "head\trelation\ttail\nFrance\tcapital\tParis\nFrance\tcurrency\teuro\nPeru\tcapital\tLima\n"


@dataclass(frozen=True)
class Trained:
    adapter: Path
    memory: Path
    facts: Path


def trained_folder(world: SmallWorld, lm: LanguageModel, encoder: Encoder, folder: Path) -> Trained:
    """Write an adapter and a file of facts to `folder`."""
    method = ours()
    # A random encoder puts any entity near a question, so the search looks at all of them.
    memory = memory_settings(entities=1000)
    system = opened(method, world, lm, encoder)
    system.null.threshold.fill_(1.0)
    sections = {"method": method, "memory": memory, "lm": lm, "encoder": encoder}
    save_adapter(system, folder / "ours", sections)
    facts = folder / "facts.tsv"
    facts.write_text(FACTS, encoding="utf-8")
    return Trained(folder / "ours", world.paths.index, facts)
