"""Runs that Weights & Biases would take, and curves that survive a kill."""

import struct
from dataclasses import replace
from pathlib import Path

import lightning
import pytest
import torch
import wandb
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from wandb.proto import wandb_internal_pb2

from pipeline.config import UserError, section
from pipeline.tracking import Curve, Logger, run, run_name
from pipeline.trainer import Trainer

OFFLINE = Logger(mode="offline", project="tests", entity=None, group=None, dir=Path())


class Slope(lightning.LightningModule):
    """One weight that learns to be 2."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: torch.Tensor, number: int) -> torch.Tensor:
        loss = (self.weight - 2).square() + 0 * batch.sum()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.25)


def records(folder: Path) -> list[wandb_internal_pb2.Record]:
    """What an offline run's file holds: a LevelDB log of messages behind a header of seven bytes."""
    # The service writes the file behind `finish`; its end is when the process that it serves ends.
    wandb.teardown()
    [file] = folder.glob("run-*.wandb")
    data = file.read_bytes()
    assert data[:4] == b":W&B"
    found, parts, place, block = [], b"", 7, 32768
    while place + 7 <= len(data):
        if block - place % block < 7:
            place += block - place % block
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            found.append(record)
            parts = b""
    return found


@pytest.mark.filterwarnings(
    # Lightning's own calls of torch, and its advice to load tiny data with many processes.
    "ignore:.*LeafSpec:FutureWarning",
    "ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning",
)
def test_an_offline_run_holds_what_sync_sends(tmp_path: Path) -> None:
    logger = replace(OFFLINE, dir=tmp_path)
    trainer = Trainer(accelerator="cpu", devices=1, hosts=1, strategy="auto", restarts=0)
    for rate in (1, 2):
        out = tmp_path / "multirun" / "train" / f"seed={rate}"
        with run(logger, out, {"trainer": trainer, "seed": rate, "out": out}) as tracked:
            fit = lightning.Trainer(
                **trainer.arguments(),
                logger=tracked.loggers,
                max_steps=3,
                log_every_n_steps=1,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            fit.fit(Slope(), DataLoader(torch.zeros(3, 1)))
            tracked.log({"afterwards": 1.0}, step=10)
            tracked.summarize({"ours": {"unseen": {"em": 0.5}}})
    folders = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    names = set()
    for folder in folders:
        found = records(folder)
        [started] = [record.run for record in found if record.WhichOneof("record_type") == "run"]
        assert started.project == "tests"
        assert started.run_group == "train"
        names.add(started.display_name)
        config = {item.key: item.value_json for item in started.config.update}
        assert '"accelerator":"cpu"' in config["trainer"].replace(" ", "")
        logged = {
            "/".join(item.nested_key) or item.key
            for record in found
            if record.WhichOneof("record_type") == "history"
            for item in record.history.item
        }
        assert {"loss", "afterwards"} <= logged
        summary = {
            item.key or ".".join(item.nested_key)
            for record in found
            if record.WhichOneof("record_type") == "summary"
            for item in record.summary.update
        }
        assert "ours.unseen.em" in summary
        assert [record for record in found if record.WhichOneof("record_type") == "exit"]
    assert names == {"seed=1", "seed=2"}


def test_a_failing_run_is_finished_as_failed(tmp_path: Path) -> None:
    logger = replace(OFFLINE, dir=tmp_path, group="own")
    with pytest.raises(ZeroDivisionError), run(logger, tmp_path / "out", {}):
        raise ZeroDivisionError
    [folder] = (tmp_path / "wandb").glob("offline-run-*")
    found = records(folder)
    [started] = [record.run for record in found if record.WhichOneof("record_type") == "run"]
    assert started.run_group == "own"
    [ended] = [record.exit for record in found if record.WhichOneof("record_type") == "exit"]
    assert ended.exit_code == 1


def test_a_disabled_run_writes_nothing_and_takes_everything(tmp_path: Path) -> None:
    with run(replace(OFFLINE, mode="disabled", dir=tmp_path / "w"), tmp_path / "out", {"seed": 1}) as tracked:
        tracked.log({"loss": 1.0}, step=1)
        tracked.summarize({"em": 1.0})
        assert tracked.loggers == []
    assert list(tmp_path.iterdir()) == []


def test_an_online_run_without_an_account_is_an_error_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    logger = replace(OFFLINE, mode="online", dir=tmp_path)
    with (
        pytest.raises(UserError, match=r"WANDB_API_KEY, or choose logger=offline"),
        run(logger, tmp_path, {}),
    ):
        pass


def test_a_queued_experiment_names_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    assert run_name(Path("models/train/ours")) == "ours"
    monkeypatch.setenv("DVC_EXP_NAME", "apt-newt")
    assert run_name(Path("models/train/ours")) == "apt-newt ours"


def test_an_unknown_mode_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"logger\.mode must be one of disabled, offline, online, not on"):
        replace(OFFLINE, mode="on")


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 40))
def test_a_curve_resumed_anywhere_is_the_unbroken_curve(
    tmp_path_factory: pytest.TempPathFactory, killed: int, checkpoint: int, torn: int
) -> None:
    """The loop is killed at one step, its last row torn, and resumes from an earlier one."""
    folder = tmp_path_factory.mktemp("curve")
    whole, broken = folder / "whole.csv", folder / "broken.csv"
    checkpoint = min(checkpoint, killed)
    for path, start, end in ((whole, 0, 12), (broken, 0, killed)):
        curve = Curve(path, ["step", "loss"], start=start)
        for step in range(start, end):
            curve.append(step=step, loss=1 / (step + 1))
    if killed > checkpoint:
        last = len(broken.read_bytes().splitlines(keepends=True)[-1])
        with broken.open("r+b") as file:
            file.truncate(broken.stat().st_size - min(torn, last))
    curve = Curve(broken, ["step", "loss"], start=checkpoint)
    for step in range(checkpoint, 12):
        curve.append(step=step, loss=1 / (step + 1))
    assert broken.read_bytes() == whole.read_bytes()


