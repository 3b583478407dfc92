"""The contexts by name: what a stage or a benchmark reads a text through.

    context = build("snapkv", runner, settings, Lengths(prompt=8192, answer=16))
    said = runner.generate(ids, context, asked=64, limit=16)

A context serves one batch of texts. Whatever has other settings than `Baselines` adds itself to the names of
the stage that runs it.
"""

from collections.abc import Callable

from pipeline.config import UserError
from pipeline.longcontext.baselines.evicting import Lengths
from pipeline.longcontext.baselines.full import RotatedKV
from pipeline.longcontext.baselines.heads import measured, retrieval_groups
from pipeline.longcontext.baselines.landmarks import ChunkLandmarks
from pipeline.longcontext.baselines.perhead import PerHeadEviction
from pipeline.longcontext.baselines.pyramidkv import PyramidKV
from pipeline.longcontext.baselines.quest import QuestPages
from pipeline.longcontext.baselines.razor import RazorAttention
from pipeline.longcontext.baselines.settings import Baselines, tokens
from pipeline.longcontext.baselines.snapkv import SnapKV
from pipeline.longcontext.baselines.windows import StreamingLLM
from pipeline.longcontext.context import Context
from pipeline.longcontext.running import Runner
from pipeline.packages import cache_folder

HEADS_SEED = 0
"""Of the random tokens that heads are scored on."""

Factory = Callable[[Runner, Baselines, Lengths], Context]


def _full(runner: Runner, settings: Baselines, lengths: Lengths) -> Context:
    return RotatedKV(runner.layers, runner.rotary, sum(lengths))


def _streaming(runner: Runner, settings: Baselines, lengths: Lengths) -> Context:
    budget = tokens(settings.budget, lengths.prompt)
    if budget < lengths.prompt and budget <= settings.sinks:
        raise UserError(f"the budget is {budget} tokens, no more than the {settings.sinks} sinks")
    # its positions must not pass the trained window; like the others, it has the answer besides the budget
    most = min(budget + lengths.answer, runner.window - runner.chunk)
    return StreamingLLM(runner.layers, settings.sinks, max(0, most - settings.sinks))


def _snapkv(runner: Runner, settings: Baselines, lengths: Lengths) -> Context:
    return SnapKV(runner.layers, runner.rotary, lengths, settings.budget, settings.snapkv)


def _pyramidkv(runner: Runner, settings: Baselines, lengths: Lengths) -> Context:
    return PyramidKV(
        runner.layers, runner.rotary, lengths, settings.budget, settings.snapkv, beta=settings.beta
    )


def _per_head(runner: Runner, settings: Baselines, lengths: Lengths) -> Context:
    return PerHeadEviction(runner.layers, runner.rotary, lengths, settings.budget, settings.per_head)


def _razor(runner: Runner, settings: Baselines, lengths: Lengths) -> Context:
    razor = settings.razor
    scores = measured(runner, razor, HEADS_SEED, cache_folder() / "heads")
    whole = retrieval_groups(scores, runner.groups, razor.induction, razor.echo)
    return RazorAttention(runner.rotary, lengths, whole, razor, settings.budget)


def _quest(runner: Runner, settings: Baselines, lengths: Lengths) -> Context:
    return QuestPages(runner.layers, runner.rotary, lengths, settings.budget, settings.quest)


def _landmarks(runner: Runner, settings: Baselines, lengths: Lengths) -> Context:
    return ChunkLandmarks(runner.layers, settings.sinks, lengths, settings.landmarks)


FACTORIES: dict[str, Factory] = {
    "full": _full,
    "streaming": _streaming,
    "snapkv": _snapkv,
    "pyramidkv": _pyramidkv,
    "per_head": _per_head,
    "razor": _razor,
    "quest": _quest,
    "landmarks": _landmarks,
}
"""Baselines by name."""


def build(name: str, runner: Runner, settings: Baselines, lengths: Lengths) -> Context:
    """Return a context for one batch of texts.

    Args:
        name: of `FACTORIES`.
        runner: what will read the texts.
        settings: of all baselines.
        lengths: of the texts.

    Raises:
        UserError: there is no such context, or the settings don't fit the texts.
    """
    if name not in FACTORIES:
        raise UserError(f"no context {name!r}; there is {', '.join(FACTORIES)}")
    return FACTORIES[name](runner, settings, lengths)
