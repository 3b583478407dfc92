"""A copy of the project whose stages write placeholders, to see which of them DVC runs."""

import shutil
import subprocess
from pathlib import Path

from tests.closure import ROOT, stages

PLACEHOLDER = '''\
"""Writes what a stage writes, made of all that it could read, and notes that it ran."""
import hashlib, pathlib, sys
stage, arguments = sys.argv[1], sys.argv[2:]
out = pathlib.Path(next(a for a in arguments if a.startswith("hydra.run.dir=")).split("=")[1])
out.mkdir(parents=True, exist_ok=True)
files = [*sorted(pathlib.Path("conf").rglob("*.yaml")), *sorted(pathlib.Path("pipeline").rglob("*.py"))]
digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
for name in {names}:
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_text('{{"digest": "%s"}}' % digest)
'''


MEASURED = tuple(
    dep.replace("${paths.reports}", "reports")
    for dep in stages()["report"]["deps"]
    if dep.startswith("${paths.reports}/")
)
"""Measurements outside the DAG, which the report depends on."""


def git(*words: str, cwd: Path) -> str:
    """Run git with an identity of its own and return what it prints."""
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *words], cwd=cwd, check=True, capture_output=True, text=True)
    return done.stdout


def copy_project(to: Path) -> None:
    """Copy the files that git has or would take, without results of earlier runs."""
    listed = git("ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in listed.splitlines():
        result = name.startswith(("reports/", "models/")) and not name.startswith(MEASURED)
        if name == "dvc.lock" or result or not (ROOT / name).is_file():
            continue
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, to / name)


def outputs() -> list[str]:
    """What stages declare inside the folder that they write to: files, and folders as a file in them."""
    names = {"placeholder.json"}
    for entry in stages().values():
        [folder] = [word.split("=")[1] for word in entry["cmd"].split() if word.startswith("hydra.run.dir=")]
        for kind in ("outs", "metrics", "plots"):
            for out in entry.get(kind, []):
                name = (out if isinstance(out, str) else next(iter(out))).removeprefix(f"{folder}/")
                if not name.startswith("${"):
                    names.add(name if Path(name).suffix else f"{name}/placeholder.json")
    return sorted(names)


def placeholder_project(to: Path) -> None:
    """Make `to` a copy of the project, in a git repository of its own, with placeholders as stages."""
    copy_project(to)
    (to / "placeholder.py").write_text(PLACEHOLDER.format(names=outputs()), encoding="utf-8")
    dvc = to / "dvc.yaml"
    dvc.write_text(
        dvc.read_text(encoding="utf-8").replace("python -m pipeline.", "python placeholder.py "),
        encoding="utf-8",
    )
    git("init", "--quiet", cwd=to)
    git("add", "--all", cwd=to)
    git("commit", "--quiet", "--message", "A copy", cwd=to)
