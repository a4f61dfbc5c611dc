"""Mixed precision by layer-name pattern: a timm network with 8 bit in the stem and the head and 4 bit elsewhere.

    python examples/mixed_precision.py [--backbone resnet10t] [--nb-epochs 6]

Trains it on scikit-learn's digits beside the same network with 4 bit everywhere, attacks both with PGD, and exports the
first as a packed file. `print(network)` shows the layer names that patterns are written for.
"""

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from art.attacks.evasion import ProjectedGradientDescent

import qadv

SETTINGS: dict[str, Any] = {
    "8 bit stem and head": (
        {"*": "int:4", "conv1*": "int:8", "fc": "int:8"},
        {"*": "relu6:4", "conv1*": "relu6:8", "act1": "relu6:8"},
    ),
    "4 bit everywhere": ({"*": "int:4", "conv1*": "int:4", "fc": "int:4"}, "relu6:4"),
}


def main(
    backbone: Annotated[str, typer.Option(help="a timm network with a stem conv1 and a head fc")] = "resnet10t",
    nb_epochs: Annotated[int, typer.Option(help="epochs of training")] = 6,
    seed: Annotated[int, typer.Option(help="decides everything random")] = 0,
    out: Annotated[Path, typer.Option(help="folder for the packed file")] = Path("mixed-precision"),
) -> None:
    torch.set_num_threads(1)  # such small images don't pay for more
    data = qadv.create("dataset", "digits")
    for label, (weights, activations) in SETTINGS.items():
        torch.manual_seed(seed)
        classifier = qadv.QuantizedClassifier.from_backbone(
            backbone, weights=weights, activations=activations, input_shape=(1, 8, 8), preprocessing=(0.3, 0.4)
        )
        trainer = qadv.DefensiveQuantTrainer(classifier, beta=0.0, lr=0.05, seed=seed)
        trainer.fit(data.x_train, data.y_train, batch_size=64, nb_epochs=nb_epochs)

        attack = ProjectedGradientDescent(classifier, eps=0.1, eps_step=0.02, max_iter=10, verbose=False)
        attacked = attack.generate(data.x_test, data.y_test)
        clean, robust = ((classifier.predict(x).argmax(1) == data.y_test).mean() for x in (data.x_test, attacked))
        if label.startswith("8"):
            print(qadv.summarize(classifier))
            result = qadv.export(classifier, out / f"{backbone}.packed.safetensors")
            print(f"{result.path.name}: {result.file_bytes:,} of {result.float_bytes:,} bytes")
        print(f"{label}: {clean:.1%} clean, {robust:.1%} under PGD at eps 0.1")


if __name__ == "__main__":
    typer.run(main)
