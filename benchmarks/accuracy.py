"""Accuracy of ResNet-20 on CIFAR-10 for weight schemes × activation bits: after calibration, and after fine-tuning.

    python benchmarks/accuracy.py --data-dir DATA [--weights int:4] [--activations relu:4] [--no-correct | --fine-tune]

DATA holds CIFAR-10 as .npz files and resnet20-cifar10.safetensors. Calibration takes 1,024 training images;
`--no-correct` leaves BatchNorm and biases alone and only chooses ranges; fine-tuning goes on from the calibrated
network with `--nb-train` training images for one epoch (learning rate 0.01 to 0, cosine, crops and flips). Accuracy is
on the whole test set. Each cell is a file in `--out` and is not measured twice; the table at the end has all cells
found there.
"""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

import qadv
from qadv.datasets import Images
from qadv.files import write_atomically

MEAN_STD = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
WEIGHTS = ["float", "int:8", "int:4", "int:3", "int:2", "int-per-tensor:4", "pwlq:4", "pwlq:3", "pwlq:2"]
WEIGHTS += ["dorefa:4", "dorefa:2", "bwn", "twn", "binary-connect"]
TRAINED = [*WEIGHTS, "sq(bwn)", "sq(twn)", "sq-inverse(bwn)", "sq-inverse(twn)"]
ACTIVATIONS = ["float", "relu:4", "relu:2", "relu:1"]


def measure(data: Images, net: Path, weights: str, activations: str, kind: str, nb_train: int, seed: int) -> float:
    torch.manual_seed(seed)
    order = np.random.default_rng(seed).permutation(len(data.x_train))
    correct = kind != "uncorrected"
    floating = weights == activations == "float"
    classifier = qadv.QuantizedClassifier.from_backbone(
        "resnet20",
        weights=weights,
        activations=activations,
        checkpoint_path=net,
        preprocessing=MEAN_STD,
        calibration=None
        if floating
        else qadv.Calibration(data.x_train[order[:1024]], ranges="mse", batch_norm=correct, bias_correction=correct),
    )
    if kind.startswith("fine-tuned"):
        trainer = qadv.DefensiveQuantTrainer(
            classifier, beta=0.0, lr=0.01, augment="crop-flip", seed=seed, verbose=False
        )
        trainer.fit(data.x_train[order[:nb_train]], data.y_train[order[:nb_train]], nb_epochs=1)
    return float((classifier.predict(data.x_test, batch_size=500).argmax(1) == data.y_test).mean())


def main(
    data_dir: Annotated[Path, typer.Option(help="folder with CIFAR-10 and the float network")],
    weights: Annotated[list[str] | None, typer.Option(help="weight schemes; all without it")] = None,
    activations: Annotated[list[str] | None, typer.Option(help="activation schemes; all without it")] = None,
    fine_tune: Annotated[bool, typer.Option(help="fine-tune after calibrating")] = False,
    nb_train: Annotated[int, typer.Option(help="training images for fine-tuning")] = 12_800,
    correct: Annotated[bool, typer.Option(help="re-estimate BatchNorm and correct biases")] = True,
    seed: Annotated[int, typer.Option(help="decides everything random")] = 0,
    out: Annotated[Path, typer.Option(help="folder for the results")] = Path("accuracy"),
) -> None:
    data = qadv.create("dataset", "cifar10", data_dir=data_dir)
    kind = f"fine-tuned-{nb_train}" if fine_tune else "calibrated" if correct else "uncorrected"
    for w in weights or (TRAINED if fine_tune else WEIGHTS):
        for a in activations or ACTIVATIONS:
            path = out / f"{kind}_{w}_{a}_seed{seed}.json"
            if not path.exists():
                accuracy = measure(data, data_dir / "resnet20-cifar10.safetensors", w, a, kind, nb_train, seed)
                cell = {"kind": kind, "weights": w, "activations": a, "seed": seed, "accuracy": accuracy}
                write_atomically(path, json.dumps(cell).encode())
                print(f"{kind} {w} {a}: {100 * accuracy:.2f}", flush=True)

    cells = [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]
    for kind in sorted({cell["kind"] for cell in cells if cell["seed"] == seed}):
        found = {
            (c["weights"], c["activations"]): c["accuracy"] for c in cells if (c["kind"], c["seed"]) == (kind, seed)
        }
        rows, columns = (list(dict.fromkeys(names)) for names in zip(*found, strict=True))
        table = Table("weights", *columns, title=f"{kind}, accuracy in % on the whole test set, seed {seed}")
        for w in rows:
            table.add_row(w, *(f"{100 * found[w, a]:.2f}" if (w, a) in found else "–" for a in columns))
        Console().print(table)


if __name__ == "__main__":
    typer.run(main)
