"""The loop: batches of fixed shares, runs that repeat themselves, and runs that survive a kill."""

import csv
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.config import UserError
from pipeline.model.adapter import load_adapter, save_adapter
from pipeline.model.batches import Batches, Pool, Train
from pipeline.model.fitting import Fitting, fit
from pipeline.model.system import Example, System
from pipeline.tracking import Curve
from pipeline.weights import Encoder, LanguageModel
from tests.model.tiny_systems import (
    CPU,
    LIGHTNING,
    dysk,
    dysk_dense,
    opened,
    ours,
    rag,
    rag_tuned,
    shaken,
    some_examples,
    training,
)
from tests.tiny import SmallWorld

pytestmark = LIGHTNING

Fit = Callable[..., System]
STEPS = 6


@pytest.fixture
def fitted(world: SmallWorld, lm: LanguageModel, encoder: Encoder, tmp_path: Path) -> Fit:
    """Return a function that fits a fresh system into a folder and writes its adapter there."""

    def run(name: str, method: Any = None, change: Callable[[System], None] | None = None) -> System:
        method = method or ours()
        system: System = opened(method, world, lm, encoder)
        if change:
            change(system)
        examples = some_examples(system, 6)
        pool = Pool(examples[:4], examples[4:], [Example("Why?", (), ())] if method == ours() else [])
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        settings, checkpoints = training(tmp_path), tmp_path / f"{name} checkpoints"
        fit(system, pool, settings, CPU, STEPS, 0, folder / "curve.csv", checkpoints, [], progress=False)
        save_adapter(system, folder, {"method": method})
        return system

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize(
    "method",
    [ours(), rag(), rag_tuned(), dysk(), dysk_dense()],
    ids=["ours", "rag", "rag_tuned", "dysk", "dense"],
)
def test_the_same_seed_gives_the_same_bytes(method: Any, fitted: Fit, tmp_path: Path) -> None:
    system = fitted("first", method)
    fitted("second", method)
    assert contents(tmp_path / "first") == contents(tmp_path / "second")
    with (tmp_path / "first" / "curve.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["step"]) for row in rows] == list(range(STEPS))
    assert float(rows[-1]["learning_rate"]) < float(rows[0]["learning_rate"]) == pytest.approx(0.01)
    assert all(not name.startswith(("reader", "encoder", "memory")) for name in system.state_dict())


class KilledError(Exception):
    """Stands for the end of the process."""


def dies_at(step: int) -> Callable[[System], None]:
    def change(system: System) -> None:
        real, calls = system.losses, Counter[str]()

        def losses(batch: Sequence[Example]) -> dict[str, Tensor]:
            calls["losses"] += 1
            if calls["losses"] > step:
                raise KilledError
            return real(batch)

        system.losses = losses  # type: ignore[method-assign]

    return change


@pytest.mark.parametrize("method", [ours(), rag(), dysk()], ids=["ours", "rag", "dysk"])
@pytest.mark.parametrize("emptied", [True, False], ids=["DVC empties the folder", "by hand"])
def test_a_killed_run_goes_on_as_if_unbroken(method: Any, emptied: bool, fitted: Fit, tmp_path: Path) -> None:
    fitted("whole", method)
    with pytest.raises(KilledError):
        fitted("killed", method, dies_at(5))
    assert (tmp_path / "killed" / "curve.csv").read_text(encoding="utf-8").count("\n") == 6
    if emptied:
        shutil.rmtree(tmp_path / "killed")
    fitted("killed", method, dies_at(2))  # it goes on from step 4: two steps are left
    assert contents(tmp_path / "whole") == contents(tmp_path / "killed")


def test_a_run_killed_before_its_first_checkpoint_starts_anew(fitted: Fit, tmp_path: Path) -> None:
    fitted("whole")
    with pytest.raises(KilledError):
        fitted("killed", None, dies_at(1))
    fitted("killed")
    assert contents(tmp_path / "whole") == contents(tmp_path / "killed")


def test_a_loss_that_is_no_number_stops_the_run(fitted: Fit) -> None:
    def spoil(system: System) -> None:
        with torch.no_grad():
            next(system.parameters()).fill_(torch.nan)

    with pytest.raises(UserError, match=r"step 0: the loss is nan; lower train\.learning_rate"):
        fitted("out", rag(), spoil)


def gradient_of_nan(steps: set[int]) -> Callable[[System], None]:
    """Return what makes the loss of some steps finite, and its gradient not."""

    def change(system: System) -> None:
        real, calls = system.losses, Counter[str]()

        def losses(batch: Sequence[Example]) -> dict[str, Tensor]:
            parts = real(batch)
            if calls["losses"] in steps:
                root = torch.sqrt(0 * next(p for p in system.parameters()).sum())
                parts["loss"] = parts["loss"] + root  # 0, with a slope of 0 · ∞
            calls["losses"] += 1
            return parts

        system.losses = losses  # type: ignore[method-assign]

    return change


def test_a_gradient_that_is_no_number_is_skipped_once(fitted: Fit, tmp_path: Path) -> None:
    system = fitted("out", rag(), gradient_of_nan({2}))
    assert all(parameter.isfinite().all() for parameter in system.parameters())
    assert (tmp_path / "out" / "curve.csv").read_text(encoding="utf-8").count("\n") == STEPS + 1
    with pytest.raises(UserError, match=r"the gradient is not finite, for the 2\. time; lower train\.learn"):
        fitted("worse", rag(), gradient_of_nan({2, 3}))


def test_steps_that_were_skipped_are_counted(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder, tmp_path: Path
) -> None:
    for name, spoilt in (("clean", set()), ("once", {0})):
        system = opened(rag(), world, lm, encoder)
        gradient_of_nan(spoilt)(system)
        pool = Pool(some_examples(system, 4), [], [])
        curve, checkpoints = tmp_path / f"{name}.csv", tmp_path / name
        counted = fit(system, pool, training(tmp_path), CPU, 2, 0, curve, checkpoints, [], progress=False)
        assert counted == len(spoilt)


def test_what_was_fitted_before_moves_slowly(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder, tmp_path: Path
) -> None:
    system = opened(ours(), world, lm, encoder)
    module = Fitting(system, training(tmp_path), 20, 0, Curve(tmp_path / "c", ["step"]))
    groups = module.configure_optimizers()["optimizer"].param_groups
    rates = {id(p): group["initial_lr"] for group in groups for p in group["params"]}
    found = {name: rates[id(p)] for name, p in system.named_parameters()}
    slow = {name for name, rate in found.items() if rate == pytest.approx(0.01 * 0.1)}
    assert slow == {name for name in found if name.startswith(("heads.", "correction.", "null."))}
    assert all(found[name] == pytest.approx(0.01) for name in found.keys() - slow)


def test_batches_have_the_shares_that_were_asked_for(tmp_path: Path) -> None:
    kinds = [[Example(kind, ("x",), ())] for kind in ("template", "human", "unanswerable")]
    settings = training(tmp_path, batch_size=10, unanswerable=0.2, human=0.25)
    batches = list(Batches(Pool(*kinds), settings, 300, 1))
    counts = Counter(example.text for batch in batches for example in batch)
    assert {len(batch) for batch in batches} == {10}
    assert counts["unanswerable"] / 3000 == pytest.approx(0.2, abs=0.03)
    assert counts["human"] / 3000 == pytest.approx(0.8 * 0.25, abs=0.03)
    assert list(Batches(Pool(*kinds), settings, 300, 1, start=295)) == batches[295:]
    assert list(Batches(Pool(*kinds), settings, 300, 2)) != batches
    assert len(Batches(Pool(*kinds), settings, 300, 1)) == 300


def test_batches_take_the_kinds_that_there_are(tmp_path: Path) -> None:
    human = [Example("human", ("x",), ())]
    settings = training(tmp_path, human=0.0)
    assert list(Batches(Pool([], human, []), settings, 1, 0)) == [human * 3]
    template = [Example("template", ("x",), ())]
    assert list(Batches(Pool(template, [], []), training(tmp_path, human=1.0), 1, 0)) == [template * 3]


def test_the_learning_rate_rises_and_falls(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder, tmp_path: Path
) -> None:
    settings = training(tmp_path, warmup=4, learning_rate=1.0)
    module = Fitting(opened(rag(), world, lm, encoder), settings, 20, 0, Curve(tmp_path / "c", ["step"]))
    made = module.configure_optimizers()
    rates = []
    for _ in range(20):
        rates.append(made["optimizer"].param_groups[0]["lr"])
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    assert rates.index(max(rates)) == 3
    assert rates[0] == pytest.approx(0.25)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert made["optimizer"].param_groups[0]["lr"] == pytest.approx(0, abs=1e-6)
    assert made["optimizer"].param_groups[0]["weight_decay"] == settings.weight_decay


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"unanswerable": 1.0}, r"train.unanswerable and train.multihop must be in \[0, 1\)"),
        ({"multihop": -0.1}, r"train.unanswerable and train.multihop must be in \[0, 1\)"),
        ({"human": 1.5}, r"train.human in \[0, 1\]"),
        ({"batch_size": 0}, "train.batch_size, checkpoint_every and every value of train.steps"),
        ({"steps": {"ours": 0}}, "every value of train.steps must be at least 1"),
    ],
)
def test_values_out_of_range_are_errors(changes: dict[str, Any], text: str, tmp_path: Path) -> None:
    assert isinstance(training(tmp_path), Train)
    with pytest.raises(ValueError, match=text):
        training(tmp_path, **changes)


