"""What the report does not show, said as far as it can be from what was asked."""

from collections.abc import Sequence

from pipeline.reporting.compare import Comparison, reference
from pipeline.reporting.gather import Method
from pipeline.reporting.measured import Measured

SYSTEMS = (
    "ours",
    "rag",
    "rag_tuned",
    "bm25",
    "linking",
    "icl",
    "dysk",
    "dysk_dense",
    "kblam",
    "kblam_same_rows",
    "atlaskv",
    "atlaskv_flat",
    "atlaskv_aux",
    "lora",
    "finetune",
    "rome",
    "memit",
    "majority",
    "closed_book",
)
"""Every method that can be evaluated."""


def limits(
    methods: Sequence[Method], pairs: Sequence[Comparison], found: Sequence[Measured], unmade: Sequence[str]
) -> list[str]:
    """Return one sentence or two on each thing that a reader might take the figures to say, but they don't.

    Args:
        methods: what was evaluated.
        pairs: the comparisons that were made.
        found: the measurements outside the DAG, those not made included.
        unmade: titles of the paper's figures that were not measured.
    """
    rows = reference(methods).rows.drop_duplicates(["question", "split"])
    kinds = rows["kind"].value_counts()
    people, hops = int(kinds.get("human", 0)), int(kinds.get("multihop", 0))
    texts = [
        f"Intervals say what other questions of the same kind would give. {_seeds(methods)}",
        f"Of {len(rows):,} questions asked, {people:,} were worded by people and {hops:,} need more than one "
        "fact; the others come from templates, which are easier to match to a fact than free speech.",
        "Retrieval gets harder as the graph grows; the results hold for this graph's size alone. What the "
        "search finds among more facts stands under recall and grounding, without the answers.",
        "Exact match compares strings: a right answer in words that the graph does not use counts as wrong, "
        "and an answer that is right in the world but not in the graph counts as wrong too.",
        "Unanswerable questions are of the kinds that were generated; ill-posed or ambiguous ones are not "
        "among them.",
        "In the results, updates move from the base to the last snapshot in one go and are asked at once. "
        "Edits in a row, false updates and dates are measured apart, each with a setting of its own.",
        "Times are of one machine and one batch size, the search included. Those of sections below are of "
        "the machine that their source line names: don't compare them across sections.",
    ]
    absent = [name for name in SYSTEMS if name not in {method.name for method in methods}]
    if absent:
        texts.append(
            f"The results compare {len(methods)} methods. Not among them: {', '.join(absent)}; where they "
            "stand in another section, they were trained or asked otherwise."
        )
    if pairs:
        texts.append(
            f"{len(pairs)} comparisons were made: about {0.05 * len(pairs):.1f} of them would have p < 0.05 "
            "by chance if no method differed. Tables of other sections mark the highest mean, which is no "
            "test: look at the intervals."
        )
    missing = [measured.section.title for measured in found if not measured.sources] + list(unmade)
    if missing:
        texts.append(f"Not measured yet: {'; '.join(missing)}.")
    dirty = [source.path for measured in found for source in measured.sources if "(dirty)" in source.made]
    if dirty:
        texts.append(f"Measured with changes that no commit holds: {', '.join(dirty)}.")
    return texts


def _seeds(methods: Sequence[Method]) -> str:
    seeds = max(len(method.runs) for method in methods)
    if seeds == 1:
        return "Each method was trained once: how much another seed would change a figure is not known."
    return f"Methods were trained with up to {seeds} seeds; the spread between so few is a rough guess."
