"""An ensemble of bit widths that predicts only where m members agree, attacked by who knows it and who does not.

    python examples/ensemble.py
    python examples/ensemble.py --dataset mnist --data-dir DATA --seed 0 --out DIR

Trains a float network and networks with 1, 2, 3 and 4 bit weights and activations, and one float network more, which an
attacker without access trains. Prints who agrees on what (table 5), the prediction rate PR and the defense accuracy
(eq. 12, 13), against images made on one network, on all members at once, and by the ensemble's decisions alone.
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from art.attacks.evasion import FastGradientMethod, HopSkipJump, ProjectedGradientDescent

import qadv
from qadv.diagnostics.ensemble_agreement import agreement_with_source, ensemble_agreement, measure_agreement

MEMBERS = {
    "float": ("float", "float"),
    "w1a1": ("binary-net", "binary-net"),
    "w2a2": ("dorefa:2", "dorefa:2"),
    "w3a3": ("dorefa:3", "dorefa:3"),
    "w4a4": ("dorefa:4", "dorefa:4"),
}
SMALL: dict[str, Any] = {
    "width": 16, "nb_epochs": 4, "batch_size": 32, "nb_test": 120, "steps": 20,
    "nb_decided": 4, "decisions": {"max_iter": 3, "max_eval": 60, "init_eval": 20},
}  # fmt: skip
LARGE: dict[str, Any] = {
    "width": 16, "nb_epochs": 1, "batch_size": 64, "nb_test": 200, "steps": 40,
    "nb_decided": 10, "decisions": {"max_iter": 15, "max_eval": 300, "init_eval": 50},
}  # fmt: skip


def train(name: str, data: Any, size: dict[str, Any], seed: int, out: Path | None) -> qadv.QuantizedClassifier:
    path = None if out is None else out / f"{data.name}-{name}-seed{seed}.safetensors"
    if path is not None and path.exists():
        return qadv.QuantizedClassifier.load(path)
    torch.manual_seed(seed)
    net = qadv.QuantizedClassifier.from_backbone(
        "mnist-cnn", *MEMBERS[name], input_shape=data.input_shape, nb_classes=len(data.classes),
        image_size=data.input_shape[-1], width=size["width"],
    )  # fmt: skip
    adam = torch.optim.Adam(net.model.parameters(), lr=3e-3)
    classifier = qadv.QuantizedClassifier(net.model, net.loss, data.input_shape, len(data.classes), optimizer=adam)
    trainer = qadv.DefensiveQuantTrainer(classifier, beta=0.0, seed=seed, verbose=False)
    nb_epochs = size["nb_epochs"] * (3 if name == "w1a1" else 1)  # one bit learns slowly
    trainer.fit(*data.take("train"), nb_epochs=nb_epochs, batch_size=size["batch_size"])
    if path is not None:
        classifier.save(path)
    return classifier


def table(title: str, columns: str, rows: list[list[Any]]) -> None:
    """Prints rows as Markdown; shares with two decimals."""
    head = columns.split(", ")
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        cells = ("–" if cell is None else f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row)
        print(f"| {' | '.join(cells)} |", flush=True)


def pgd(classifier: Any, eps: float, steps: int, targeted: bool = False) -> ProjectedGradientDescent:
    return ProjectedGradientDescent(
        classifier, eps=eps, eps_step=eps / 10, max_iter=steps, targeted=targeted, batch_size=250, verbose=False
    )


def transfer(nets: Any, other: Any, ensemble: Any, x: Any, y: Any, m: int, eps: float, steps: int) -> None:
    """Images made on one network, for an ensemble that the attacker does not know."""
    clean = ensemble.member_predictions(x)
    agreeing, transferred = [], []
    for index, (name, source) in enumerate({**nets, "other float": other}.items()):
        attacks = {
            "FGSM": FastGradientMethod(source, eps=eps, batch_size=250),
            "PGD": pgd(source, eps, steps),
            "DDN": qadv.DDN(source, max_iter=steps, batch_size=250, verbose=False),
        }
        for label, attack in attacks.items():
            x_adv = attack.generate(x, y)
            classes = ensemble.member_predictions(x_adv)
            r = measure_agreement(classes, y, m)
            there = float((source.predict(x_adv).argmax(1) == y).mean())
            best = float((classes == y).mean(1).max())
            transferred.append([name, label, there, best, r.prediction_rate, r.defense_accuracy, r.accuracy])
            if label == "FGSM" and name in nets:
                pairs = [agreement_with_source(found, y, index) for found in (clean, classes)]
                agreeing.append([name, *(share for pair in pairs for share in (pair.right, pair.wrong))])
    columns = "source, correct, misclassified, unsuccessful, successful"
    table("All other members agree with the source: clean images, and FGSM (table 5)", columns, agreeing)
    columns = "made on, attack, accuracy there, best member, PR, d_acc, abstentions as wrong"
    table(f"Transferred, eps = {eps:g}, DDN: smallest L2; m = {m} (table 7)", columns, transferred)


def known(ensemble: Any, x: Any, y: Any, nearest: Any, m: int, eps: float, steps: int) -> None:
    """Images made on all members at once. What counts is a wrong class that m members agree on."""
    adversarial = {
        f"PGD, {combine}": pgd(ensemble.combined_by(combine), eps, steps).generate(x, y)
        for combine in ("vote", "probabilities", "logits")
    }
    for k in range(3):
        attack = pgd(ensemble, eps, steps, targeted=True)
        adversarial[f"PGD to wrong class {k + 1}, logits"] = attack.generate(x, nearest[:, k])
    detector = qadv.EnsembleAgreementDetector(ensemble, m)
    broken, rows = np.zeros(len(y), dtype=bool), []
    for label, x_adv in adversarial.items():
        r = ensemble_agreement(ensemble, x_adv, y, m)
        rows.append([label, r.prediction_rate, r.defense_accuracy, r.accuracy])
        report, flagged = detector.detect(x_adv)
        broken |= ~flagged & (report["labels"] != y)
    rows.append(["worst of these, image by image", None, float(1 - broken.mean()), None])
    title = f"The attacker knows the ensemble, eps = {eps:g}, m = {m}"
    table(title, "attack, PR, d_acc, abstentions as wrong", rows)


def decisions(targets: dict[str, Any], x: Any, y: Any, goal: Any, start: Any, seed: int, budget: Any) -> None:
    """Minimises L2 by asking for decisions. To abstain is no success: only an attack with a goal is one."""
    rows = []
    for label, target in targets.items():
        for targeted in (False, True):
            attack = HopSkipJump(target, targeted=targeted, verbose=False, **budget)
            coalesced = qadv.QueryCoalescer(attack, seed=seed, verbose=False)
            aim = {"y": np.eye(target.nb_classes, dtype=np.float32)[goal], "x_adv_init": start} if targeted else {}
            x_adv = coalesced.generate(x, **aim)
            ends = target.predict(x_adv).argmax(1)
            abstains = ends == targets["float"].nb_classes
            wrong = ~abstains & (ends != y)
            l2 = np.linalg.norm((x_adv - x).reshape(len(x), -1), axis=1)
            to = "wrong class 1" if targeted else "anything else"
            rows.append([label, to, float(abstains.mean()), float(wrong.mean()), float(np.median(l2))])
    table(f"HopSkipJump on decisions, {len(x)} images", "attacked, aim, abstains, wrong class, median L2", rows)


def main(
    dataset: Annotated[str, typer.Option(help="a name of `qadv list dataset`, NAME:FOLDER for its folder")] = "digits",
    data_dir: Annotated[Path | None, typer.Option(help="folder with mnist.npz")] = None,
    eps: Annotated[float, typer.Option(help="L-inf strength of FGSM and PGD")] = 0.1,
    m: Annotated[int, typer.Option(help="members that have to agree")] = 4,
    seed: Annotated[int, typer.Option(help="decides everything random")] = 0,
    out: Annotated[Path | None, typer.Option(help="folder for the trained networks, to train them once")] = None,
) -> None:
    torch.set_num_threads(1)  # such small images don't pay for more
    np.random.seed(seed)
    size = SMALL if dataset == "digits" else LARGE
    data = qadv.create("dataset", dataset, data_dir=data_dir)
    nets = {name: train(name, data, size, seed, out) for name in MEMBERS}
    other = train("float", data, size, seed + 100, out)
    ensemble = qadv.EnsembleClassifier.of(list(nets.values()))

    x_test, y_test = data.take("test")
    classes = ensemble.member_predictions(x_test)
    r = measure_agreement(classes, y_test, m)
    right = (classes == y_test).mean(1)
    print("Accuracy:", ", ".join(f"{name} {part:.1%}" for name, part in zip(nets, right, strict=True)))
    print("Images on which 1, 2, … members agree:", ", ".join(f"{part:.1%}" for part in r.agreement))
    print(f"Clean images, m = {m}: PR {r.prediction_rate:.1%}, accuracy where predicted {r.accuracy_predicted:.1%}")

    x, y, steps = x_test[: size["nb_test"]], y_test[: size["nb_test"]], size["steps"]
    logits = ensemble.predict(x)
    logits[np.arange(len(y)), y] = -np.inf
    nearest = np.argsort(-logits, axis=1)  # wrong classes, the nearest first
    transfer(nets, other, ensemble, x, y, m, eps, steps)
    known(ensemble, x, y, nearest, m, eps, steps)

    abstaining = ensemble.combined_by("vote", abstain_below=m)
    right = abstaining.predict(x_test).argmax(1) == y_test
    has_start = np.isin(nearest[:, 0], y_test[right])  # an image of the wrong class, which the ensemble gets right
    some = np.flatnonzero(right[: len(y)] & has_start)[: size["nb_decided"]]
    if not len(some):
        raise SystemExit("HopSkipJump is left out: the ensemble gets no image right that it could start from")
    goal = nearest[some, 0]
    start = np.stack([x_test[right & (y_test == label)][0] for label in goal])
    targets = {"float": nets["float"], "ensemble that abstains": abstaining}
    decisions(targets, x[some], y[some], goal, start, seed, size["decisions"])


if __name__ == "__main__":
    typer.run(main)
