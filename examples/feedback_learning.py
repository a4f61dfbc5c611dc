"""Feedback learning against plain and adversarial training, before and after 3-bit post-training quantization.

    python examples/feedback_learning.py
    python examples/feedback_learning.py --dataset mnist --data-dir DATA
    python examples/feedback_learning.py --dataset cifar10 --data-dir DATA --nb-train 10000

The shape of tables 1 to 3 of "Improving Adversarial Robustness in Weight-quantized Neural Networks" (Song, Fallon, Li:
AAAI 2021 RSEML workshop): accuracy of an original, an adversarially trained and a feedback-trained network, each float
and with 3-bit weights, under white-box attacks and noise. Both defenses start from the original network. `--control`
adds one that is trained like the feedback-trained one, but on random training images with normal noise of the same mean
length. DATA holds the images as .npz files and, for CIFAR-10, the trained resnet20-cifar10.safetensors.
"""

import copy
import json
import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from art.attacks.evasion import (
    BasicIterativeMethod,
    CarliniL2Method,
    FastGradientMethod,
    MomentumIterativeMethod,
    ProjectedGradientDescent,
)

import qadv
from qadv.datasets import data_folder
from qadv.files import write_atomically
from qadv.trainers.loop_trainer import LoopTrainer

EPS = {"digits": (0.05, 0.1, 0.2), "mnist": (0.1, 0.2, 0.3), "cifar10": (2 / 255, 4 / 255, 8 / 255)}
SAMPLES = (20, 100, 150)  # of a robust, a middle and a weak class, for 60,000 training images; fewer for fewer images
RESNET20 = {"name": "resnet20", "preprocessing": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])}


def attacks(classifier, eps):
    weak, medium, strong = eps
    steps = {"eps": medium, "eps_step": medium / 8, "max_iter": 20, "batch_size": 128, "verbose": False}
    return {
        "FGSM w": FastGradientMethod(classifier, eps=weak, batch_size=128),
        "FGSM m": FastGradientMethod(classifier, eps=medium, batch_size=128),
        "FGSM s": FastGradientMethod(classifier, eps=strong, batch_size=128),
        "PGD": ProjectedGradientDescent(classifier, num_random_init=1, **steps),
        "BIM": BasicIterativeMethod(classifier, **steps),
        "MIM": MomentumIterativeMethod(classifier, **steps),
        "C&W": CarliniL2Method(
            classifier, initial_const=1.0, learning_rate=0.1, binary_search_steps=2, batch_size=128, verbose=False
        ),
        "normal": qadv.GaussianNoise(classifier, std=strong, seed=0, verbose=False),
        "uniform": qadv.UniformNoise(classifier, eps=strong, seed=0, verbose=False),
    }


def accuracies(classifier, images, nb_attacked, eps, leave_out):
    x, y = images
    results = {"clean": float((classifier.predict(x).argmax(1) == y).mean())}
    x, y = x[:nb_attacked], y[:nb_attacked]
    for name, attack in attacks(classifier, eps).items():
        if name in leave_out:
            continue
        np.random.seed(0)
        adversarial = attack.generate(x, y)
        results[name] = float((classifier.predict(adversarial).argmax(1) == y).mean())
    return results


def train_on_noise(classifier, x, y, places, history, lr, seed, checkpoint):
    """Trains as feedback learning did, round by round, but on as many images with normal noise as it found ones."""
    rounds = history[-1]["round"] + 1
    for entry in [entry for entry in history if "added_images" in entry]:
        number, nb_added = entry["round"], entry["added_images"]
        rng = np.random.default_rng([seed, number])
        drawn = rng.integers(len(x), size=places)
        more = x[drawn]
        if nb_added:
            noise = rng.standard_normal((nb_added, *x.shape[1:]), dtype=np.float32)
            more[:nb_added] += noise * (entry["mean_length"] / math.sqrt(x[0].size))
        nb_epochs = sum(other["round"] == number for other in history)
        LoopTrainer(
            classifier, lr=lr, seed=seed + number, checkpoint=f"{checkpoint}-{number}.ckpt",
            lr_schedule=lambda progress, number=number: (1 + math.cos(math.pi * (number + progress) / rounds)) / 2,
        ).fit(np.concatenate([x, more.clip(0, 1)]), np.concatenate([y, y[drawn]]), nb_epochs=nb_epochs)  # fmt: skip


