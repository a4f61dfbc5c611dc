"""Trainings that torchrun starts in each of its processes, `torchrun two_processes.py FOLDER`, or one process runs."""

import hashlib
import json
import sys
from pathlib import Path

import torch

import qadv
from qadv.trainers.parallel import Processes


def train(kind: str, folder: Path) -> None:
    """Trains, and writes history and network of the first process, and what another one has as `.other`."""
    processes = Processes.of_torchrun(torch.device("cpu"))
    rank, out = processes.rank, folder / f"{kind}{processes.size}"
    torch.manual_seed(rank)  # other weights in each process: those of the first count
    classifier, history = KINDS[kind](rank, out)
    (out.with_suffix(".json" if rank == 0 else ".other.json")).write_text(json.dumps(history))
    if rank == 0:
        classifier.save(out.with_suffix(".safetensors"))
    else:
        torch.save({name: tensor.clone() for name, tensor in classifier.model.state_dict().items()}, f"{out}.other")


def _regularised(rank, out):
    return _fitted(("float", "float"), qadv.DefensiveQuantTrainer, out, beta=1e-3)


def _silenced(rank, out):
    return _fitted(("sq(twn)", "relu6:4"), qadv.ErrorSilencedTrainer, out, max_iter=2)


def _fitted(schemes, trainer_type, out, **options):
    data = qadv.create("dataset", "digits")
    weights, activations = schemes
    classifier = qadv.QuantizedClassifier.from_backbone(
        "resnet20", input_shape=(1, 8, 8), weights=weights, activations=activations, device_type="cpu"
    )
    adversary = qadv.Adversary("r-fgsm", eps=0.1, sampled=True, ratio=0.5)
    options |= {"lr": 0.02, "verbose": False, "checkpoint": f"{out}.ckpt", "augment": "crop-flip"}
    trainer = trainer_type(classifier, adversary=adversary, **options)
    validation = data.x_test[:64], data.y_test[:64]
    trainer.fit(data.x_train[:66], data.y_train[:66], validation, batch_size=33, nb_epochs=2)
    return classifier, trainer.history


def _feedback(rank, out):
    """From the network in `start.safetensors`; the history has a digest of the images that were trained on."""
    data = qadv.create("dataset", "digits")
    classifier = qadv.QuantizedClassifier.load(out.with_name("start.safetensors"), device_type="cpu")
    seen = hashlib.blake2b()

    def look(x):
        seen.update(x.numpy().tobytes())
        return x

    trainer = qadv.FeedbackTrainer(
        classifier, rounds=2, nb_directions=8, nb_nearest=4, samples_per_class=(2, 3, 5), ranking_samples=3, lr=0.02,
        checkpoint=f"{out}-{rank}.ckpt", augment=look, verbose=False,
    )  # fmt: skip
    trainer.fit(data.x_train[:101], data.y_train[:101], batch_size=33, nb_epochs=3)
    for entry in trainer.history:
        del entry["seconds"]
    trainer.history[-1]["images"] = seen.hexdigest()
    return classifier, trainer.history


KINDS = {"float": _regularised, "quantized": _silenced, "feedback": _feedback}

if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in KINDS:
        train(each, Path(sys.argv[1]))
