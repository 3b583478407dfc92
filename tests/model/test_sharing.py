"""Two processes that share every batch do what one does with the whole of it, step by step."""

import csv
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.model.sharing import shared, weighed, whole
from pipeline.weights import Encoder, LanguageModel
from tests.closure import ROOT
from tests.model.shared_fits import METHODS, STEPS, STRATEGIES, fitted
from tests.model.tiny_systems import CPU, LIGHTNING
from tests.tiny import SmallWorld

pytestmark = LIGHTNING


@pytest.fixture(scope="module")
def two(
    world: SmallWorld,
    lm: LanguageModel,
    encoder: Encoder,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """What two processes left, with all methods in one go: starting them takes longer than fitting."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "inputs").write_bytes(pickle.dumps((world, lm, encoder)))
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words += ["-m", "tests.model.shared_fits", str(folder / "inputs"), str(folder)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        words, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-9000:]
    return folder


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", METHODS)
def test_two_processes_take_the_steps_of_one(
    name: str,
    strategy: str,
    two: Path,
    world: SmallWorld,
    lm: LanguageModel,
    encoder: Encoder,
    tmp_path: Path,
) -> None:
    """Batches of three, so that one process has two questions and the other one."""
    alone, end = fitted(name, world, lm, encoder, CPU, tmp_path)
    together, end_together = torch.load(two / strategy / f"{name}.pt")
    assert len(alone) == len(together) == STEPS
    for number, (one, both) in enumerate(zip(alone, together, strict=True)):
        assert any(grad is not None and bool(grad.any()) for _, grad in one.values())
        for parameter, (value, grad) in one.items():
            told = f"{parameter} of step {number}"
            torch.testing.assert_close(both[parameter][0], value, rtol=1e-4, atol=1e-5, msg=told)
            if grad is None:
                assert both[parameter][1] is None or not both[parameter][1].any(), told
            else:
                torch.testing.assert_close(both[parameter][1], grad, rtol=1e-3, atol=1e-5, msg=told)
    for key, value in end.items():
        torch.testing.assert_close(end_together[key], value, rtol=1e-4, atol=1e-5)
    curves = [(folder / f"{name}.csv").read_text(encoding="utf-8") for folder in (tmp_path, two / strategy)]
    rows = [list(csv.DictReader(text.splitlines())) for text in curves]
    for one, both in zip(*rows, strict=True):
        for column in ("step", "loss", "lm_loss", "aux_loss", "retrieval_accuracy", "null_share"):
            assert float(both[column]) == pytest.approx(float(one[column]), rel=1e-4, nan_ok=True), column


def test_alone_a_mean_is_what_it_was() -> None:
    mean = torch.tensor(0.3)
    with shared([1, 2, 3], 0, 1, torch.device("cpu")) as own:
        assert own == whole(own) == [1, 2, 3]
        assert weighed(mean, 2) is mean


def test_a_batch_is_shared_out_without_rest_or_overlap() -> None:
    shares = []
    for rank in range(3):
        with shared(range(7), rank, 3, torch.device("cpu")) as own:
            shares.append(list(own))
            assert list(whole(own)) == list(range(7))
    assert sorted(item for share in shares for item in share) == list(range(7))
    assert {len(share) for share in shares} == {2, 3}
    with (
        pytest.raises(ValueError, match="a batch of 2 can't be shared out among 3 processes"),
        shared([1, 2], 0, 3, torch.device("cpu")),
    ):
        pass