def test_a_curve_has_the_columns_that_were_said(tmp_path: Path) -> None:
    curve = Curve(tmp_path / "curve.csv", ["step", "loss"])
    with pytest.raises(ValueError, match=r"columns missing: \['loss'\], unknown: \['los'\]"):
        curve.append(step=1, los=2)
    with pytest.raises(ValueError, match=r"holds the columns \['step', 'loss'\], not \['step', 'mrr'\]"):
        Curve(tmp_path / "curve.csv", ["step", "mrr"])


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("accelerator", "tpu", "trainer.accelerator must be one of auto, cpu, gpu, not tpu"),
        ("devices", 0, "trainer.devices must be at least 1, not 0"),
        ("hosts", 0, "trainer.hosts must be at least 1, not 0"),
        ("strategy", "magic", "trainer.strategy must be one of auto, ddp, fsdp, not magic"),
        ("restarts", -1, "trainer.restarts must not be negative, but is -1"),
        ("devices", 2, "trainer.strategy must be ddp or fsdp for 2 processes, not auto"),
    ],
)
def test_a_trainer_out_of_range_is_an_error(key: str, value: object, text: str) -> None:
    good = {"accelerator": "cpu", "devices": 1, "hosts": 1, "strategy": "auto", "restarts": 0}
    assert section(Trainer, good, "trainer").device == torch.device("cpu")
    with pytest.raises(ValueError, match=text):
        section(Trainer, {**good, key: value}, "trainer")


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a GPU here")
def test_a_gpu_that_is_not_there_is_an_error_with_the_remedy() -> None:
    trainer = Trainer(accelerator="gpu", devices=1, hosts=1, strategy="auto", restarts=0)
    with pytest.raises(UserError, match="torch sees none: choose trainer=cpu or trainer=auto"):
        _ = trainer.device
    assert replace(trainer, accelerator="auto").device == torch.device("cpu")
