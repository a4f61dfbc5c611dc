"""PGD, ART's AutoAttack and the official one on three networks: what each leaves, and what it costs.

    python examples/strength.py --data-dir DATA [--network cifar10-4bit] [--nb-samples 50] [--seed 0]

DATA holds CIFAR-10 and MNIST as .npz files and resnet20-cifar10.safetensors. The first test images are attacked:

- "cifar10-4bit": the trained ResNet-20, quantized to int:4 and relu6:4, calibrated with 512 images; ε = 1/255;
- "mnist-pgd-4bit": a 4-bit network trained on PGD's images (ε = 0.2), one epoch on 20,000 images; ε = 0.2;
- "cifar10-mu-law": the same ResNet-20, float, its last three layers mapped by the μ-law (μ = 255); ε = 8/255.

What is left is the share of all images that the classifier still gets right when it is asked once more, all at once.
"""

import time
from pathlib import Path
from typing import Annotated, Any

import art.attacks.evasion as art
import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

import qadv

MEAN_STD = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
EPS = {"cifar10-4bit": 1 / 255, "mnist-pgd-4bit": 0.2, "cifar10-mu-law": 8 / 255}


class Rows:
    """Counts the images that go through a network, and those that come back as gradients."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.forward = self.backward = 0
        model.register_forward_hook(self._count)

    def _count(self, module: Any, inputs: Any, output: torch.Tensor) -> None:
        self.forward += len(output)
        if output.requires_grad:
            output.register_hook(self._count_backward)

    def _count_backward(self, gradient: torch.Tensor) -> None:
        self.backward += len(gradient)

    def reset(self) -> None:
        self.forward = self.backward = 0


def network(name: str, data_dir: Path, seed: int) -> tuple[Any, Any]:
    """Returns a classifier and its images."""
    torch.manual_seed(seed)
    if name == "mnist-pgd-4bit":
        data = qadv.create("dataset", "mnist", data_dir=data_dir)
        classifier = qadv.QuantizedClassifier.from_backbone("mnist-cnn", input_shape=(1, 28, 28), width=16)
        trainer = qadv.AdversarialQuantTrainer(classifier, "pgd", eps=0.2, max_iter=7, lr=0.05, seed=seed)
        trainer.fit(data.x_train[:20_000], data.y_train[:20_000], nb_epochs=1, batch_size=64)
        return classifier, data
    data = qadv.create("dataset", "cifar10", data_dir=data_dir)
    schemes = {"weights": "float", "activations": "float"} if name == "cifar10-mu-law" else {}
    classifier = qadv.QuantizedClassifier.from_backbone(
        "resnet20",
        checkpoint_path=data_dir / "resnet20-cifar10.safetensors",
        preprocessing=MEAN_STD,
        calibration=None if schemes else data.x_train[:512],
        **schemes,
    )
    if name == "cifar10-mu-law":
        classifier = qadv.MuLawWeightMapping(classifier, mu=255, layers="last:3")()
    return classifier, data


def attacks(classifier: Any, eps: float, seed: int) -> dict[str, Any]:
    quiet = {"verbose": False}
    return {
        "PGD-40": art.ProjectedGradientDescent(
            classifier, eps=eps, eps_step=eps / 10, max_iter=40, num_random_init=1, batch_size=128, **quiet
        ),
        "ART's AutoAttack": art.AutoAttack(classifier, eps=eps, eps_step=eps / 4, batch_size=128),
        "official": qadv.create("attack", "autoattack", classifier, eps=eps, seed=seed, **quiet),
    }


def main(
    data_dir: Annotated[Path, typer.Option(help="folder with the images and the float ResNet-20")],
    network_name: Annotated[list[str] | None, typer.Option("--network", help="networks; all without it")] = None,
    nb_samples: Annotated[int, typer.Option(help="images attacked")] = 50,
    seed: Annotated[int, typer.Option(help="decides everything random")] = 0,
) -> None:
    torch.set_num_threads(1)
    table = Table("network", "attack", "clean, %", "left, %", "rows forward", "backward", "seconds", "by part")
    for name in network_name or list(EPS):
        classifier, data = network(name, data_dir, seed)
        x, y = data.x_test[:nb_samples], data.y_test[:nb_samples]
        clean = (classifier.predict(x).argmax(1) == y).mean()
        rows = Rows(classifier.model)
        for title, attack in attacks(classifier, EPS[name], seed).items():
            np.random.seed(seed)
            torch.manual_seed(seed)
            rows.reset()
            started = time.process_time()
            adversarial = attack.generate(x, y)
            took = time.process_time() - started
            cost = f"{rows.forward:,}", f"{rows.backward:,}", f"{took:.0f}"
            left = (classifier.predict(adversarial).argmax(1) == y).mean()
            far = np.abs(adversarial - x).max()
            assert far <= EPS[name] * (1 + 1e-4), far
            parts = getattr(attack, "robust_accuracy", {})
            by_part = ", ".join(f"{part} {100 * share:.3g}" for part, share in parts.items() if part != "clean")
            table.add_row(name, title, f"{100 * clean:.3g}", f"{100 * left:.3g}", *cost, by_part)
            print(name, title, f"{100 * left:.3g} %, {took:.0f} s", by_part, getattr(attack, "flags", ""), flush=True)
    Console(width=150).print(table)


if __name__ == "__main__":
    typer.run(main)
