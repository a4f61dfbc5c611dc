"""Feature squeezing, the baseline of Defensive Quantization, attacked through its defences and past them.

    python examples/feature_squeezing.py

A float network, trained on scikit-learn's digits, gets preprocessors; nothing is trained again but for companding,
whose network has to know the scale. PGD goes through each defence, whose gradient is its own, or BPDA's where it
rounds. If a defence masked gradients, images that were made for the bare network (transfer), or without any gradient
(Square), would do more harm than PGD does.
"""

from typing import Annotated

import numpy as np
import torch
import typer
from art.attacks.evasion import ProjectedGradientDescent, SquareAttack
from torch import nn

import qadv

DEFENCES = {
    "none": [],
    "5 bits": [qadv.BitDepthReduction(5)],
    "1 bit": [qadv.BitDepthReduction(1)],
    "2x2 median": [qadv.MedianSmoothing(2)],
    "5 bits, 2x2 median": [qadv.BitDepthReduction(5), qadv.MedianSmoothing(2)],
    "mu 255, 3 bits, expanded": [qadv.MuLawCompanding(255.0, bits=3, expand=True, apply_fit=False)],
    "mu 15, trained": [qadv.MuLawCompanding(15.0)],
}


def train(defences, data, nb_epochs, seed):
    torch.manual_seed(seed)
    classifier = qadv.QuantizedClassifier.from_backbone(
        "mnist-cnn", "float", "float", input_shape=(1, 8, 8), image_size=8, preprocessing_defences=defences
    )
    trainer = qadv.DefensiveQuantTrainer(classifier, beta=0.0, lr=0.05, seed=seed, verbose=False)
    trainer.fit(data.x_train, data.y_train, batch_size=64, nb_epochs=nb_epochs)
    return classifier


def main(
    nb_epochs: Annotated[int, typer.Option(help="epochs of training")] = 10,
    nb_test: Annotated[int, typer.Option(help="attacked test images, the first ones")] = 100,
    queries: Annotated[int, typer.Option(help="queries of Square for each image")] = 100,
    eps: Annotated[float, typer.Option(help="L∞ strength of all attacks")] = 0.1,
    seed: Annotated[int, typer.Option(help="decides everything random")] = 0,
) -> None:
    torch.set_num_threads(1)
    data = qadv.create("dataset", "digits")
    x, y = data.x_test[:nb_test], data.y_test[:nb_test]
    bare = train([], data, nb_epochs, seed)
    pgd = {"eps": eps, "eps_step": eps / 5, "max_iter": 20, "num_random_init": 1, "verbose": False}
    np.random.seed(seed)
    transferred = ProjectedGradientDescent(bare, **pgd).generate(x, y)

    print(f"{'':26}", *(f"{column:>9}" for column in ("clean", "PGD", "transfer", "Square")))
    for name, defences in DEFENCES.items():
        if name.endswith("trained"):
            classifier = train(defences, data, nb_epochs, seed)
        else:
            classifier = qadv.QuantizedClassifier(
                bare.model, nn.CrossEntropyLoss(), (1, 8, 8), 10, preprocessing_defences=defences
            )
        np.random.seed(seed)
        through = ProjectedGradientDescent(classifier, **pgd).generate(x, y)
        np.random.seed(seed)
        square = SquareAttack(classifier, eps=eps, max_iter=queries, verbose=False).generate(x, y)
        correct = [(classifier.predict(images).argmax(1) == y).mean() for images in (x, through, transferred, square)]
        print(f"{name:26}", *(f"{share:9.1%}" for share in correct), flush=True)


if __name__ == "__main__":
    typer.run(main)
