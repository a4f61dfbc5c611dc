"""What `qadv.accelerate`'s options give on 4-bit ResNet-20, and what the useful ones do for attacks.

    python benchmarks/accelerate.py --data-dir DATA [--compile] [--attack SimBA] [--nb-samples 16]

DATA holds CIFAR-10's test images and resnet20-cifar10.safetensors. One thread; times are of the processor, so that
other work beside it matters less; each is the shortest of three, taken in turns. "frozen" is the copy without any
option; ratios are its time divided by that with the option. Errors and classes are those of 128 test images.
"""

import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from attacks import MEAN_STD, cases
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import qadv
from qadv.backbones import create_backbone
from qadv.backbones.float_weights import load_float_weights
from qadv.deployment.answers import logits_and_gradient
from qadv.estimators.door import prepare

OPTIONS: dict[str, dict[str, Any]] = {
    "fold_batch_norm": {"fold_batch_norm": True},
    "channels_last": {"channels_last": True},
    "both": {"fold_batch_norm": True, "channels_last": True},
    "bf16": {"bf16": True},
    "compile": {"compile": True},
    "compile, both": {"fold_batch_norm": True, "channels_last": True, "compile": True},
}
ANYTHING = {"bound": 1e30, "share": 1e-9}  # here the cost is of interest even of what would be refused


@torch.no_grad()
def logits(network: nn.Module, x: Tensor) -> Tensor:
    return network(x)  # type: ignore[no-any-return]


def shortest(calls: dict[str, Callable[[], Any]], rounds: int = 3) -> dict[str, float]:
    """Returns the processor seconds of the fastest of a few rounds, in which all take turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.process_time()
            call()
            times[name].append(time.process_time() - started)
    return {name: min(taken) for name, taken in times.items()}


def main(
    data_dir: Annotated[Path, typer.Option(help="folder with CIFAR-10 and the float network")],
    compile: Annotated[bool, typer.Option("--compile", help="try torch.compile too, which takes minutes")] = False,
    attack: Annotated[list[str] | None, typer.Option(help="attacks to time")] = None,
    nb_samples: Annotated[int, typer.Option(help="images attacked")] = 16,
) -> None:
    torch.set_num_threads(1)
    network = create_backbone("resnet20", nb_classes=10, in_channels=3)
    load_float_weights(network, data_dir / "resnet20-cifar10.safetensors")
    with np.load(data_dir / "cifar10-test.npz") as file:
        x, y = file["x_test"][:128].astype(np.float32) / 255, file["y_test"][:128].astype(np.int64)
    settings: dict[str, Any] = {
        "loss": nn.CrossEntropyLoss(), "input_shape": (3, 32, 32), "nb_classes": 10, "preprocessing": MEAN_STD,
    }  # fmt: skip
    classifier = qadv.QuantizedClassifier(qadv.quantize(network.eval(), "int:4", "relu6:4"), **settings)
    classifiers: dict[str, Any] = {"frozen": qadv.accelerate(classifier, x)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, options in OPTIONS.items():
            if compile or "compile" not in options:
                classifiers[name] = qadv.accelerate(classifier, x, **options, **ANYTHING)
    classifiers["trainable"] = classifier

    prepared = torch.from_numpy(prepare(classifier, x)[0])
    labels = torch.from_numpy(y)
    sizes = (1, 16, 128)
    table = Table(
        "option", *(f"batch {n}: forward, gradient" for n in sizes), "logits error", "gradient error", "changed"
    )
    rows: dict[str, list[str]] = {name: [] for name in classifiers}
    for n in sizes:
        batch, targets = prepared[:n], labels[:n]
        ratios = []
        for ask, given in ((logits, (batch,)), (logits_and_gradient, (batch, targets))):
            calls = {name: partial(ask, made.model, *given) for name, made in classifiers.items()}
            shortest(calls, rounds=1)
            seconds = shortest(calls)
            ratios.append({name: seconds["frozen"] / taken for name, taken in seconds.items()})
        for name, row in rows.items():
            row.append(f"{ratios[0][name]:.2f}, {ratios[1][name]:.2f}")
    for name, row in rows.items():
        last = [
            (f"{check.logits_error:.1e}", f"{check.gradient_error:.1e}", str(check.changed))
            for check in getattr(classifiers[name], "checks", ())
        ]
        table.add_row(name, *row, *(last[-1] if last else ()))
    Console(width=170).print(table)

    right = classifier.predict(x).argmax(1) == y
    x, one_hot = x[right][:nb_samples], np.eye(10, dtype=np.float32)[y[right][:nb_samples]]
    known = {case.name: case for case in cases()}
    for name in attack or []:
        case = known[name]
        found, seconds = {}, {}
        for contestant in ("trainable", "both"):
            model = classifiers[contestant].model
            attacked = qadv.QuantizedClassifier(model, **settings, probabilities=case.probabilities)
            made = case.attack(attacked)
            if case.one_by_one:
                made = qadv.QueryCoalescer(made, seed=0, verbose=False)
            np.random.seed(0)
            started = time.process_time()
            found[contestant] = made.generate(x, one_hot)
            seconds[contestant] = time.process_time() - started
        same = int((found["trainable"] == found["both"]).reshape(len(x), -1).all(axis=1).sum())
        near = np.abs(found["trainable"] - found["both"]).reshape(len(x), -1).max(axis=1) < 1e-4
        print(
            f"{name}: {seconds['trainable']:.2f} s, accelerated {seconds['both']:.2f} s "
            f"({seconds['trainable'] / seconds['both']:.2f} x); same adversarial image for {same} of {len(x)}, within "
            f"1e-4 for {int(near.sum())}",
            flush=True,
        )


if __name__ == "__main__":
    typer.run(main)
