"""Stages in several processes: one that is lost, errors that come through, and what is refused."""

import csv
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.config import UserError
from pipeline.model.fitting import fit
from pipeline.model.ours import OurSystem
from pipeline.place import Place, first, place
from pipeline.processes import agree, everyones, joined, share, wait
from pipeline.together import main, together
from pipeline.train import train
from pipeline.trainer import Trainer
from pipeline.weights import Encoder, LanguageModel
from tests.lost_worker import KILLED_AT, train_and_lose
from tests.model.shared_fits import TWO
from tests.model.tiny_systems import CPU, LIGHTNING, SILENT, ours, training
from tests.tiny import SmallWorld, memory_settings

pytestmark = LIGHTNING


def test_a_run_that_loses_a_process_ends_as_one_that_loses_none(
    world: SmallWorld,
    lm: LanguageModel,
    encoder: Encoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second of two is killed with SIGKILL; beside them stands a run of one process, undisturbed."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    given: dict[str, Any] = {"method": ours(), "memory": memory_settings(entities=60), "lm": lm}
    given |= {"encoder": encoder, "logger": SILENT, "paths": world.paths, "seed": 0}
    outs = tmp_path / "whole", tmp_path / "killed"
    for out in outs:
        out.mkdir()
    settings = training(tmp_path / "checkpoints", steps={"ours": 7})
    assert settings.checkpoint_every == 2
    train.run(trainer=CPU, train=settings, out=outs[0], **given)  # type: ignore[attr-defined]
    two, steps = replace(TWO, restarts=1), tmp_path / "steps"
    train_and_lose(trainer=two, train=settings, out=outs[1], steps=steps, **given)
    seen = [tuple(map(int, line.split())) for line in steps.read_text(encoding="utf-8").splitlines()]
    before = [step for attempt, step in seen if attempt == 0]
    # The first process may have begun the step in which the second one died.
    assert before[:KILLED_AT] == list(range(KILLED_AT))
    assert [step for attempt, step in seen if attempt == 1] == [4, 5, 6], "from the last checkpoint on"
    states = [load_file(out / "adapter.safetensors") for out in outs]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-3, atol=1e-4, msg=name)
    rows = [list(csv.DictReader((out / "curve.csv").read_text().splitlines())) for out in outs]
    assert [row["step"] for row in rows[1]] == [str(step) for step in range(7)]
    for one, both in zip(*rows, strict=True):
        assert float(both["loss"]) == pytest.approx(float(one["loss"]), rel=1e-4)
    figures = [json.loads((out / "train.json").read_text(encoding="utf-8")) for out in outs]
    for name in ("steps", "skipped_steps", "examples", "parameters", "labels", "correction", "trust"):
        assert figures[0][name] == figures[1][name], name
    assert sorted(f.name for f in outs[0].iterdir()) == sorted(f.name for f in outs[1].iterdir())
    assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.soak
