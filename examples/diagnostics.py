"""Float, 8-, 4- and 2-bit versions of one network under all diagnostics, drawn: what makes them robust, or seem so.

    python examples/diagnostics.py                                             # scikit-learn's digits
    python examples/diagnostics.py --dataset cifar10 --data-dir DATA --nb-test 100

The float network (trained here on the digits, the trained ResNet-20 on CIFAR-10) is quantized after training, PWLQ
weights and calibrated activations, the first and last layer's weights float. Each measurement is printed, drawn into
`--out`, and kept in `results.json` there.
"""

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
from matplotlib.figure import Figure

import qadv
from qadv.datasets import data_folder
from qadv.diagnostics import (
    draw_accuracy_curve,
    draw_amplification_by_eps,
    draw_error_amplification,
    draw_gradient_similarity,
    draw_transfer_matrix,
    draw_value_shift,
    draw_weight_error,
)
from qadv.diagnostics.ensemble_agreement import draw_ensemble_agreement, ensemble_agreement
from qadv.files import write_atomically

BITS = (8, 4, 2)
EPS = {"digits": 0.1, "cifar10": 4 / 255}  # of single attacks
CURVE = {"digits": (0, 0.025, 0.05, 0.1, 0.2), "cifar10": (0, 1 / 255, 2 / 255, 4 / 255, 8 / 255)}
DISTANCES = {"digits": (0, 0.25, 0.5, 0.75, 1, 1.5, 2), "cifar10": (0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)}
INIT_EPS = {"digits": 1.0, "cifar10": 0.25}  # of DDN: about the distance it will find
MEAN_STD = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def fgsm(classifier: Any, eps: float) -> Any:
    return FastGradientMethod(classifier, eps=eps, batch_size=128)


def pgd(classifier: Any, eps: float) -> Any:
    return ProjectedGradientDescent(
        classifier, eps=eps, eps_step=eps / 4, max_iter=10, num_random_init=1, batch_size=128, verbose=False
    )


def ddn(classifier: Any, init_eps: float) -> Any:
    # a step changes the norm by 5 %: 40 of them reach from an eighth of init_eps to seven times it
    return qadv.DDN(classifier, init_eps=init_eps, max_iter=40, seed=0, verbose=False)


def float_network(dataset: str, data: Any, data_dir: Path | None, seed: int) -> Any:
    if dataset == "cifar10":
        checkpoint = data_dir / "resnet20-cifar10.safetensors"
        return qadv.QuantizedClassifier.from_backbone(
            "resnet20", "float", "float", checkpoint_path=checkpoint, preprocessing=MEAN_STD
        )
    torch.manual_seed(seed)
    classifier = qadv.QuantizedClassifier.from_backbone(
        "mnist-cnn", "float", "float", input_shape=data.input_shape, nb_classes=len(data.classes),
        image_size=data.input_shape[-1], width=8,
    )  # fmt: skip
    trainer = qadv.DefensiveQuantTrainer(classifier, beta=0.0, lr=0.05, seed=seed, verbose=False)
    trainer.fit(*data.take("train"), batch_size=64, nb_epochs=10)
    return classifier


