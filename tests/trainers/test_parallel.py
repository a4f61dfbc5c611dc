"""Training with several processes: the result of one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import qadv
from qadv.files import read_tensors
from qadv.trainers.loop_trainer import LoopTrainer
from qadv.trainers.parallel import BatchPart, Processes
from tests.trainers import two_processes

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, digits):
    """What each training left: in this process, and in two that one torchrun started."""
    folder = tmp_path_factory.mktemp("parallel")
    torch.manual_seed(0)
    start = qadv.QuantizedClassifier.from_backbone(
        "mnist-cnn", "float", "float", input_shape=(1, 8, 8), image_size=8, width=8
    )
    trainer = LoopTrainer(start, lr=0.05, verbose=False)
    trainer.fit(digits.x_train[:300], digits.y_train[:300], batch_size=32, nb_epochs=4)
    start.save(folder / "start.safetensors")
    for kind in two_processes.KINDS:
        two_processes.train(kind, folder)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    done = subprocess.run(
        [*torchrun, two_processes.__file__, folder],
        capture_output=True, text=True, timeout=500, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def result(folder, name):
    """Returns the tensors and the history of a training, e.g. of `float2`."""
    tensors, _ = read_tensors(folder / f"{name}.safetensors")
    return tensors, json.loads((folder / f"{name}.json").read_text())


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(folder):
    one, one_history = result(folder, "float1")
    two, two_history = result(folder, "float2")
    for name, tensor in one.items():
        torch.testing.assert_close(two[name].double(), tensor.double(), rtol=2e-3, atol=2e-4, msg=name)
    for mine, theirs in zip(two_history, one_history, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
        assert mine["penalty"] == pytest.approx(theirs["penalty"], rel=1e-3)
    other = torch.load(folder / "float2.other", weights_only=True)
    saved = [name for name in other if name in two]
    assert saved
    assert all(torch.equal(other[name], two[name]) for name in saved), "all processes hold the same network"


@pytest.mark.slow
def test_two_processes_train_a_quantized_network_too(folder):
    """Roundings fall differently after some steps, so the figures agree, not the weights."""
    _, one = result(folder, "quantized1")
    _, two = result(folder, "quantized2")
    assert two[0]["loss"] == pytest.approx(one[0]["loss"], rel=0.05)
    assert two[0]["pairing"] == pytest.approx(one[0]["pairing"], rel=0.1)
    assert [entry["sq_ratio"] for entry in two] == [entry["sq_ratio"] for entry in one]


@pytest.mark.slow
def test_two_processes_find_the_feedback_images_of_one(folder):
    one, one_history = result(folder, "feedback1")
    two, two_history = result(folder, "feedback2")
    assert json.loads((folder / "feedback2.other.json").read_text()) == two_history, "all train on the same images"
    assert {path.name for path in folder.glob("feedback2-*")} == {"feedback2-0.ckpt", "feedback2-0.ckpt.feedback"}
    for name, tensor in one.items():
        torch.testing.assert_close(two[name].double(), tensor.double(), rtol=2e-3, atol=2e-4, msg=name)
    assert one_history[0]["added_images"] > 50
    for mine, theirs in zip(two_history, one_history, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
        assert [mine.get(key) for key in ("round", "samples", "queries")] == [
            theirs.get(key) for key in ("round", "samples", "queries")
        ]
        if "class_margins" in mine:
            assert mine["class_margins"] == pytest.approx(theirs["class_margins"], rel=1e-3)
            assert mine["mean_margin"] == pytest.approx(theirs["mean_margin"], rel=1e-3)


def test_gathered_rows_are_those_of_each_process():
    rows = torch.randn(5, 3)
    assert Processes().gather(rows, 5) is rows
    assert [Processes(rank, 3).share(2).of(rows[:2]).shape[0] for rank in range(3)] == [0, 1, 1]


def test_parts_cover_a_batch():
    parts = [Processes(rank, 3).part(32) for rank in range(3)]
    whole = torch.arange(32)
    assert torch.equal(torch.cat([part.of(whole) for part in parts]), whole)
    assert sum(part.first(0.4, len(part.of(whole))) for part in parts) == 13
    assert BatchPart().of(whole) is not None
    assert BatchPart().total(7) == 7
    with pytest.raises(ValueError, match="can't be shared by 3 processes"):
        Processes(0, 3).part(2)