def main(
    dataset: Annotated[str, typer.Option(help="a name of `qadv list dataset`, NAME:FOLDER for its folder")] = "digits",
    data_dir: Annotated[Path | None, typer.Option(help="folder with the images")] = None,
    nb_train: Annotated[int, typer.Option(help="training images, the first ones")] = 60_000,
    nb_attacked: Annotated[int, typer.Option(help="attacked test images, the first ones")] = 200,
    nb_epochs: Annotated[int, typer.Option(help="epochs of plain training; none for CIFAR-10's trained network")] = 4,
    nb_adversarial: Annotated[int, typer.Option(help="epochs of adversarial training; 0 leaves it out")] = 2,
    nb_feedback: Annotated[int, typer.Option(help="epochs of feedback learning")] = 4,
    rounds: Annotated[int, typer.Option(help="rounds of feedback learning")] = 2,
    nb_directions: Annotated[int, typer.Option(help="directions per sample")] = 60,
    max_distance: Annotated[float | None, typer.Option(help="how far margins are searched; half the diagonal")] = None,
    control: Annotated[bool, typer.Option(help="add a network trained on normal noise")] = False,
    leave_out: Annotated[list[str] | None, typer.Option(help="attacks to leave out, e.g. 'C&W'")] = None,
    seed: Annotated[int, typer.Option(help="decides everything random")] = 0,
    out: Annotated[Path, typer.Option(help="folder for checkpoints and results")] = Path("feedback-learning"),
) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    np.random.seed(seed)
    data = qadv.create("dataset", dataset, data_dir=data_dir)
    x, y = data.take("train", nb_train)
    eps, lr = EPS.get(dataset, EPS["mnist"]), 0.01 if dataset == "cifar10" else 0.05
    checkpoint = data_folder(data_dir) / "resnet20-cifar10.safetensors" if dataset == "cifar10" else None
    backbone = RESNET20 if checkpoint else {"name": "mnist-cnn", "image_size": data.input_shape[-1], "width": 16}
    original = qadv.QuantizedClassifier.from_backbone(
        **backbone, weights="float", activations="float", input_shape=data.input_shape, nb_classes=len(data.classes),
        checkpoint_path=checkpoint,
    )  # fmt: skip
    stem = f"{data.name}-seed{seed}"
    if dataset != "cifar10":
        LoopTrainer(original, lr=lr, seed=seed, checkpoint=out / f"{stem}-original.ckpt").fit(x, y, None, 64, nb_epochs)

    networks = {"Orig.": original}
    if nb_adversarial:
        networks["Adv."] = adversarial = copy.deepcopy(original)
        qadv.AdversarialQuantTrainer(
            adversarial, "pgd", eps[1], eps_step=eps[1] / 2, max_iter=3, lr=lr, seed=seed,
            checkpoint=out / f"{stem}-adversarial.ckpt",
        ).fit(x, y, nb_epochs=nb_adversarial)  # fmt: skip
    networks["F.L."] = feedback = copy.deepcopy(original)
    samples: Any = tuple(max(1, round(number * len(x) / 60_000)) for number in SAMPLES)
    trainer = qadv.FeedbackTrainer(
        feedback, rounds=rounds, nb_directions=nb_directions, samples_per_class=samples, max_distance=max_distance,
        lr=lr, seed=seed, checkpoint=out / f"{stem}-feedback.ckpt",
    )  # fmt: skip
    trainer.fit(x, y, nb_epochs=nb_feedback)
    if control:
        networks["Noise"] = noisy = copy.deepcopy(original)
        places = trainer.settings.most_images(y, len(data.classes))
        train_on_noise(noisy, x, y, places, trainer.history, lr, seed, out / f"{stem}-noise")

    results = {}
    for name, classifier in networks.items():
        classifier.save(out / f"{stem}-{name.lower().strip('.')}.safetensors")
        three_bit = qadv.PostTrainingQuantization(classifier, "int:3", "float", skip_first_last=False)(x[:1000])
        for bits, network in {"": classifier, " (Q)": three_bit}.items():
            row = results[name + bits] = accuracies(network, data.take("test"), nb_attacked, eps, leave_out or ())
            if len(results) == 1:
                print(f"{'':10}", *(f"{column:>8}" for column in row))
            print(f"{name + bits:10}", *(f"{value:8.1%}" for value in row.values()), flush=True)
    report = {"accuracy": results, "history": trainer.history}
    write_atomically(out / f"{stem}.json", json.dumps(report, indent=1).encode())


if __name__ == "__main__":
    typer.run(main)
