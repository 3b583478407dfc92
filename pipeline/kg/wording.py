"""How questions are worded, and how many there are: the sections `wording` and `questions`."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Wording:
    """Templates of a question about the {noun} of {name}."""

    train: list[str]
    """Templates that `train` uses."""
    valid: list[str]
    """Templates that `valid` uses: what is chosen there must hold for wordings that were not trained on."""
    held_out: list[str]
    """Templates of the other splits."""

    def __post_init__(self) -> None:
        used: dict[str, str] = {}
        for name in ("train", "valid", "held_out"):
            templates = getattr(self, name)
            if not templates:
                raise ValueError(f"synthesis.wording.{name} must hold a template, not []")
            for template in templates:
                if template.count("{noun}") != 1 or template.count("{name}") != 1:
                    raise ValueError(
                        f"synthesis.wording.{name} must hold {{noun}} and {{name}} once in each template, "
                        f"not {template!r}"
                    )
                if used.setdefault(template, name) != name:
                    raise ValueError(
                        f"synthesis.wording.{name} must not repeat a template of {used[template]}, "
                        f"not {template!r}"
                    )


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How many questions a split holds."""

    train: int
    """Templated questions of `train` at most."""
    evaluation: int
    """Templated questions of each other split at most."""
    two_hop: int
    """Templated questions over two facts of `two_hop` and `valid` at most; of `train` ten times as many."""
    relation_share: float
    """The largest part of a split's templated questions that one relation may have."""
    unchanged_share: float
    """The part of the untouched test slots that `unchanged` may take from `unseen` when there are changes."""
    unanswerable_share: float
    """The part of `train` and of `valid` that no fact answers."""
    near_miss_share: float
    """The part of unanswerable questions that ask a known entity for a relation that it lacks."""

    def __post_init__(self) -> None:
        for name in ("train", "evaluation"):
            if getattr(self, name) < 1:
                raise ValueError(f"synthesis.questions.{name} must be at least 1, not {getattr(self, name)}")
        if self.two_hop < 0:
            raise ValueError(f"synthesis.questions.two_hop must be at least 0, not {self.two_hop}")
        if not 0 < self.relation_share <= 1:
            raise ValueError(
                f"synthesis.questions.relation_share must be in (0, 1], not {self.relation_share}"
            )
        for name in ("unchanged_share", "unanswerable_share", "near_miss_share"):
            highest = 0.9 if name == "unanswerable_share" else 1.0
            if not 0 <= getattr(self, name) <= highest:
                raise ValueError(
                    f"synthesis.questions.{name} must be in [0, {highest}], not {getattr(self, name)}"
                )
