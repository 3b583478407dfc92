"""HiKVP with other numbers kept at its three levels, over a tree that is built once (AtlasKV, figure 6)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from pipeline.config import UserError
from pipeline.memory.tree import Tree
from pipeline.model.system import System
from pipeline.model.vector import VectorSystem


@dataclass(frozen=True)
class Kept:
    """How many are kept at each level."""

    roots: int
    """k_R."""
    inner: int
    """k_I."""
    leaves: int
    """k_L: keys that are returned. They are facts where a language model attends to them, entities or slots
    where the tree is the memory's search."""


PAPER = Kept(128, 64, 16)
"""What AtlasKV keeps."""


@contextmanager
def keeping(system: System, kept: Kept | None) -> Iterator[Tree | None]:
    """Let `system` keep so many inside this block, or prune nothing; yield the tree, None without pruning.

    Raises:
        UserError: there is no tree: facts are found neither by attention nor by `memory.backend=hikvp`.
    """
    if isinstance(system, VectorSystem):
        method = system.method
        numbers = vars(kept) if kept else {"roots": 0}
        system.method = replace(method, **numbers)
        try:
            yield system.pruning.tree if system.pruning else None
        finally:
            system.method = method
        return
    memory = system.memory
    settings = memory.settings
    if settings.backend != "hikvp":
        raise UserError(
            f"pruning.entries: an entry finds facts by memory.backend={settings.backend}, which prunes "
            "nothing; add memory.backend=hikvp to it"
        )
    # The memory's own searcher stays: it holds the tree, whose building takes longer than all searches.
    tree = memory.arrangement.searcher
    assert isinstance(tree, Tree)
    changed = None
    if kept is None:
        settings = replace(settings, backend="exact")
    else:
        changed = replace(tree, roots_kept=kept.roots, inner_kept=kept.inner)
        if settings.layout == "factored":
            settings = replace(settings, entities=kept.leaves)
        else:
            settings = replace(settings, N=kept.leaves, k=min(settings.k, kept.leaves))
    former, memory.settings = memory.settings, settings
    try:
        with memory.arrangement.using(settings, changed):
            yield changed
    finally:
        memory.settings = former


def scored(tree: Tree) -> float:
    """Return the share of the keys that a search computes an inner product with, clusters counted as keys."""
    size = tree.roots.below.shape[1]
    inner = min(tree.roots_kept, len(tree.roots.keys)) * size
    leaves = min(tree.inner_kept, inner) * tree.inner.below.shape[1]
    return (len(tree.roots.keys) + inner + leaves) / len(tree.leaves)
