"""What the report shows of long contexts: a part of `pipeline.reporting.sections`."""

from dataclasses import replace
from typing import Any

from pipeline.reporting.measured import Column, Section
from pipeline.reporting.tables import Cell, fixed, number, percent, points, text, whole

FILES = ("longcontext.json", "longcontext/*.json", "h100/longcontext.json", "h100/longcontext/*.json")
COMMAND = "python -m pipeline.benchmark longcontext longtasks=h100 hydra.run.dir=reports/h100/longcontext"


def mebibytes(value: float) -> Cell:
    """Return bytes in MiB."""
    return replace(number(value / 2**20), value=float(value))


def times(value: float) -> Cell:
    """Return a ratio."""
    return fixed(value)


def ages(rows: dict[str, Any]) -> Cell:
    """Return F1 in percent by how long ago an item was told."""
    return Cell(" · ".join(f"{int(age):,}: {100 * row['f1']['mean']:.1f}" for age, row in rows.items()))


COSTS = (
    Column("device MiB a text", "device bytes a text", mebibytes, min),
    Column("of the first context's", "device bytes ratio", times, min),
    Column("host MiB", "host bytes a text", mebibytes),
    Column("disk MiB", "disk bytes a text", mebibytes),
)

LONGCONTEXT = (
    Section(
        "longcontext",
        "Long texts: pass keys",
        "A number of ten digits somewhere in a text is asked for at its end: how many are said whole, in "
        "percent, over depths from the beginning to the end. Ratios are to the first context.",
        "passkey.{filler}.{length}.{context}",
        (
            Column("filler", "{filler}", text),
            Column("tokens", "{length}", whole),
            Column("context", "{context}", text),
            Column("n", "n", number),
            Column("found", "em", percent, max),
            Column("not possible", "reason", text),
            Column("tokens a second", "tokens a second", number, max),
            Column("s to the answer", "prefill seconds", number),
            Column("texts at a time", "batch", number),
            Column("ms a step", "ms a token", number),
            Column("times the first context's", "ms a token ratio", times, min),
            *COSTS,
            Column("most on the device, MiB", "peak bytes", mebibytes),
        ),
        command=COMMAND,
        files=FILES,
        within=("filler", "tokens"),
    ),
    Section(
        "longcontext_growth",
        "Long texts: growth",
        "Exponents b of the power laws y = a·lengthᵇ that fit the lengths above best: 0 is constant, 1 "
        "linear.",
        "fits.{filler}.{context}",
        (
            Column("filler", "{filler}", text),
            Column("context", "{context}", text),
            Column("time to the answer", "prefill seconds", fixed, min),
            Column("time of a step", "ms a token", fixed, min),
            Column("bytes held on the device", "device bytes a text", fixed, min),
            Column("most bytes on the device", "peak bytes", fixed, min),
        ),
        command=COMMAND,
        files=FILES,
        within=("filler",),
    ),
    Section(
        "longcontext_questions",
        "Long texts: questions",
        "Gold passages stand among others; exact match and F1 as SQuAD has them, in percent, and paired "
        "differences from the first context in points.",
        "questions.{set}.{context}",
        (
            Column("set", "{set}", text),
            Column("context", "{context}", text),
            Column("n", "n", number),
            Column("EM", "em", percent, max),
            Column("F1", "f1", percent, max),
            Column("EM beyond the first", "em beyond the first", points),
            Column("F1 beyond the first", "f1 beyond the first", points),
            *COSTS,
        ),
        command=COMMAND,
        files=FILES,
        within=("set",),
    ),
    Section(
        "longcontext_streaming",
        "Long texts: a stream of news",
        "Made-up items stand in a stream of real ones and are asked about later: F1 in percent, over all and "
        "by how many items ago they were told, at least; ROUGE-L of headlines of new items.",
        "streaming.{context}",
        (
            Column("context", "{context}", text),
            Column("n", "n", number),
            Column("F1", "f1", percent, max),
            Column("F1 by items ago", "recall by items ago", ages),
            Column("ROUGE-L", "headline rouge-l", fixed, max),
            Column("tokens of a stream", "tokens of a stream", number),
            Column("tokens a second", "tokens a second", number, max),
            Column("MiB after the first segment", "device bytes a text, first segment", mebibytes),
            *COSTS,
        ),
        command=COMMAND,
        files=FILES,
    ),
    Section(
        "longcontext_searched",
        "Long texts: found passages",
        "What is read of the passages that BM25 finds: a few, long units (LongRAG), or sentences that "
        "attention keeps (AttentionRAG). Tokens read for an answer, and before it to make its prompt; "
        "differences in points.",
        "searched.{set}.{way}",
        (
            Column("set", "{set}", text),
            Column("way", "{way}", text),
            Column("n", "n", number),
            Column("EM", "em", percent, max),
            Column("F1", "f1", percent, max),
            Column("EM beyond the first", "em beyond the first", points),
            Column("tokens read", "prefill tokens", number, min),
            Column("tokens read before", "tokens read before", number),
        ),
        command=COMMAND,
        files=FILES,
        within=("set",),
    ),
)
