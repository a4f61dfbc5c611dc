"""PGD, ART's AutoAttack and the official one on three networks: what each leaves, and what it costs.

    python examples/strength.py --network digits-pgd-4bit --nb-test 50 --nb-queries 1000
    python examples/strength.py --network cifar10-mu-law --nb-test 50 --data-dir DATA
    python examples/strength.py --network cifar10-4bit --nb-queries 500 --data-dir DATA

DATA holds CIFAR-10 as .npz files and resnet20-cifar10.safetensors. The first test images are attacked:

- "cifar10-4bit": the trained ResNet-20, quantized to int:4 and relu6:4, calibrated with 512 images; ε = 1.5/255;
- "digits-pgd-4bit": a 4-bit network for scikit-learn's digits, trained on PGD images of ε = 0.1, 20 epochs; ε = 0.1;
- "cifar10-mu-law": the same ResNet-20, float, its last three layers mapped by the μ-law (μ = 255); ε = 8/255.

What is left is the share of all images that the classifier still gets right when it is asked once more, all at once.
`--nb-queries` cuts both Square attacks down, ART's to one run, where 5,000 (ART: 5 × 5,000) are too slow.
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
EPS = {"cifar10-4bit": 1.5 / 255, "digits-pgd-4bit": 0.1, "cifar10-mu-law": 8 / 255}


class Rows:
    """Counts the images that go through a network, and those that come back as gradients."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.forward = self.backward = 0
        *_, last = model.children()  # ART calls the parts of an `nn.Sequential` one by one
        last.register_forward_hook(self._count)

    def _count(self, module: Any, inputs: Any, output: torch.Tensor) -> None:
        self.forward += len(output)
        if output.requires_grad:
            output.register_hook(self._count_backward)

    def _count_backward(self, gradient: torch.Tensor) -> None:
        self.backward += len(gradient)

    def reset(self) -> None:
        self.forward = self.backward = 0


def network(name: str, data_dir: Path | None, seed: int) -> tuple[Any, Any]:
    """Returns a classifier and its images."""
    torch.manual_seed(seed)
    if name == "digits-pgd-4bit":
        data = qadv.create("dataset", "digits")
        classifier = qadv.QuantizedClassifier.from_backbone("mnist-cnn", input_shape=(1, 8, 8), image_size=8, width=8)
        trainer = qadv.AdversarialQuantTrainer(classifier, "pgd", eps=0.1, max_iter=5, lr=0.05, verbose=False)
        trainer.fit(data.x_train, data.y_train, nb_epochs=20, batch_size=64)
        return classifier, data
    if data_dir is None:
        raise typer.BadParameter(f"{name} needs --data-dir")
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


def attacks(classifier: Any, eps: float, seed: int, nb_queries: int | None) -> dict[str, Any]:
    quiet = {"verbose": False}
    arts = art.AutoAttack(classifier, eps=eps, eps_step=eps / 4, batch_size=128)
    fewer = {}
    if nb_queries is not None:
        arts.attacks[-1].set_params(max_iter=nb_queries, nb_restarts=1)
        fewer["nb_queries"] = nb_queries
    return {
        "PGD-40": art.ProjectedGradientDescent(
            classifier, eps=eps, eps_step=eps / 10, max_iter=40, num_random_init=1, batch_size=128, **quiet
        ),
        "ART's AutoAttack": arts,
        "official": qadv.create("attack", "autoattack", classifier, eps=eps, seed=seed, **fewer, **quiet),
    }


def main(
    network_name: Annotated[list[str] | None, typer.Option("--network", help="networks; all without it")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="folder with CIFAR-10 and the float ResNet-20")] = None,
    nb_test: Annotated[int, typer.Option(help="images attacked")] = 25,
    nb_queries: Annotated[int | None, typer.Option(help="of both Square attacks, for each image")] = None,
    seed: Annotated[int, typer.Option(help="decides everything random")] = 0,
) -> None:
    torch.set_num_threads(1)
    table = Table("network", "attack", "clean, %", "left, %", "rows forward", "backward", "seconds", "by part")
    for name in network_name or list(EPS):
        classifier, data = network(name, data_dir, seed)
        x, y = data.x_test[:nb_test], data.y_test[:nb_test]
        clean = (classifier.predict(x).argmax(1) == y).mean()
        rows = Rows(classifier.model)
        for title, attack in attacks(classifier, EPS[name], seed, nb_queries).items():
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
            if (
                best := getattr(attack, "best_attacks", None)
            ) is not None:  # ART's: the index of the attack, -1 for none
                names = ("apgd-ce", "apgd-dlr", "deepfool", "square")
                parts = {part: clean - ((best >= 0) & (best <= i)).mean() for i, part in enumerate(names)}
            by_part = ", ".join(f"{part} {100 * share:.3g}" for part, share in parts.items() if part != "clean")
            table.add_row(name, title, f"{100 * clean:.3g}", f"{100 * left:.3g}", *cost, by_part)
            print(name, title, f"{100 * left:.3g} %, {took:.0f} s", by_part, getattr(attack, "flags", ""), flush=True)
    Console(width=150).print(table)


if __name__ == "__main__":
    typer.run(main)
