"""What the report shows of measurements outside the DAG: one description each, in the order of the page."""

from collections.abc import Callable, Mapping

from pipeline.reporting.gather import Figures
from pipeline.reporting.longcontext import LONGCONTEXT
from pipeline.reporting.mainsections import MAIN
from pipeline.reporting.measured import Column, Section
from pipeline.reporting.recall import RECALL
from pipeline.reporting.scale import SCALE
from pipeline.reporting.tables import (
    MISSING,
    Cell,
    factor,
    fixed,
    in_percent,
    number,
    percent,
    points,
    text,
    whole,
)


def count(figure: Mapping[str, float]) -> Cell:
    """Return over how many questions a figure was taken."""
    return number(int(figure["n"])) if "n" in figure else MISSING


def flat(name: str) -> Callable[[Figures], Cell]:
    """Return how figure NAME is shown of a row in which the bounds of intervals have keys of their own."""

    def shown(row: Figures) -> Cell:
        if name not in row:
            return MISSING
        return percent({"mean": row[name], "low": row[f"{name}_low"], "high": row[f"{name}_high"]})

    return shown


def _shares(*names: str, best: Callable[..., float] | None = max) -> tuple[Column, ...]:
    return tuple(Column(name, name, percent, best) for name in names)


SECTIONS = (
    *MAIN,
    Section(
        "gpu",
        "On a GPU",
        "The same questions, methods trained with several seeds on one GPU; exact match in percent.",
        "evaluate.{method}.{split}",
        (
            Column("method", "{method}", text),
            Column("split", "{split}", text),
            Column("n", "n", number),
            Column("EM", "", flat("em"), max),
            Column("F1", "", flat("f1"), max),
            Column("ACC@1", "", flat("acc@1"), max),
            Column("ACC@5", "", flat("acc@5"), max),
            Column("refused", "", flat("refused")),
            Column("lowest EM of a seed", "em_seed_min", in_percent),
            Column("highest", "em_seed_max", in_percent),
            Column("ms a question", "ms", number),
            Column("tokens a prompt", "prompt_tokens", number),
        ),
        command="python -m pipeline.benchmarks.seeds",
        files=("h100/*/metrics.json",),
        within=("split",),
    ),
    Section(
        "vectors",
        "Facts as vectors, beside facts as text",
        "Methods that read facts as vectors beside two that read them as text, over all facts of the slice, "
        "in percent. How long each was trained stands in its command.",
        "figures.splits.{split}",
        (
            Column("method", "../../method", text),
            Column("split", "{split}", text),
            Column("n", "n", number),
            Column("EM", "em", percent),
            Column("ACC@1", "acc@1", percent),
            Column("ACC@5", "acc@5", percent),
            Column("recall@200", "recall@200", percent),
        ),
        command="python -m pipeline.train; python -m pipeline.evaluate",
    ),
    Section(
        "variants",
        "Variants of a method",
        "The same method with other settings, on the same questions, in percent; a paired difference of "
        "exact match from the first variant, where it was taken.",
        "figures.{entry}.splits.{split}",
        (
            Column("variant", "{entry}", text),
            Column("split", "{split}", text),
            Column("n", "n", number),
            Column("EM", "em", percent, max),
            Column("beyond the first", "em_beyond_first", points),
            Column("ACC@1", "acc@1", percent, max),
            Column("refused", "refused", percent),
        ),
        within=("split",),
    ),
    Section(
        "streams",
        "After many edits",
        "Slots change step by step. Efficacy, generality and portability: EM on what changed in this step, "
        "in the wording told, in another, and followed over a fact; retention: on what changed before; "
        "stale: former values among the answers; locality: untouched slots answered as before. In percent.",
        "figures.{entry}.*",
        (
            Column("method", "{entry}", text),
            Column("slots changed", "edits", number),
            *_shares("efficacy", "generality", "portability", "retention"),
            *_shares("stale", best=min),
            *_shares("locality"),
            Column("n of efficacy", "efficacy", count),
            Column("ms an edit, by seed", "ms an edit", text),
            Column("ms a question", "ms a question, median", number),
        ),
        within=("slots changed",),
    ),
    Section(
        "editing",
        "Edited weights",
        "What editors of weights keep and lose, one edit at a time (single, undone each time) and in a row. "
        "Shares in percent; perplexity of ordinary text as a multiple of the bare model's.",
        "figures.{entry}.{edits}",
        (
            Column("method", "{entry}", text),
            Column("edits in a row", "{edits}", whole),
            *_shares("efficacy", "generality", "locality"),
            Column("retention of the first", "retention of the first", percent, max),
            Column("perplexity, times", "perplexity.ratio", factor, min),
            Column("seconds an edit", "seconds an edit", factor, min),
            Column("n of efficacy", "efficacy", count),
        ),
        within=("edits in a row",),
    ),
    Section(
        "robustness",
        "False updates",
        "Slots of the questions get a false value; a defence is to keep it from counting. Rows without an "
        "attack say what the defence costs on clean data: there, true changes are put through it as well. "
        "Exact match in percent, over all questions and over those attacked.",
        "figures.*",
        (
            Column("method", "entry", text),
            Column("attack", "attack", text),
            Column("slots attacked, %", "share", in_percent),
            Column("defence", "defence", text),
            Column("EM", "em", percent, max),
            Column("EM, attacked", "attacked", percent, max),
            Column("false value said", "misled", percent, min),
            Column("EM after true changes", "changed", percent, max),
            Column("n", "em", count),
            Column("false updates that passed, by seed", "false updates that passed", text),
        ),
        within=("method", "attack", "slots attacked, %"),
    ),
    Section(
        "asof",
        "What held in a year",
        "Questions about a year, asked of the memory as of that year, of today's, and of one without dates: "
        "EM by the facts of that year, how often a value of another time is said, and what asking as of the "
        "year adds (points, paired over questions, sign test). In percent.",
        "figures.{entry}.{memory}",
        (
            Column("method", "{entry}", text),
            Column("memory", "{memory}", text),
            Column("n", "n", number),
            Column("EM", "em", percent, max),
            Column("of another time", "of another time", percent, min),
            Column("what the year adds", "em that the year adds", points),
        ),
        within=("method",),
    ),
    Section(
        "sweeps",
        "Sweeps",
        "One setting at several values on the same questions, in percent.",
        "jobs.*.splits.{split}",
        (
            Column("values", "../../values", text),
            Column("split", "{split}", text),
            Column("n", "n", number),
            Column("EM", "em", percent, max),
            Column("F1", "f1", percent, max),
            Column("ACC@1", "acc@1", percent, max),
            Column("refused", "refused", percent),
            Column("s a question", "../../seconds_per_question", number),
        ),
        command="python -m pipeline.trial sweep=NAME",
        files=("sweeps/*.json",),
        within=("split",),
    ),
    *RECALL,
    Section(
        "grounding",
        "Finding the fact among many",
        "How often the right fact comes first, and among the first five, over the number of facts and three "
        "wordings of the questions, in percent.",
        "figures.accuracy.{method}.{wording}.{facts}",
        (
            Column("method", "{method}", text),
            Column("wording", "{wording}", text),
            Column("facts", "{facts}", whole),
            Column("n", "questions", number),
            Column("ACC@1", "acc1", percent, max),
            Column("ACC@5", "acc5", percent, max),
        ),
        files=("hikvp/*.json", "missed.json"),
        within=("wording", "facts"),
    ),
    Section(
        "speed",
        "Time on a GPU",
        "Both models compiled. Ratios are to the bare language model given the same prompt.",
        "figures.{entry}.{batch}",
        (
            Column("method", "{entry}", text),
            Column("questions at a time", "{batch}", whole),
            Column("first token, ms", "prefill ms", number),
            Column("of the bare model", "bare prefill ms", number),
            Column("ratio", "prefill ratio", factor),
            Column("facts not cached", "cold prefill ratio", factor),
            Column("each further token, ms", "step ms", number),
            Column("ratio of it", "step ratio", factor),
        ),
    ),
    Section(
        "memory_scale",
        "Size of the memory",
        "Made-up graphs on disk; milliseconds of a search among all codes, alone and 64 at a time, and of "
        "one whose codes first bits choose; on a GPU, where one is named, all are compared.",
        "figures.{facts}",
        (
            Column("facts", "build.facts", number),
            Column("built in s", "build.seconds", number),
            Column("bytes a fact", "build.bytes a fact", number),
            Column("opens in ms", "search.open ms", number),
            Column("GPU", "search.gpu", text),
            Column("p50 ms", "search.queries.p50 ms", number),
            Column("p99 ms", "search.queries.p99 ms", number),
            Column("p50 ms, 64 at a time", "search.queries, 64 at a time.p50 ms", number),
            Column("first bits, p50 ms", "search.queries by first bits.p50 ms", number),
            Column("first bits, p99 ms", "search.queries by first bits.p99 ms", number),
            Column("first bits, 64 at a time", "search.queries by first bits, 64 at a time.p50 ms", number),
            Column("resident MiB", "search.resident.resident MiB", number),
            Column("on the GPU, MiB", "search.reserved on the GPU MiB", number),
        ),
    ),
    *SCALE,
    Section(
        "updates",
        "Speed of updates",
        "What a change of the memory, or a search beside changes, takes.",
        "figures.{what}",
        (
            Column("what", "{what}", text),
            *(Column(f"{name} ms", f"{name} ms", number) for name in ("p50", "p99", "most")),
            Column("a second", "a second", number),
            Column("facts a second", "facts a second", number),
        ),
    ),
    Section(
        "perplexity",
        "Ordinary text",
        "Perplexity on ordinary text: of the bare model, with the memory on, and read whether it is asked or "
        "not; as a multiple of the bare model's.",
        "figures.{entry}.{reading}",
        (
            Column("method", "{entry}", text),
            Column("reading", "{reading}", text),
            Column("perplexity", "perplexity", fixed),
            Column("times the bare", "ratio", factor),
        ),
    ),
    Section(
        "foldin",
        "Vectors of new entities",
        "RotatE's MRR for facts of entities that came after training: folded in, and after retraining.",
        "figures.{estimate}",
        (
            Column("estimate", "{estimate}", text),
            Column("n", "asked.questions", number),
            Column("MRR folded in", "asked.mrr", factor, max),
            Column("MRR retrained", "asked.retrained_mrr", factor),
            Column("ratio", "asked.ratio", factor, max),
            Column("seconds", "seconds", number),
        ),
    ),
    *LONGCONTEXT,
)
