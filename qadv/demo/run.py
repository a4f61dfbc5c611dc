"""Trains a float, a vanilla 4-bit and a defended 4-bit network, attacks each with ART, and writes down the results."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from art.attacks.evasion import BoundaryAttack, FastGradientMethod, ZooAttack
from numpy.typing import NDArray

from qadv.benchmark.cells import versions
from qadv.console import Console
from qadv.datasets import Images, data_folder
from qadv.demo import figures
from qadv.demo.settings import DemoSettings, demo_settings
from qadv.demo.table import results_table
from qadv.diagnostics.accuracy_curve import AccuracyCurve, accuracy_curve
from qadv.diagnostics.attacking import pgd
from qadv.diagnostics.error_amplification import ErrorAmplification, error_amplification
from qadv.estimators.classifier import QuantizedClassifier
from qadv.evaluation import AttackResult, attack_classifier
from qadv.files import write_atomically
from qadv.frontends.summary import summarize
from qadv.modes import torch_threads
from qadv.random_states import seeded
from qadv.registry import create
from qadv.trainers.defensive_quantization import DefensiveQuantTrainer

BETA = 2e-3


@dataclass
class NetworkResult:
    """One trained network and all that was measured on it."""

    label: str
    weights: str
    activations: str
    beta: float
    classifier: QuantizedClassifier
    history: list[dict[str, Any]]
    clean_accuracy: float
    attacks: list[AttackResult]
    curve: AccuracyCurve
    amplification: ErrorAmplification
    shown: NDArray[np.float32]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        summary = summarize(self.classifier)
        return {
            **{name: getattr(self, name) for name in ("label", "weights", "activations", "beta")},
            "bytes": {"packed": summary.packed_bytes, "float32": summary.float_bytes},
            "clean_accuracy": self.clean_accuracy,
            "attacks": [attack.to_dict() for attack in self.attacks],
            "pgd_accuracy_by_eps": self.curve.accuracy[1:].tolist(),
            "error_amplification": self.amplification.to_dict(),
            "history": self.history,
        }


def run_demo(
    dataset: str = "digits",
    data_dir: Path | None = None,
    out: Path = Path("demo-results"),
    nb_epochs: int | None = None,
    seed: int = 0,
    console: Console | None = None,
) -> Path:
    """Runs the demo; an interrupted run goes on with the last finished epoch.

    Args:
        dataset: `"digits"` (comes with scikit-learn), `"mnist"` or `"cifar10"`, these from `data_dir`.
        out: folder for `results.json`, whose path is returned, and the figures.
        nb_epochs: epochs for each network; `None` for what suits the data set.
        seed: decides the start weights and everything random after them.
    """
    settings = demo_settings(dataset)
    if nb_epochs is not None:
        settings = replace(settings, nb_epochs=nb_epochs)
    with torch_threads(settings.nb_threads):
        data: Images = create("dataset", dataset, data_dir=data_dir)
        return _Demo(settings, data, data_folder(data_dir), out, seed, console or Console()).run()


@dataclass(frozen=True)
class _Demo:
    settings: DemoSettings
    data: Images
    data_dir: Path | None
    out: Path
    seed: int
    console: Console

    def run(self) -> Path:
        data, settings, out = self.data, self.settings, self.out
        sizes = f"{len(data.x_train):,} training and {len(data.x_test):,} test images {data.input_shape}"
        self.console.print(f"{data.name}: {sizes}")
        networks = [
            self.network("float", "float", "float", 0.0),
            self.network("vanilla 4-bit", "int:4", "relu6:4", 0.0),
            self.network("DQ 4-bit", "int:4", "relu6:4", BETA),
        ]
        self.console.print(results_table(data.name, settings, networks))

        figures.accuracy_against_eps(networks, data.name, out / "accuracy-against-eps.png")
        figures.amplification(networks, settings.eps, data.name, out / "error-amplification.png")
        figures.images_page(networks, data, settings.eps, out / "images.png")
        report = {
            "dataset": {"name": data.name, "digest": data.digest()},
            "seed": self.seed,
            "eps": settings.eps,
            "eps_curve": settings.eps_curve,
            "nb_epochs": settings.nb_epochs,
            "versions": versions(),
            "networks": [network.to_dict() for network in networks],
        }
        results = out / "results.json"
        write_atomically(results, json.dumps(report, indent=1).encode())
        for network in networks:  # checkpoints were for resuming; the next run starts anew
            self.checkpoint(network.label).unlink(missing_ok=True)
        self.console.print(f"Wrote {', '.join(str(path) for path in (results, *sorted(out.glob('*.png'))))}")
        return results

    def checkpoint(self, label: str) -> Path:
        return self.out / f"{label.lower().replace(' ', '-')}.ckpt"

    def network(self, label: str, weights: str, activations: str, beta: float) -> NetworkResult:
        """Trains a network and measures it."""
        data, settings, seed = self.data, self.settings, self.seed
        trained = self.data_dir / settings.checkpoint if settings.checkpoint and self.data_dir else None
        trained = trained if trained is not None and trained.is_file() else None
        with seeded(seed):  # the same start weights for all networks
            classifier = QuantizedClassifier.from_backbone(
                settings.backbone,
                weights=weights,
                activations=activations,
                input_shape=data.input_shape,
                nb_classes=len(data.classes),
                checkpoint_path=trained,
                preprocessing=settings.preprocessing,
                **settings.options,
            )
        checkpoint = self.checkpoint(label)
        options = {"lr": settings.lr, "augment": settings.augment, "seed": seed, "checkpoint": checkpoint}
        trainer = DefensiveQuantTrainer(classifier, beta=beta, **options)
        if trained is None or weights != "float":
            self.console.print(f"[bold]{label}[/bold]: training with β = {beta:g}")
            trainer.fit(data.x_train, data.y_train, batch_size=settings.batch_size, nb_epochs=settings.nb_epochs)
        else:
            self.console.print(f"[bold]{label}[/bold]: trained weights from {trained}")
        classifier.save(checkpoint.with_suffix(".safetensors"))

        self.console.print(f"[bold]{label}[/bold]: attacking")
        attacks, pgd_images = _attacks(classifier, settings, data, seed)
        x, y = data.x_test[: settings.nb_gradient], data.y_test[: settings.nb_gradient]
        return NetworkResult(
            label=label,
            weights=weights,
            activations=activations,
            beta=beta,
            classifier=classifier,
            history=trainer.history,
            clean_accuracy=float((classifier.predict(data.x_test).argmax(1) == data.y_test).mean()),
            attacks=attacks,
            curve=accuracy_curve(classifier, x, y, (0.0, *settings.eps_curve), seed=seed),
            amplification=error_amplification(classifier, x[:128], pgd_images[:128]),
            shown=pgd_images[: figures.IMAGES_SHOWN],
        )


def _attacks(
    classifier: QuantizedClassifier, settings: DemoSettings, data: Images, seed: int
) -> tuple[list[AttackResult], NDArray[np.float32]]:
    """Runs the four attacks; also returns PGD's images."""
    few, many = settings.nb_black_box, settings.nb_gradient
    plan = (
        ("FGSM", FastGradientMethod(classifier, eps=settings.eps, batch_size=128), many),
        ("PGD", pgd(classifier, settings.eps), many),
        ("ZOO", ZooAttack(classifier, verbose=False, **settings.zoo), few),
        ("Boundary", BoundaryAttack(classifier, targeted=False, verbose=False, **settings.boundary), few),
    )
    found = {}
    for name, attack, count in plan:
        with seeded(seed):
            found[name] = attack_classifier(name, attack, classifier, data.x_test[:count], data.y_test[:count])
    return [result for result, _ in found.values()], found["PGD"][1]