def test_two_processes_go_on_from_where_one_stopped(
    world: SmallWorld,
    lm: LanguageModel,
    encoder: Encoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: dict[str, Any] = {"method": ours(), "memory": memory_settings(entities=60), "lm": lm}
    given |= {"encoder": encoder, "logger": SILENT, "paths": world.paths, "seed": 0}
    given["train"] = training(tmp_path / "checkpoints", steps={"ours": 5})
    whole, on = tmp_path / "whole", tmp_path / "on"
    for out in (whole, on):
        out.mkdir()
    train.run(trainer=CPU, out=whole, **given)  # type: ignore[attr-defined]
    calls: list[int] = []

    class StoppedError(Exception):
        pass

    def stop(self: OurSystem, batch: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise StoppedError
        return real(self, batch)

    real = OurSystem.losses
    with monkeypatch.context() as patched:
        patched.setattr(OurSystem, "losses", stop)
        with pytest.raises(StoppedError):
            train.run(trainer=CPU, out=on, **given)  # type: ignore[attr-defined]
    [checkpoint] = (tmp_path / "checkpoints").glob("*/last.ckpt")
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 2
    train.run(trainer=TWO, out=on, **given)  # type: ignore[attr-defined]
    end, wanted = (load_file(out / "adapter.safetensors") for out in (on, whole))
    for name, value in wanted.items():
        torch.testing.assert_close(end[name], value, rtol=1e-3, atol=1e-4, msg=name)
    assert not checkpoint.exists()


@together
def refusing(trainer: Trainer, text: str) -> None:
    raise UserError(text)


def test_an_error_of_the_user_is_told_and_not_met_again(tmp_path: Path) -> None:
    arguments, trouble = tmp_path / "arguments", tmp_path / "trouble"
    arguments.write_bytes(pickle.dumps((__name__, "refusing", (CPU,), {"text": "train more"})))
    with pytest.raises(SystemExit, match="1"):
        main(arguments, trouble)
    assert trouble.read_text(encoding="utf-8") == "train more"
    arguments.unlink()
    with pytest.raises(SystemExit, match="1"):
        main(arguments, trouble)


def test_alone_a_stage_runs_where_it_is() -> None:
    with pytest.raises(UserError, match=r"^here$"):
        refusing(trainer=CPU, text="here")


def test_several_hosts_are_not_started_from_one() -> None:
    with pytest.raises(UserError, match=r"trainer\.hosts is 2, but one process was started"):
        refusing(trainer=replace(TWO, hosts=2), text="")


def test_processes_want_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=r"trainer\.devices is 2, but torch sees 1 GPUs: set it to 1"):
        refusing(trainer=replace(TWO, accelerator="auto"), text="")


def test_strategies_say_what_is_shared() -> None:
    assert (CPU.processes, CPU.shares, CPU.arguments()["strategy"]) == (1, False, "auto")
    for strategy, shares in (("ddp", False), ("fsdp", True)):
        trainer = replace(TWO, strategy=strategy)
        assert (trainer.processes, trainer.shares) == (2, shares)
        assert trainer.arguments()["strategy"]._ddp_kwargs == {"find_unused_parameters": True}
    assert not replace(CPU, strategy="fsdp").shares, "one process has nobody to share with"


def test_a_loop_wants_as_many_processes_as_were_started(tmp_path: Path) -> None:
    parts: Any = None
    with pytest.raises(UserError, match=r"trainer\.devices × trainer\.hosts is 2, but 1 train here"):
        fit(parts, parts, training(tmp_path), TWO, 1, 0, tmp_path, tmp_path, [], progress=False)


@pytest.mark.parametrize("size", [1, 2])
def test_a_batch_is_no_smaller_than_the_processes(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.model.fitting.place", lambda: Place(0, 3, 0))
    parts: Any = None
    settings, three = training(tmp_path, batch_size=size), replace(TWO, devices=3)
    with pytest.raises(UserError, match=rf"train\.batch_size is {size}, which 3 processes can't share"):
        fit(parts, parts, settings, three, 1, 0, tmp_path, tmp_path, [], progress=False)


def test_slurm_tells_a_process_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    assert place() == Place(0, 1, 0)
    assert first()
    told = {"SLURM_NTASKS": "16", "SLURM_PROCID": "11", "SLURM_LOCALID": "3"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert place() == Place(0, 1, 0), "a job's script, outside of any step"
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "16")
    assert place() == Place(11, 16, 3)
    assert not first()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert place() == Place(0, 1, 0), "a step of one task is one process"


def test_a_process_alone_joins_and_waits_for_nobody() -> None:
    with joined(torch.device("cpu")):
        assert not torch.distributed.is_initialized()
        wait()
        state = {"weight": torch.ones(2)}
        agree(state)
        assert state["weight"].tolist() == [1.0, 1.0]
        assert share([3, 1, 2]) == everyones([3, 1, 2]) == [3, 1, 2]
