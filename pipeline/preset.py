"""Writes a whole set of choices into params.yaml: `python -m pipeline.preset laptop`.

A preset, `conf/preset/<name>.yaml`, lists one choice for every group that params.yaml holds.
"""

import argparse
import sys
from pathlib import Path

import yaml

from pipeline.config import CONF, PARAMS, UserError, choices, options


def preset(name: str, params: Path = PARAMS) -> list[str]:
    """Write the choices of preset `name` into `params` and return what changed, a line a group.

    The comment at the top of the file stays. Groups that the preset doesn't list keep their choice.

    Raises:
        UserError: there is no such preset; the text lists those there are.
        ConfigError: `params` can't be read.
    """
    if name not in options("preset"):
        raise UserError(f"no preset {name!r}; there is {', '.join(options('preset'))}")
    before = choices(params)
    chosen = yaml.safe_load((CONF / "preset" / f"{name}.yaml").read_text(encoding="utf-8"))
    after = {**before, **chosen}
    lines = params.read_text(encoding="utf-8").splitlines()
    top = [line for line in lines if line.startswith("#")]
    params.write_text(
        "\n".join([*top, *(f"{group}: {choice}" for group, choice in after.items()), ""]), encoding="utf-8"
    )
    return [
        f"{group}: {before.get(group)} → {choice}"
        for group, choice in after.items()
        if before.get(group) != choice
    ]


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.preset", description="Write a preset's choices into params.yaml."
    )
    parser.add_argument("name", help=f"one of {', '.join(options('preset'))}")
    try:
        changed = preset(parser.parse_args().name)
    except (UserError, ValueError) as error:
        sys.exit(f"error: {error}")
    sys.stdout.write("\n".join(changed or ["params.yaml holds these choices already"]) + "\n")


if __name__ == "__main__":
    main()
