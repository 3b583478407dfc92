"""Runs a plan of many commands side by side, as far as the time goes: conf/campaign/NAME.yaml.

    python -m pipeline.benchmarks.campaign world --root multirun/world --jobs 20 --gpus 2 --minutes 9

A second call goes on with what is not done: a job is done when it ended well and what it writes is there.
Each has a folder of its name below the root with its output (`log.txt`) and, once it ended,
`provenance.json`. What finished, failed or was not started is in `campaign-NAME.json`, which is written anew
at each end of a job, so that nothing is lost when this command is killed. Near the deadline no job is started
that would not end, and at the deadline those that run are ended; a training goes on from its checkpoint.
"""

import argparse
import sys
import tarfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from pipeline.benchmarks.dispatch import LOG, Campaign
from pipeline.benchmarks.plan import Job, plan
from pipeline.config import UserError

HEAVY, WEIGHTS = (".safetensors", ".ckpt", ".npy"), "adapter.safetensors"
LARGE, PART = 4 * 2**20, 15 * 2**20
"""Bytes above which an archive leaves a file out, and of each of its parts."""


def archived(campaign: Campaign, archive: Path, weights: bool) -> None:
    """Pack what the finished jobs left, and the output of the others, into ARCHIVE.0, ARCHIVE.1 and so on.

    `cat ARCHIVE.* | tar xz -C ROOT` brings it back.
    """
    packed, root = BytesIO(), campaign.root
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(campaign.file, campaign.file.name)
        for job in campaign.jobs:
            done = campaign.states[job.name] == "done"
            for file in sorted((root / job.name).glob("*")):
                light = file.suffix not in HEAVY and file.is_file() and file.stat().st_size <= LARGE
                if (light and (done or file.name == LOG)) or (weights and done and file.name == WEIGHTS):
                    tar.add(file, file.relative_to(root).as_posix())
    content = packed.getbuffer()
    for number, start in enumerate(range(0, len(content), PART)):
        archive.with_name(f"{archive.name}.{number}").write_bytes(content[start : start + PART])


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("plan", help="file of conf/campaign")
    parser.add_argument("--root", type=Path, required=True, help="where the results lie")
    parser.add_argument("--jobs", type=int, default=1, help="commands at a time")
    parser.add_argument("--gpus", type=int, default=0, help="spread them over this many GPUs")
    parser.add_argument("--threads", type=int, default=1, help="threads of each command")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end after so many")
    parser.add_argument("--only", nargs="*", default=[], help="jobs whose names begin so, and what they need")
    parser.add_argument("--archive", type=Path, help="pack the results into parts of this name (.tar.gz)")
    parser.add_argument("--weights", action="store_true", help="adapters too")
    parser.add_argument("--list", action="store_true", help="say what would run, and run nothing")
    given = parser.parse_args(arguments)
    jobs = wanted(plan(given.plan, given.root), given.only)
    campaign = Campaign(jobs, given.root, given.jobs, given.gpus, given.threads, given.plan)
    campaign.about["command"] = "python -m pipeline.benchmarks.campaign " + " ".join(arguments)
    if given.list:
        for job in jobs:
            sys.stdout.write(f"{campaign.states[job.name]:12} {job.name}: {job.command}\n")
        return
    told = campaign.run(60 * given.minutes)
    for row in told["jobs"]:
        if "last" in row:
            sys.stdout.write(f"{row['name']}: {row['state']}\n  " + "\n  ".join(row["last"]) + "\n")
    sys.stdout.write(f"{told['states']}; see {campaign.file}\n")
    if given.archive:
        archived(campaign, given.archive, given.weights)


def wanted(jobs: Sequence[Job], beginnings: Sequence[str]) -> list[Job]:
    """Return the jobs whose names begin with one of `beginnings`, and those they need; all without any."""
    if not beginnings:
        return list(jobs)
    named = {job.name: job for job in jobs}
    kept: set[str] = set()
    waiting = [job.name for job in jobs if job.name.startswith(tuple(beginnings))]
    while waiting:
        name = waiting.pop()
        if name not in kept:
            kept.add(name)
            waiting += named[name].needs
    return [job for job in jobs if job.name in kept]


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
