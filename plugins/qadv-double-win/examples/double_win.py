"""Trains with and without Double-Win Quant, and asks whether a random precision is a defense.

    python double_win.py --dataset digits --seed 0 --out results
    python double_win.py --dataset mnist --data-dir DATA --seed 0 --out results
    python double_win.py --precisions 2 3 4 5 6

For each defense that draws a precision at inference it prints the published figure (the attacker draws one precision
too, and attacks that), and what is left when the attacker knows that the precision is random and follows the mean of
all precisions. Beside it stand networks of one precision, trained on the same adversarial images for as many epochs.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from art.attacks.evasion import ProjectedGradientDescent
from qadv_double_win.double_win import DoubleWinTrainer
from qadv_double_win.inference import precision_classifiers, random_precision

import qadv
from qadv.trainers import LoopTrainer

SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {"backbone": "resnet20", "size": 8, "eps": 0.1, "train": 1437, "test": 180, "epochs": 12},
    "mnist": {"backbone": "mnist-cnn", "size": 28, "eps": 0.15, "train": 3000, "test": 300, "epochs": 6},
}


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    settings = SETTINGS[arguments.dataset] | {"precisions": arguments.precisions, "seed": arguments.seed}
    data = qadv.create("dataset", arguments.dataset, data_dir=arguments.data_dir)
    train = data.x_train[: settings["train"]], data.y_train[: settings["train"]]
    x, y = data.x_test[: settings["test"]], data.y_test[: settings["test"]]
    print(arguments.dataset, settings)

    results: dict[str, Any] = {"settings": {"dataset": arguments.dataset, **settings}, "single": {}, "random": {}}
    for name, classifier in single_precision(train, settings).items():
        results["single"][name] = attack_single(classifier, x, y, settings["eps"])
        print(name, results["single"][name], flush=True)
    for name, members, drawn in random_precisions(train, settings):
        results["random"][name] = attack_random(members, drawn, x, y, settings["eps"])
        print(name, json.dumps(results["random"][name], indent=1), flush=True)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        drawn = "".join(map(str, arguments.precisions))
        path = arguments.out / f"{arguments.dataset}-{drawn}-seed{arguments.seed}.json"
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def single_precision(train: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the controls: networks of one precision, trained naturally or with PGD-7."""
    natural = network(settings, "int:4", "relu6:4")
    fit(LoopTrainer(natural, **options(settings)), train, settings)
    found = {"natural, 4 bit": natural}
    for bits in (4, 8):
        found[f"PGD-7, {bits} bit"] = network(settings, f"int:{bits}", f"relu6:{bits}")
        fit(pgd7(found[f"PGD-7, {bits} bit"], settings), train, settings)
    return found


def random_precisions(train: Any, settings: Mapping[str, Any]) -> Any:
    """Yields name, classifiers of each precision, and the classifier that draws one."""
    precisions, schemes = settings["precisions"], ("switchable:8", "switchable:8")
    # a network that PGD-7 trained in full precision, quantized afterwards: the paper's "vanilla" Double-Win
    trained = network(settings, "float", "float")
    fit(pgd7(trained, settings), train, settings)
    after = network(settings, *schemes)
    after.model.load_state_dict({**after.model.state_dict(), **trained.model.state_dict()})
    yield "PGD-7 in float, then random", precision_classifiers(after, precisions), random_precision(after, precisions)

    for norms in ("common", "switchable"):
        defended = network(settings, *schemes, switchable_norms=norms == "switchable")
        fit(DoubleWinTrainer(defended, precisions, eps=settings["eps"], **options(settings)), train, settings)
        members, drawn = precision_classifiers(defended, precisions), random_precision(defended, precisions)
        yield f"RPT, {norms} BatchNorm", members, drawn


def network(settings: Mapping[str, Any], weights: str, activations: str, switchable_norms: bool = False) -> Any:
    """Returns a new classifier, the same at each call but for its schemes and BatchNorms; all layers are quantized."""
    torch.manual_seed(settings["seed"])
    name, size = settings["backbone"], settings["size"]
    more: dict[str, Any] = {"image_size": size, "width": 16} if name == "mnist-cnn" else {}
    if switchable_norms:
        name, more = "switchable-norm", {"backbone": name, "precisions": list(settings["precisions"]), **more}
    return qadv.QuantizedClassifier.from_backbone(
        name, weights, activations, False, input_shape=(1, size, size), device_type="cpu", **more
    )


