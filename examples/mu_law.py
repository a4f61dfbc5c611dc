"""μ-law mapping of the last layers, with and without 3-bit weights, under ART's attacks: tables 1 and 3 of the study.

    python examples/mu_law.py                                            # scikit-learn's digits
    python examples/mu_law.py --dataset mnist --data-dir DATA
    python examples/mu_law.py --dataset cifar10 --data-dir DATA --mapping none --mapping last@255 --nb-test 500
    python examples/mu_law.py --dataset mnist --data-dir DATA --split validation --quick --mapping last@1 --mapping
    last@3

`last:3@255` maps the last three layers with μ = 255. `int:3` is post-training quantization of all weights to 3 bits,
first and last layer included: with these float, as papers often have them, the mapped layer would never be quantized.
The last columns check for masked gradients. Rows that the results' file has already are not measured again.
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
from qadv.datasets import data_folder
from qadv.evaluation import attack_classifier
from qadv.files import write_atomically

STRENGTHS = {"digits": (0.05, 0.1, 0.2), "mnist": (0.05, 0.1, 0.2), "cifar10": (1 / 255, 2 / 255, 8 / 255)}
EPOCHS = {"digits": 10, "mnist": 3}
HELD_OUT = {"digits": 200, "mnist": 5000, "cifar10": 5000}  # the last training images; CIFAR-10's network has seen them
MEAN_STD = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
NB_CLEAN = 2000
SLOW = ("C&W L2", "Square")
MEDIUM = ("FGSM m", "PGD", "BIM", "MIM", "APGD-DLR")  # one L∞ strength: with transfer, the worst case of it
MAPPINGS = ["none", "last@3", "last@255", "last:3@255"]


def held_out(dataset, data):
    """Where among the training images those of validation are: a tenth of another data set's."""
    number = len(data.labels("train"))
    return slice(number - HELD_OUT.get(dataset, number // 10), None)


def float_classifier(dataset, data, data_dir, seed, path):
    if dataset == "cifar10":
        return qadv.QuantizedClassifier.from_backbone(
            "resnet20",
            weights="float",
            activations="float",
            checkpoint_path=data_dir / "resnet20-cifar10.safetensors",
            preprocessing=MEAN_STD,
        )
    if path.exists():
        return qadv.QuantizedClassifier.load(path)
    torch.manual_seed(seed)
    classifier = qadv.QuantizedClassifier.from_backbone(
        "mnist-cnn", "float", "float", input_shape=data.input_shape, nb_classes=len(data.classes),
        image_size=data.input_shape[-1],
    )  # fmt: skip
    trainer = qadv.DefensiveQuantTrainer(classifier, beta=0.0, lr=0.05, seed=seed, verbose=False)
    x, y = data.take("train", held_out(dataset, data).start)
    trainer.fit(x, y, batch_size=64, nb_epochs=EPOCHS.get(dataset, 3))
    classifier.save(path)
    return classifier


def attacks(classifier, strengths, quick):
    weak, medium, strong = strengths
    iterated = {"eps": medium, "eps_step": medium / 4, "batch_size": 128, "verbose": False}
    found = {
        "FGSM w": FastGradientMethod(classifier, eps=weak, batch_size=128),
        "FGSM m": FastGradientMethod(classifier, eps=medium, batch_size=128),
        "FGSM s": FastGradientMethod(classifier, eps=strong, batch_size=128),
        "PGD": ProjectedGradientDescent(classifier, max_iter=10, num_random_init=1, **iterated),
        "normal": qadv.GaussianNoise(classifier, std=strong, seed=0, verbose=False),
        "uniform": qadv.UniformNoise(classifier, eps=strong, seed=0, verbose=False),
    }
    if not quick:
        found |= {
            "BIM": BasicIterativeMethod(classifier, max_iter=6, **iterated),
            "MIM": MomentumIterativeMethod(classifier, max_iter=6, **iterated),
            "C&W L2": CarliniL2Method(
                classifier,
                initial_const=1.0,
                learning_rate=0.1,
                max_iter=20,
                binary_search_steps=3,
                batch_size=128,
                verbose=False,
            ),
            "Square": SquareAttack(classifier, eps=medium, max_iter=300, batch_size=128, verbose=False),
        }
    found["APGD-DLR"] = AutoProjectedGradientDescent(  # of the logits' differences: their size does not matter
        classifier,
        eps=medium,
        eps_step=2 * medium,
        max_iter=10,
        nb_random_init=1,
        batch_size=128,
        loss_type="difference_logits_ratio",
        verbose=False,
    )
    return found


def accuracy(classifier, x, y):
    return 100 * float((classifier.predict(x, batch_size=500).argmax(1) == y).mean())


def measure(classifier, x, y, sources, nb_slow, strengths, quick, seed):
    """Returns the accuracy under each attack in %; `sources` are adversarial images of the network before mapping."""
    row = {"clean": accuracy(classifier, x[:NB_CLEAN], y[:NB_CLEAN])}
    logits = np.sort(classifier.predict(x[:NB_CLEAN], batch_size=500), axis=1)
    margin = float(np.median(logits[:, -1] - logits[:, -2]))  # between the two largest logits
    x, y = (part[: len(sources["PGD"])] for part in (x, y))
    transfer = {f"{name} tr.": accuracy(classifier, images, y) for name, images in sources.items()}
    withstood = classifier.predict(sources["PGD"]).argmax(1) == y
    for name, attack in attacks(classifier, strengths, quick).items():
        np.random.seed(seed)
        number = nb_slow if name in SLOW else len(x)
        result, adversarial = attack_classifier(name, attack, classifier, x[:number], y[:number])
        row[name] = 100 * result.adversarial_accuracy
        if name == "C&W L2":
            row["its L2"] = result.mean_l2
        elif name in MEDIUM:
            withstood[:number] &= classifier.predict(adversarial).argmax(1) == y[:number]
    gradients = classifier.loss_gradient(x, y).reshape(len(x), -1)
    zero = 100 * float((gradients == 0).all(1).mean())
    return row | transfer | {"worst m": 100 * float(withstood.mean()), "zero grad": zero, "margin": margin}


def main(
    dataset: Annotated[str, typer.Option(help="a name of `qadv list dataset`, NAME:FOLDER for its folder")] = "digits",
    data_dir: Annotated[Path | None, typer.Option(help="folder with the images, for the latter two")] = None,
    mapping: Annotated[list[str], typer.Option(help="none or layers@μ, several times for several")] = MAPPINGS,
    bits: Annotated[list[str], typer.Option(help="weight schemes, likewise")] = ["float", "int:3"],  # noqa: B006
    batch_norm: Annotated[bool, typer.Option(help="re-estimate BatchNorm behind mapped layers")] = True,
    split: Annotated[str, typer.Option(help="test, or validation: training images held out")] = "test",
    nb_test: Annotated[int, typer.Option(help="attacked images, the first ones")] = 200,
    nb_slow: Annotated[int, typer.Option(help="of them for C&W and Square")] = 50,
    quick: Annotated[bool, typer.Option(help="only FGSM, PGD, APGD-DLR and noise")] = False,
    seed: Annotated[int, typer.Option(help="decides everything random")] = 0,
    out: Annotated[Path, typer.Option(help="folder for the results")] = Path("mu-law"),
) -> None:
    torch.set_num_threads(1)
    data, data_dir = qadv.create("dataset", dataset, data_dir=data_dir), data_folder(data_dir)
    part = slice(None) if split == "test" else held_out(dataset, data)
    x, y = (array[part] for array in data.take("test" if split == "test" else "train"))
    calibration = data.take("train", 512)[0]
    strengths = STRENGTHS.get(dataset, STRENGTHS["mnist"])
    original = float_classifier(dataset, data, data_dir, seed, out / f"{data.name}-seed{seed}.safetensors")
    np.random.seed(seed)
    on_original = attacks(original, strengths, quick)
    sources = {name: on_original[name].generate(x[:nb_test], y[:nb_test]) for name in ("FGSM s", "PGD")}

    path = out / f"{data.name}-{split}-{nb_test}-seed{seed}.json"
    table = json.loads(path.read_text()) if path.exists() else {}
    for chosen in mapping:
        classifier = original
        if chosen != "none":
            layers, mu = chosen.split("@")
            mapper = qadv.MuLawWeightMapping(original, mu=float(mu), layers=layers)
            classifier = mapper(calibration if batch_norm else None)
        for scheme in bits:
            name = f"{chosen}{'' if batch_norm else ', BN as it was'}, {scheme}"
            if name not in table:
                network = classifier
                if scheme != "float":
                    network = qadv.PostTrainingQuantization(classifier, scheme, "float", False)(calibration)
                table[name] = measure(network, x, y, sources, nb_slow, strengths, quick, seed)
                write_atomically(path, json.dumps(table, indent=1).encode())
            row = table[name]
            if (chosen, scheme) == (mapping[0], bits[0]):
                print(f"{'':30}", *(f"{column:>9}" for column in row))
            print(f"{name:30}", *(f"{'–' if v is None else f'{v:.2f}':>9}" for v in row.values()), flush=True)


if __name__ == "__main__":
    typer.run(main)
