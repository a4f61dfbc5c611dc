"""Where in a quantization pipeline does robustness come from? The pipeline study's grid (docs/methods.md §6).

    python examples/quantization_pipelines.py                                  # digits, a minute or two
    python examples/quantization_pipelines.py --dataset mnist --data-dir DATA --nb-train 5000
    python examples/quantization_pipelines.py --dataset cifar10 --data-dir DATA --nb-train 12800 --bits 4

A float network, trained naturally or adversarially, is quantized after training (PWLQ weights, calibrated activations)
or while it is fine-tuned (DoReFa weights, PACT activations), naturally or adversarially, on all or `--share` of the
images; weights, activations, or both. Each cell is a file in `--out` and is not computed twice. Square is a black-box
attack, and *transfer* are PGD's images of the float start: a network that PGD breaks less often than one of these does
not resist, it hides its gradient.
"""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent, SquareAttack
from rich.console import Console
from rich.table import Table

import qadv
from qadv.datasets import data_folder
from qadv.files import write_atomically

SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {"backbone": "mnist-cnn", "width": 8, "eps": 0.1, "epochs": 8, "tune": 2, "lr": 0.05},
    "mnist": {"backbone": "mnist-cnn", "width": 16, "eps": 0.1, "epochs": 3, "tune": 1, "lr": 0.05},
    "cifar10": {"backbone": "resnet20", "eps": 4 / 255, "epochs": 1, "tune": 1, "lr": 0.01},
}
MEAN_STD = {"cifar10": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])}
WHAT = ("weights", "activations", "both")
COLUMNS = ("clean", "FGSM", "PGD", "transfer", "Square", "seconds")


