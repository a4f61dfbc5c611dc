"""Error-silenced Quantization against vanilla quantization and adversarial training, 1 and 2 bits (EQ tables 2a, 4).

    python examples/error_silenced.py                                  # digits, a minute
    python examples/error_silenced.py --dataset mnist --data-dir DATA
    python examples/error_silenced.py --dataset cifar10 --data-dir DATA --nb-train 12800

A float network is trained first (on CIFAR-10 it is the trained ResNet-20 of DATA), then quantized while training in
three ways, all with the stochastic schedule: on clean images (V), with EQ's pairing (E), on PGD's images (A). Attacks:
FGSM with 2ε, PGD with ε, step 0.1·ε, 20 steps, and Square with ε, which uses no gradient. `--lambdas` may be given
several times: that is the sweep.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent, SquareAttack
from rich.console import Console
from rich.table import Table
from torch import nn

import qadv
from qadv.datasets import data_folder
from qadv.files import write_atomically

SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {"backbone": "mnist-cnn", "options": {"width": 8}, "eps": 0.1, "epochs": 5, "lr": 0.05},
    "mnist": {"backbone": "mnist-cnn", "options": {"width": 16}, "eps": 0.1, "epochs": 2, "lr": 0.05},
    "cifar10": {"backbone": "resnet20", "options": {}, "eps": 8 / 255, "epochs": 1, "lr": 0.02},
}
COLUMNS = ("clean", "FGSM", "PGD", "Square", "D(logits)")
MEAN_STD = {"cifar10": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])}


def main(
    dataset: Annotated[str, typer.Option(help="a name of `qadv list dataset`, NAME:FOLDER for its folder")] = "digits",
    data_dir: Annotated[Path | None, typer.Option(help="folder with the images, and the float ResNet-20")] = None,
    schemes: Annotated[list[str] | None, typer.Option(help="weight schemes; bwn and twn without it")] = None,
    robust_start: Annotated[bool, typer.Option(help="train the float network with PGD first (AF, AV, AE)")] = False,
    ways: Annotated[str, typer.Option(help="some of V, E, A")] = "VEA",
    lambdas: Annotated[list[float] | None, typer.Option(help="λ of the logits")] = None,
    nb_train: Annotated[int, typer.Option(help="training images, the first ones; 0 for all")] = 0,
    nb_test: Annotated[int, typer.Option(help="attacked images, the first ones")] = 500,
    validation: Annotated[bool, typer.Option(help="attack the last training images instead of test images")] = False,
    seed: Annotated[int, typer.Option(help="decides everything random")] = 0,
    out: Annotated[Path, typer.Option(help="folder for checkpoints and results")] = Path("error-silenced"),
) -> None:
    data, settings = qadv.create("dataset", dataset, data_dir=data_dir), SETTINGS.get(dataset, SETTINGS["mnist"])
    eps, shape, nb_classes = settings["eps"], data.input_shape, len(data.classes)
    x, y = data.take("train" if validation else "test")
    x, y = (x[-nb_test:], y[-nb_test:]) if validation else (x[:nb_test], y[:nb_test])
    nb_train = nb_train or len(data.labels("train")) - (nb_test if validation else 0)
    x_train, y_train = data.take("train", nb_train)
    name = f"{data.name}-{nb_train}-{'robust' if robust_start else 'natural'}-seed{seed}"
    pgd = {"eps": eps, "eps_step": eps / 4, "max_iter": 10}
    fit = {"nb_epochs": settings["epochs"], "batch_size": 64}

    def wrap(model: nn.Module) -> qadv.QuantizedClassifier:
        preprocessing = MEAN_STD.get(dataset, (0.0, 1.0))
        return qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), shape, nb_classes, preprocessing=preprocessing)

    torch.manual_seed(seed)
    start = None if dataset != "cifar10" else data_folder(data_dir) / "resnet20-cifar10.safetensors"
    size = {"image_size": shape[-1]} if settings["backbone"] == "mnist-cnn" else {}
    backbone = qadv.QuantizedClassifier.from_backbone(
        settings["backbone"], "float", "float", input_shape=shape, nb_classes=nb_classes, checkpoint_path=start,
        **size, **settings["options"],
    )  # fmt: skip
    floating = wrap(backbone.model)
    if start is None or robust_start:
        adversary = qadv.Adversary("pgd", **pgd) if robust_start else None
        options = {"lr": settings["lr"], "seed": seed, "checkpoint": out / f"{name}-F.ckpt"}
        trainer = qadv.DefensiveQuantTrainer(floating, beta=0.0, adversary=adversary, **options)
        trainer.fit(x_train, y_train, nb_epochs=2 * settings["epochs"], batch_size=64)

    def quantized(way: str, scheme: str, weight: float) -> tuple[qadv.QuantizedClassifier, list[dict[str, Any]]]:
        classifier = wrap(qadv.quantize(floating.model, f"sq({scheme})", "float"))
        options = {"lr": settings["lr"], "seed": seed, "augment": "crop-flip" if dataset == "cifar10" else None}
        label = f"{name}-{way}-{scheme}" + (f"-{weight:g}" if way == "E" else "")
        options["checkpoint"] = out / f"{label}.ckpt"
        trainer = {
            "V": lambda: qadv.DefensiveQuantTrainer(classifier, beta=0.0, **options),
            "E": lambda: qadv.ErrorSilencedTrainer(classifier, weight, **pgd, **options),
            "A": lambda: qadv.AdversarialQuantTrainer(classifier, "pgd", **pgd, **options),
        }[way]()
        trainer.fit(x_train, y_train, **fit)
        return classifier, trainer.history

    def measure(classifier: qadv.QuantizedClassifier) -> dict[str, Any]:
        attacks = {
            "FGSM": FastGradientMethod(classifier, eps=2 * eps, batch_size=128),
            "Square": SquareAttack(classifier, eps=eps, max_iter=150, nb_restarts=1, batch_size=128, verbose=False),
            "PGD": ProjectedGradientDescent(
                classifier, eps=eps, eps_step=eps / 10, max_iter=20, num_random_init=1, batch_size=128, verbose=False
            ),
        }
        clean = classifier.predict(x)
        found: dict[str, Any] = {"clean": float((clean.argmax(1) == y).mean())}
        for attack_name, attack in attacks.items():
            np.random.seed(seed)
            adversarial = attack.generate(x, y)
            found[attack_name] = float((classifier.predict(adversarial).argmax(1) == y).mean())
        moved = np.linalg.norm(clean - classifier.predict(adversarial), axis=1) / np.linalg.norm(clean, axis=1)
        layers = qadv.error_amplification(classifier, x, adversarial).to_dict()
        return found | {"D(logits)": float(moved.mean()), "D at the input of each layer": layers}

    rows = {"F": measure(floating)}
    for scheme in schemes or ("bwn", "twn"):
        for way in ways:
            for weight in (lambdas or [1.0]) if way == "E" else [0.0]:
                label = f"{way}-{scheme}" + (f" λ={weight:g}" if way == "E" else "")
                classifier, history = quantized(way, scheme, weight)
                rows[label] = measure(classifier)
                report = {"result": rows[label], "history": history}
                write_atomically(out / f"{name}-{label.replace(' ', '-')}.json", json.dumps(report, indent=1).encode())
                print(label, [f"{rows[label][column]:.4f}" for column in COLUMNS], flush=True)
    images = f"{nb_test} {'validation' if validation else 'test'} images"
    table = Table("", *COLUMNS, title=f"{dataset}, {nb_train} training images, {images}, seed {seed}")
    for label, row in rows.items():
        table.add_row(label, *(f"{row[c]:.2f}" if c == "D(logits)" else f"{100 * row[c]:.1f}" for c in COLUMNS))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
