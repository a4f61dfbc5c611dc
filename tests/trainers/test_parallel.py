"""Training with several processes: the result of one."""

import json
import subprocess
import sys

import pytest
import torch

from qadv.files import read_tensors
from qadv.trainers.loop_trainer import LoopTrainer
from qadv.trainers.parallel import Part, Processes

pytestmark = pytest.mark.slow

SCRIPT = """
import json, sys
import numpy as np, torch, qadv
torch.set_num_threads(1)
kind, out = sys.argv[1:]
rank = qadv.trainers.parallel.Processes.of_torchrun(torch.device("cpu")).rank
torch.manual_seed(rank)  # other weights in each process: those of the first count
data = qadv.create("dataset", "digits")
scheme = {"float": ("float", "float"), "quantized": ("sq(twn)", "relu6:4")}[kind]
classifier = qadv.QuantizedClassifier.from_backbone(
    "resnet20", input_shape=(1, 8, 8), weights=scheme[0], activations=scheme[1], device_type="cpu"
)
settings = {"adversary": qadv.Adversary("r-fgsm", eps=0.1, sampled=True, ratio=0.5), "lr": 0.02, "verbose": False}
settings |= {"checkpoint": out + ".ckpt", "augment": "crop-flip"}
if kind == "float":
    trainer = qadv.DefensiveQuantTrainer(classifier, beta=1e-3, **settings)
else:
    trainer = qadv.ErrorSilencedTrainer(classifier, max_iter=2, **settings)
trainer.fit(data.x_train[:66], data.y_train[:66], (data.x_test[:64], data.y_test[:64]), batch_size=33, nb_epochs=2)
if rank == 0:
    classifier.save(out + ".safetensors")
    open(out + ".json", "w").write(json.dumps(trainer.history))
else:
    other = {name: tensor.clone() for name, tensor in classifier.model.state_dict().items()}
    torch.save(other, out + ".other")
"""
SCRIPT = SCRIPT.replace("import numpy as np, torch, qadv", "import torch, qadv, qadv.trainers.parallel")

FEEDBACK = """
import hashlib, json, pathlib, sys
import torch, qadv, qadv.trainers.parallel
torch.set_num_threads(1)
kind, out = sys.argv[1:]
rank = qadv.trainers.parallel.Processes.of_torchrun(torch.device("cpu")).rank
data = qadv.create("dataset", "digits")
classifier = qadv.QuantizedClassifier.load(pathlib.Path(out).with_name("start.safetensors"), device_type="cpu")
seen = hashlib.blake2b()

def look(x):
    seen.update(x.numpy().tobytes())
    return x

trainer = qadv.FeedbackTrainer(
    classifier, rounds=2, nb_directions=8, nb_nearest=4, samples_per_class=(2, 3, 5), ranking_samples=3, lr=0.02,
    checkpoint=f"{out}-{rank}.ckpt", augment=look, verbose=False,
)
trainer.fit(data.x_train[:101], data.y_train[:101], batch_size=33, nb_epochs=3)
for entry in trainer.history:
    del entry["seconds"]
trainer.history[-1]["images"] = seen.hexdigest()
open(out + (".json" if rank == 0 else ".other"), "w").write(json.dumps(trainer.history))
if rank == 0:
    classifier.save(out + ".safetensors")
"""


def run(tmp_path, kind, processes, code=SCRIPT):
    script = tmp_path / "train.py"
    script.write_text(code)
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    out = tmp_path / f"{kind}{processes}"
    done = subprocess.run([*start, str(script), kind, str(out)], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    tensors, _ = read_tensors(out.with_suffix(".safetensors"))
    history = json.loads(out.with_suffix(".json").read_text())
    return tensors, history


def test_two_processes_give_the_result_of_one(tmp_path):
    one, one_history = run(tmp_path, "float", 1)
    two, two_history = run(tmp_path, "float", 2)
    for name, tensor in one.items():
        torch.testing.assert_close(two[name].double(), tensor.double(), rtol=2e-3, atol=2e-4, msg=name)
    for mine, theirs in zip(two_history, one_history, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
        assert mine["penalty"] == pytest.approx(theirs["penalty"], rel=1e-3)
    other = torch.load(tmp_path / "float2.other", weights_only=True)
    saved = [name for name in other if name in two]
    assert saved
    assert all(torch.equal(other[name], two[name]) for name in saved), "all processes hold the same network"


def test_two_processes_train_a_quantized_network_too(tmp_path):
    """Roundings fall differently after some steps, so the figures agree, not the weights."""
    _, one = run(tmp_path, "quantized", 1)
    _, two = run(tmp_path, "quantized", 2)
    assert two[0]["loss"] == pytest.approx(one[0]["loss"], rel=0.05)
    assert two[0]["pairing"] == pytest.approx(one[0]["pairing"], rel=0.1)
    assert [entry["sq_ratio"] for entry in two] == [entry["sq_ratio"] for entry in one]


def test_two_processes_find_the_feedback_images_of_one(tmp_path, make_classifier, digits):
    start = make_classifier("float", "float")
    LoopTrainer(start, lr=0.05, verbose=False).fit(
        digits.x_train[:300], digits.y_train[:300], batch_size=32, nb_epochs=4
    )
    start.save(tmp_path / "start.safetensors")
    one, one_history = run(tmp_path, "feedback", 1, FEEDBACK)
    two, two_history = run(tmp_path, "feedback", 2, FEEDBACK)
    assert json.loads((tmp_path / "feedback2.other").read_text()) == two_history, "all train on the same images"
    assert {path.name for path in tmp_path.glob("feedback2-*")} == {"feedback2-0.ckpt", "feedback2-0.ckpt.feedback"}
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
    assert Part().of(whole) is not None
    assert Part().total(7) == 7
    with pytest.raises(ValueError, match="can't be shared by 3 processes"):
        Processes(0, 3).part(2)
