"""What the report shows of work on several devices: a part of `pipeline.reporting.sections`."""

from pipeline.reporting.measured import Column, Section
from pipeline.reporting.tables import factor, fixed, number, text

SCALE = (
    Section(
        "scaling",
        "Training in several processes",
        "The same steps on the same batches in one process and in several, each with its own device, in one "
        "session; the ratio is over pairs of the same step. Losses of the same seed, once in one process and "
        "once in several, beside those of two seeds in one: mean distance over the steps.",
        "figures.*",
        (
            Column("processes", "processes", number),
            Column("shared out by", "../../strategy", text),
            Column("questions a step", "batch_size", number),
            Column("questions a second, one", "questions_per_second.one", number),
            Column("together", "questions_per_second.together", number),
            Column("ratio", "ratio", factor),
            Column("ratio by seed", "ratio_by_seed", text),
            Column("losses of a seed apart", "loss_apart.same seed, mean", fixed),
            Column("of two seeds", "loss_apart.two seeds, mean", fixed),
        ),
    ),
)