@pytest.mark.parametrize("method", [ours(), rag(), dysk()], ids=["ours", "rag", "dysk"])
def test_an_adapter_comes_back_from_its_folder(
    method: Any, world: SmallWorld, lm: LanguageModel, encoder: Encoder, tmp_path: Path
) -> None:
    system, other = (opened(method, world, lm, encoder) for _ in range(2))
    shaken(system)
    save_adapter(system, tmp_path, {"method": method, "lm": lm})
    load_adapter(other, tmp_path)
    assert system.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in system.state_dict().items())
    with system.attached():
        before = system.reply(["Why?"])
    with other.attached():
        assert other.reply(["Why?"]) == before
    assert '"answer_tokens": 4' in (tmp_path / "adapter.json").read_text(encoding="utf-8")


def test_an_adapter_that_does_not_fit_names_the_tensor_and_the_remedy(
    world: SmallWorld, lm: LanguageModel, encoder: Encoder, tmp_path: Path
) -> None:
    system = opened(rag(), world, lm, encoder)
    with pytest.raises(UserError, match=r"adapter\.safetensors: not found; train it first"):
        load_adapter(system, tmp_path)
    save_adapter(opened(rag(rank=3), world, lm, encoder), tmp_path, {})
    text = r"lowrank\.down\.0 is \(3, 48\), but this configuration has \(2, 48\); use the configuration in"
    with pytest.raises(UserError, match=text):
        load_adapter(system, tmp_path)
    save_adapter(opened(rag(projections=["q_proj"]), world, lm, encoder), tmp_path, {})
    with pytest.raises(UserError, match=r"lowrank\.down\.4 is None, but this configuration has \(2, 48\)"):
        load_adapter(system, tmp_path)
    (tmp_path / "adapter.safetensors").write_bytes(b"half a fi")
    with pytest.raises(UserError, match=r"damaged \(.*\); delete its folder and train again"):
        load_adapter(system, tmp_path)