def main(
    dataset: Annotated[str, typer.Option(help="a name of `qadv list dataset`, NAME:FOLDER for its folder")] = "digits",
    data_dir: Annotated[Path | None, typer.Option(help="folder with CIFAR-10 and the trained ResNet-20")] = None,
    nb_test: Annotated[int, typer.Option(help="attacked test images, the first ones")] = 100,
    seed: Annotated[int, typer.Option(help="decides everything random")] = 0,
    out: Annotated[Path, typer.Option(help="folder for figures and results")] = Path("diagnostics"),
) -> None:
    torch.set_num_threads(1)
    data, data_dir = qadv.create("dataset", dataset, data_dir=data_dir), data_folder(data_dir)
    x, y = data.take("test", nb_test)
    like = dataset if dataset in EPS else "digits"  # whose strengths are taken
    eps = EPS[like]
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"dataset": dataset, "images": len(x), "seed": seed, "eps": eps}

    def report(name: str, measured: Any, figure: Figure) -> None:
        """Prints, draws and keeps what was measured: one thing, or several by name."""
        several = measured if isinstance(measured, dict) else {"": measured}
        for label, found in several.items():
            print(f"\n{label}\n{found}" if label else f"\n{found}", flush=True)
        results[name] = {label: found.to_dict() for label, found in several.items()}
        figure.savefig(out / f"{name}.png", dpi=150)
        write_atomically(out / "results.json", json.dumps(results, indent=1).encode())

    networks = {"float": float_network(dataset, data, data_dir, seed)}
    for bits in BITS:
        quantize = qadv.PostTrainingQuantization(
            networks["float"], f"pwlq:{bits}", f"relu:{bits}", calibration=data.take("train", 512)[0]
        )
        networks[f"{bits} bit"] = quantize()
    quantized = {name: classifier for name, classifier in networks.items() if name != "float"}

    # 1. How far are quantized weights from the float ones, and could the difference grow a perturbation?
    norms = {name: qadv.weight_error_norms(classifier, x) for name, classifier in quantized.items()}
    report("weight-error", norms, draw_weight_error(norms))

    # 2. Does the error grow from layer to layer, and does rounding make it larger or smaller?
    def attacked(classifier: Any) -> Any:
        np.random.seed(seed)  # ART draws from numpy's global state
        return pgd(classifier, eps).generate(x, y)

    adversarial = {name: attacked(classifier) for name, classifier in networks.items()}
    layers = {name: qadv.error_amplification(c, x, adversarial[name]) for name, c in networks.items()}
    report("error-amplification", layers, draw_error_amplification(layers))
    by_eps = {
        name: qadv.amplification_by_eps(
            classifier, x, y, CURVE[like], fgsm, source=networks["float"], at="activations", seed=seed
        )
        for name, classifier in quantized.items()
    }
    report("amplification-by-eps", by_eps, draw_amplification_by_eps(by_eps))

    # 3. How many activations does a perturbation move to another bucket, and how many does rounding hold back?
    shift = {name: qadv.value_shift(classifier, x, adversarial["float"]) for name, classifier in quantized.items()}
    figure = Figure(figsize=(11, 4), layout="constrained")
    for quantity, ax in zip(("changed", "absorbed"), figure.subplots(1, 2), strict=True):
        draw_value_shift(shift, quantity, ax)
    report("value-shift", shift, figure)

    # 4. Do their gradients agree, and do adversarial images of one network work on another?
    similarity = qadv.gradient_similarity(networks, x, y)
    report("gradient-similarity", similarity, draw_gradient_similarity(similarity))
    nearest = partial(ddn, init_eps=INIT_EPS[like])
    attacks = {"FGSM": partial(fgsm, eps=eps), "PGD": partial(pgd, eps=eps), "DDN": nearest}
    transfer = qadv.transfer_matrix(networks, x, y, attacks, seed=seed)
    report("transfer-matrix", transfer, draw_transfer_matrix(transfer))

    # 5. How fast does accuracy fall?
    curves = {name: qadv.accuracy_curve(c, x, y, CURVE[like], pgd, seed=seed) for name, c in networks.items()}
    report("accuracy-curve", curves, draw_accuracy_curve(curves))
    distances = {name: qadv.accuracy_by_distance(c, x, y, DISTANCES[like], nearest) for name, c in networks.items()}
    report("accuracy-by-distance", distances, draw_accuracy_curve(distances))

    # 6. Do the members of an ensemble agree, on images made for one of them and on those made for all?
    ensemble = qadv.EnsembleClassifier.of(list(networks.values()))
    shown = {
        "clean": x,
        "PGD on the float member": adversarial["float"],
        "PGD on all": attacked(ensemble),
    }
    agreement = {name: ensemble_agreement(ensemble, images, y, m=len(networks)) for name, images in shown.items()}
    report("ensemble-agreement", agreement, draw_ensemble_agreement(agreement))
    print(f"\nWrote {', '.join(sorted(path.name for path in out.glob('*.*')))} into {out}")


if __name__ == "__main__":
    typer.run(main)