def main(
    dataset: Annotated[str, typer.Option(help="a name of `qadv list dataset`, NAME:FOLDER for its folder")] = "digits",
    data_dir: Annotated[Path | None, typer.Option(help="folder with the images, and the float ResNet-20")] = None,
    bits: Annotated[list[int] | None, typer.Option(help="bits; 2 and 4 without it")] = None,
    nb_train: Annotated[int, typer.Option(help="training images, the first ones; 0 for all")] = 0,
    share: Annotated[float, typer.Option(help="share of them that fine-tuning sees")] = 1.0,
    nb_test: Annotated[int, typer.Option(help="attacked test images, the first ones")] = 300,
    seed: Annotated[int, typer.Option(help="decides everything random")] = 0,
    out: Annotated[Path, typer.Option(help="folder for networks and results")] = Path("quantization-pipelines"),
) -> None:
    settings = dict(SETTINGS.get(dataset, SETTINGS["mnist"]))
    backbone, eps, epochs, tune, lr = (settings.pop(key) for key in ("backbone", "eps", "epochs", "tune", "lr"))
    data, data_dir = qadv.create("dataset", dataset, data_dir=data_dir), data_folder(data_dir)
    x_train, y_train = data.take("train", nb_train or None)
    x, y = data.take("test", nb_test)
    common = {"input_shape": data.input_shape, "nb_classes": len(data.classes), **settings}
    common["preprocessing"] = MEAN_STD.get(dataset, (0.0, 1.0))
    if backbone == "mnist-cnn":
        common["image_size"] = data.input_shape[-1]
    adversary = qadv.Adversary("pgd", eps=eps, max_iter=5)
    options: dict[str, Any] = {"seed": seed, "augment": "crop-flip" if dataset == "cifar10" else None}
    prefix = f"{data.name}-{len(x_train)}-seed{seed}"

    def train(classifier: Any, robust: bool, nb_epochs: int, nb_images: int, rate: float) -> float:
        started = time.perf_counter()
        trainer = qadv.DefensiveQuantTrainer(
            classifier, beta=0.0, adversary=adversary if robust else None, lr=rate, verbose=False, **options
        )
        trainer.fit(x_train[:nb_images], y_train[:nb_images], nb_epochs=nb_epochs, batch_size=64)
        return time.perf_counter() - started

    def start(robust: bool) -> tuple[Path, float]:
        """The float network's file, trained if it is not there yet, and the seconds that took."""
        path = out / f"{prefix}-start-{'robust' if robust else 'natural'}.safetensors"
        note = path.with_suffix(".json")
        if not note.exists():
            torch.manual_seed(seed)
            given = data_dir / "resnet20-cifar10.safetensors" if dataset == "cifar10" else None
            network = qadv.QuantizedClassifier.from_backbone(
                backbone, "float", "float", checkpoint_path=given, **common
            )
            took = (
                0.0 if given and not robust else train(network, robust, epochs, len(x_train), 2 * lr if given else lr)
            )
            network.save(path)
            write_atomically(note, json.dumps(took).encode())
        return path, json.loads(note.read_text())

    def pgd(classifier: Any) -> Any:
        np.random.seed(seed)
        attack = ProjectedGradientDescent(
            classifier, eps=eps, eps_step=eps / 5, max_iter=20, num_random_init=1, batch_size=128, verbose=False
        )
        return attack.generate(x, y)

    def measure(classifier: Any, transferred: Any) -> dict[str, float]:
        square = SquareAttack(classifier, eps=eps, max_iter=150, nb_restarts=1, batch_size=128, verbose=False)
        images = {
            "clean": x,
            "FGSM": FastGradientMethod(classifier, eps=eps, batch_size=128).generate(x, y),
            "PGD": pgd(classifier),
            "transfer": transferred,
        }
        np.random.seed(seed)
        images["Square"] = square.generate(x, y)
        return {name: float((classifier.predict(made).argmax(1) == y).mean()) for name, made in images.items()}

    def quantized(path: Path, after: bool, what: str, k: int) -> Any:
        network = qadv.QuantizedClassifier.load(path)
        weights = "float" if what == "activations" else f"pwlq:{k}" if after else f"dorefa:{k}"
        activations = "float" if what == "weights" else f"relu:{k}" if after else f"pact:{k}"
        make = qadv.PostTrainingQuantization(network, weights, activations, calibration=x_train[:512])
        return make()

    rows: dict[str, dict[str, float]] = {}

    def cell(label: str, compute: Any, transferred: Any) -> None:
        path = out / f"{prefix}-{label.replace(', ', '-').replace(' ', '')}.json"
        if not path.exists():
            classifier, seconds = compute()
            write_atomically(path, json.dumps(measure(classifier, transferred) | {"seconds": seconds}).encode())
        rows[label] = json.loads(path.read_text())
        print(label, [round(rows[label][column], 3) for column in COLUMNS], flush=True)

    for robust in (False, True):
        path, seconds = start(robust)
        name = "robust start" if robust else "natural start"
        made = pgd(qadv.QuantizedClassifier.load(path))
        cell(f"{name}, float", lambda path=path, seconds=seconds: (qadv.QuantizedClassifier.load(path), seconds), made)
        for k in bits or (2, 4):
            for what in WHAT:
                label = f"{name}, after training, {what} {k}"
                cell(label, lambda p=path, w=what, k=k: (quantized(p, True, w, k), 0.0), made)
                for robust_tuning in (False, True):

                    def tuned(p: Path = path, w: str = what, k: int = k, r: bool = robust_tuning) -> Any:
                        classifier = quantized(p, False, w, k)
                        return classifier, train(classifier, r, tune, round(share * len(x_train)), lr / 2)

                    kind = "robust" if robust_tuning else "natural"
                    part = "" if share == 1 else f" on {100 * share:g} %"
                    cell(f"{name}, {kind} tuning{part}, {what} {k}", tuned, made)

    table = Table("", *COLUMNS, title=f"{dataset}, {len(x_train)} training and {len(x)} test images, seed {seed}")
    for label, row in rows.items():
        table.add_row(label, *(f"{row[c]:.0f}" if c == "seconds" else f"{100 * row[c]:.1f}" for c in COLUMNS))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
