"""Which files a module of pipeline/ needs, and the lists of them in dvc.yaml.

`python -m tests.closure` prints the stages whose list is wrong, `--write` puts them right.
"""

import argparse
import ast
import sys
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]


def module_file(name: str, root: Path = ROOT) -> Path | None:
    """The file of a dotted module name, None for names that aren't modules of this project."""
    path = root.joinpath(*name.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def imports(file: Path, root: Path = ROOT) -> frozenset[str]:
    """Names of the modules of pipeline/ that `file` imports, wherever in the file it does."""
    package = file.relative_to(root).parent.parts
    found: set[str] = set()
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            stem = ".".join(filter(None, [base, node.module]))
            found |= {stem} | {f"{stem}.{alias.name}" for alias in node.names}
    return frozenset(name for name in found if name.split(".")[0] == "pipeline" and module_file(name, root))


@cache
def resources(file: Path) -> frozenset[Path]:
    """Files beside a module (tables, pages) that it names in a string."""
    names = {
        node.value
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and 0 < len(node.value) < 100
    }
    return frozenset(
        other
        for other in file.parent.rglob("*")
        if other.name in names and other.suffix not in {".py", ".pyc"} and other.is_file()
    )


@cache
def has_code(file: Path) -> bool:
    """Whether a module holds anything but its docstring."""
    body = tree(file).body
    return not all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body)


def closure(module: str, root: Path = ROOT) -> list[str]:
    """Files that running `module` reads: modules imported by way of any import, packages, resources."""
    waiting, seen, files = [module], set(), set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        parts = name.split(".")
        waiting += [".".join(parts[:end]) for end in range(1, len(parts))]
        file = module_file(name, root)
        if file is None:
            raise ModuleNotFoundError(name)
        waiting += imports(file, root)
        files |= resources(file)
        if has_code(file):
            files.add(file)
    return sorted(file.relative_to(root).as_posix() for file in files)


def stages(root: Path = ROOT) -> dict[str, dict[str, Any]]:
    """The stages of dvc.yaml as they are written there."""
    return _stages((root / "dvc.yaml").read_text(encoding="utf-8"))


@cache
def _stages(text: str) -> dict[str, dict[str, Any]]:
    loaded: dict[str, dict[str, Any]] = YAML(typ="safe").load(text)["stages"]
    return loaded


def stage_module(entry: dict[str, Any]) -> str:
    """The module that a stage's command runs."""
    words: list[str] = entry["cmd"].split()
    return words[words.index("-m") + 1]


def code(entry: dict[str, Any]) -> list[str]:
    """The files of pipeline/ among a stage's deps."""
    return [dep for dep in entry["deps"] if not dep.startswith("${")]


def wrong(root: Path = ROOT) -> dict[str, list[str]]:
    """The right list of files, for each stage whose list is wrong and whose module exists."""
    listed = {name: entry for name, entry in stages(root).items() if module_file(stage_module(entry), root)}
    right = {name: closure(stage_module(entry), root) for name, entry in listed.items()}
    return {name: files for name, files in right.items() if code(listed[name]) != files}


def write(root: Path = ROOT) -> None:
    """Put the right lists into dvc.yaml; its other lines stay as they are."""
    file = root / "dvc.yaml"
    lines = file.read_text(encoding="utf-8").splitlines()
    for name, files in wrong(root).items():
        start = lines.index("    deps:", lines.index(f"  {name}:"))
        end = start + 1
        while lines[end].startswith("      - pipeline/"):
            end += 1
        lines[start + 1 : end] = [f"      - {path}" for path in files]
    file.write_text("\n".join([*lines, ""]), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.closure", description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the lists of dvc.yaml right")
    if parser.parse_args().write:
        write()
    for name, files in wrong().items():
        sys.stdout.write("\n".join([f"{name}:", *(f"      - {path}" for path in files), ""]))


if __name__ == "__main__":
    main()