def options(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"lr": 0.1, "seed": settings["seed"], "verbose": False}


def pgd7(classifier: Any, settings: Mapping[str, Any]) -> Any:
    eps = settings["eps"]
    return qadv.AdversarialQuantTrainer(classifier, "pgd", eps, eps_step=eps / 4, max_iter=7, **options(settings))


def fit(trainer: Any, train: Any, settings: Mapping[str, Any]) -> None:
    trainer.fit(*train, nb_epochs=settings["epochs"], batch_size=64)


def attacks(eps: float) -> dict[str, Callable[[Any], Any]]:
    """Returns PGD with 20 and with 50 steps: makers of ART attacks by name."""

    def maker(steps: int) -> Callable[[Any], Any]:
        def make(classifier: Any) -> Any:
            return ProjectedGradientDescent(
                classifier,
                eps=eps,
                eps_step=2.5 * eps / steps,
                max_iter=steps,
                num_random_init=1,
                batch_size=512,
                verbose=False,
            )

        return make

    return {"PGD-20": maker(20), "PGD-50": maker(50)}


def run(make: Callable[[Any], Any], classifier: Any, x: Any, y: Any) -> Any:
    np.random.seed(0)
    torch.manual_seed(0)
    return make(classifier).generate(x, np.eye(10, dtype=np.float32)[y])


def right(classifier: Any, x: Any, y: Any) -> Any:
    return classifier.predict(x).argmax(1) == y


def percent(hits: Any) -> float:
    return round(100 * float(np.mean(hits)), 1)


def attack_single(classifier: Any, x: Any, y: Any, eps: float) -> dict[str, float]:
    """Returns accuracies of a network of one precision: clean, under each attack, under the worse of them."""
    survived = {name: right(classifier, run(make, classifier, x, y), y) for name, make in attacks(eps).items()}
    figures = {name: percent(hits) for name, hits in survived.items()}
    return {"clean": percent(right(classifier, x, y)), **figures, "worst": percent(np.all([*survived.values()], 0))}


def attack_random(members: dict[str, Any], drawn: Any, x: Any, y: Any, eps: float) -> dict[str, Any]:
    """Returns accuracies of a defense that draws one of several precisions for each image.

    They are exact means over the draws at inference, (members, images) → one figure.
    """
    names = list(members)

    def each(images: Any) -> Any:
        return np.stack([right(member, images, y) for member in members.values()])

    short, long = attacks(eps).values()
    matrix = qadv.transfer_matrix(members, x, y, {"PGD-20": short})
    accuracy = matrix.accuracy[0]
    own = accuracy.diagonal()
    figures: dict[str, Any] = {
        "clean": percent(each(x)),
        "clean by precision": dict(zip(names, (percent(row) for row in each(x)), strict=True)),
        "transfer, source by target": (100 * accuracy).round(1).tolist(),
        "PGD-20 at the same precision": percent(own),
        "PGD-20 at another precision": percent(accuracy[~np.eye(len(names), dtype=bool)]),
        "published: attacker and defender draw": percent(accuracy),
    }
    mean_logits = qadv.EnsembleClassifier.of(list(members.values()), combine="logits")
    targets = {
        "a new draw in each step": drawn,
        "mean of logits": mean_logits,
        "mean of probabilities": mean_logits.combined_by("probabilities"),
    }
    survived = {}
    for label, target in targets.items():
        for attack, make in (("PGD-20", short), ("PGD-50", long)):
            hits = survived[f"{attack}, {label}"] = each(run(make, target, x, y))
            figures[f"{attack}, {label}"] = percent(hits)
    chances = np.stack([hits.mean(0) for hits in survived.values()])
    figures["adaptive: worst of these for each image"] = percent(chances.min(0))
    figures["adaptive, and the attacker may ask until a draw fails"] = percent(np.all([*survived.values()], (0, 1)))
    return figures


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=SETTINGS, default="digits")
    parser.add_argument("--data-dir", help="folder with mnist.npz")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precisions", type=int, nargs="+", default=[4, 5, 6, 7, 8])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder for the figures as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
