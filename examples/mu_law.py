"""μ-law mapping of the last layers, with and without 3-bit weights, under ART's attacks: tables 1 and 3 of the study.

    python examples/mu_law.py                                        # scikit-learn's digits, a minute
    python examples/mu_law.py --dataset mnist --data-dir DATA
    python examples/mu_law.py --dataset cifar10 --data-dir DATA --mu 3 --mu 255 --nb-test 500
    python examples/mu_law.py --dataset mnist --data-dir DATA --split validation --mu 1 --mu 3 --mu 10 ... --quick

Q is post-training quantization of all weights to 3 bits, first and last layer included: with these float, as papers often
have them, the mapped layer would never be quantized. The columns behind the bar check for masked gradients: they ask no
gradient of the mapped network, or one that the size of its logits does not change.
"""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from art.attacks.evasion import (
    AutoProjectedGradientDescent,
    BasicIterativeMethod,
    CarliniL2Method,
    FastGradientMethod,
    MomentumIterativeMethod,
    ProjectedGradientDescent,
    SquareAttack,
)

import qadv
from qadv.evaluation import attack_classifier
from qadv.files import write_atomically

STRENGTHS = {"digits": (0.05, 0.1, 0.2), "mnist": (0.05, 0.1, 0.2), "cifar10": (1 / 255, 2 / 255, 8 / 255)}
EPOCHS = {"digits": 10, "mnist": 3}
HELD_OUT = {"digits": 200, "mnist": 5000, "cifar10": 5000}  # the last training images, which the CIFAR-10 network has seen
SLOW = ("C&W L2", "Square")
MEDIUM = ("FGSM m", "PGD", "BIM", "MIM", "APGD-DLR", "Square")  # all of one L∞ strength: together they give the worst case
MEAN_STD = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def float_classifier(dataset, data, data_dir, seed):
    if dataset == "cifar10":
        return qadv.QuantizedClassifier.from_backbone(
            "resnet20",
            weights="float",
            activations="float",
            checkpoint_path=data_dir / "resnet20-cifar10.safetensors",
            preprocessing=MEAN_STD,
        )
    torch.manual_seed(seed)
    classifier = qadv.QuantizedClassifier.from_backbone(
        "mnist-cnn",
        weights="float",
        activations="float",
        input_shape=data.input_shape,
        image_size=data.input_shape[-1],
    )
    trainer = qadv.DefensiveQuantTrainer(classifier, beta=0.0, lr=0.05, seed=seed, verbose=False)
    held_out = HELD_OUT[dataset]
    trainer.fit(data.x_train[:-held_out], data.y_train[:-held_out], batch_size=64, nb_epochs=EPOCHS[dataset])
    return classifier


def attacks(classifier, strengths, quick):
    weak, medium, strong = strengths
    iterated = {"eps": medium, "eps_step": medium / 4, "batch_size": 128, "verbose": False}
    found = {
        "FGSM w": FastGradientMethod(classifier, eps=weak, batch_size=128),
        "FGSM m": FastGradientMethod(classifier, eps=medium, batch_size=128),
        "FGSM s": FastGradientMethod(classifier, eps=strong, batch_size=128),
        "PGD": ProjectedGradientDescent(classifier, max_iter=10, num_random_init=1, **iterated),
    }
    if not quick:
        found |= {
            "BIM": BasicIterativeMethod(classifier, max_iter=10, **iterated),
            "MIM": MomentumIterativeMethod(classifier, max_iter=10, **iterated),
            "C&W L2": CarliniL2Method(classifier, max_iter=20, binary_search_steps=4, batch_size=128, verbose=False),
            "normal": qadv.GaussianNoise(classifier, std=strong, seed=0, verbose=False),
            "uniform": qadv.UniformNoise(classifier, eps=strong, seed=0, verbose=False),
        }
    found["APGD-DLR"] = AutoProjectedGradientDescent(
        classifier, eps=medium, eps_step=2 * medium, max_iter=10, nb_random_init=1, batch_size=128,
        loss_type="difference_logits_ratio", verbose=False,
    )  # fmt: skip
    if not quick:
        found["Square"] = SquareAttack(classifier, eps=medium, max_iter=300, batch_size=128, verbose=False)
    return found


def main(
    dataset: Annotated[str, typer.Option(help="digits, mnist or cifar10")] = "digits",
    data_dir: Annotated[Path | None, typer.Option(help="folder with the images, for the latter two")] = None,
    mu: Annotated[list[float], typer.Option(help="μ, several times for several")] = [3.0, 255.0],  # noqa: B006
    layers: Annotated[list[str], typer.Option(help="mapped layers, likewise")] = ["last", "last:3"],  # noqa: B006
    bits: Annotated[list[str], typer.Option(help="weight schemes, likewise")] = ["float", "int:3"],  # noqa: B006
    split: Annotated[str, typer.Option(help="test, or validation: training images held out")] = "test",
    nb_test: Annotated[int, typer.Option(help="attacked images, the first ones")] = 200,
    nb_slow: Annotated[int, typer.Option(help="of them for C&W and Square")] = 100,
    quick: Annotated[bool, typer.Option(help="only FGSM, PGD and APGD-DLR")] = False,
    seed: Annotated[int, typer.Option(help="decides everything random")] = 0,
    out: Annotated[Path, typer.Option(help="folder for the results")] = Path("mu-law"),
) -> None:
    torch.set_num_threads(1)
    data = qadv.create("dataset", dataset, data_dir=data_dir)
    held_out = HELD_OUT[dataset]
    x, y = (data.x_test, data.y_test) if split == "test" else (data.x_train[-held_out:], data.y_train[-held_out:])
    calibration = data.x_train[:512]
    original = float_classifier(dataset, data, data_dir, seed)

    np.random.seed(seed)
    source = attacks(original, STRENGTHS[dataset], quick)["PGD"].generate(x[:nb_test], y[:nb_test])
    mapped = {"Orig": original}
    for chosen in layers:
        for value in mu:
            mapped[f"{chosen}, μ {value:g}"] = qadv.MuLawWeightMapping(original, mu=value, layers=chosen)(calibration)

    table = {}
    for label, classifier in mapped.items():
        for scheme in bits:
            if scheme != "float":
                quantize = qadv.PostTrainingQuantization(classifier, scheme, "float", skip_first_last=False)
                classifier = quantize(calibration)
            name = label if scheme == "float" else f"{label} ({scheme})"
            row = {"clean": accuracy(classifier, x, y), "transfer": accuracy(classifier, source, y[:nb_test])}
            withstood = classifier.predict(source).argmax(1) == y[:nb_test]
            for attack_name, attack in attacks(classifier, STRENGTHS[dataset], quick).items():
                np.random.seed(seed)
                number = nb_slow if attack_name in SLOW else nb_test
                result, adversarial = attack_classifier(attack_name, attack, classifier, x[:number], y[:number])
                row[attack_name] = 100 * result.adversarial_accuracy
                if attack_name == "C&W L2":
                    row["its L2"] = result.mean_l2
                elif attack_name in MEDIUM:
                    withstood[:number] &= classifier.predict(adversarial).argmax(1) == y[:number]
            row["worst m"] = 100 * float(withstood.mean())
            gradients = classifier.loss_gradient(x[:nb_test], y[:nb_test])
            row["no gradient"] = 100 * float((gradients == 0).reshape(nb_test, -1).all(1).mean())
            table[name] = row
            if len(table) == 1:
                print(f"{'':24}", *(f"{column:>11}" for column in row))
            cells = (f"{value:11.2f}" if value is not None else f"{'–':>11}" for value in row.values())
            print(f"{name:24}", *cells, flush=True)
    settings = {"dataset": dataset, "split": split, "nb_test": nb_test, "nb_slow": nb_slow, "seed": seed}
    write_atomically(out / f"{dataset}-{split}-seed{seed}.json", json.dumps([settings, table], indent=1).encode())


def accuracy(classifier, x, y):
    return 100 * float((classifier.predict(x, batch_size=500).argmax(1) == y).mean())


if __name__ == "__main__":
    typer.run(main)
