"""Another toolkit's attacks through their plugin, against the toolkit itself, there and on Brevitas's own quantizers.

    python benchmarks/toolkits.py foolbox --data-dir DATA [--nb-test 16] [--rounds 5] [--attack NAME]
    python benchmarks/toolkits.py torchattacks --data-dir DATA

DATA holds CIFAR-10 as .npz files and resnet20-cifar10.safetensors; the plugin and its toolkit are installed. "plugin"
attacks a 4-bit ResNet-20 (int:4 weights, relu6:4 activations, calibrated on 256 training images), "toolkit" the same
one as a torch module, "on Brevitas" the same float network with Brevitas's own 4-bit quantizers. The three take turns
in each round, on one thread, with the round's number as seed; processor time, medians of the ratios in a round.
"""

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from art.estimators.classification import PyTorchClassifier
from attacks import EPS, MEAN_STD, Standardised, chosen, score, stock_brevitas
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import qadv


class Name(StrEnum):
    FOOLBOX = "foolbox"
    TORCHATTACKS = "torchattacks"


@dataclass(frozen=True)
class Toolkit:
    """A toolkit: the plugin's attacks with their options, how it wraps a module, and how it runs one of its attacks."""

    cases: dict[str, tuple[Any, dict[str, Any]]]
    of_classifier: Callable[[Any], Any]
    of_module: Callable[[nn.Module], Any]
    run: Callable[[Any, dict[str, Any], Any, Tensor, Tensor], Tensor]


def with_foolbox() -> Toolkit:
    import foolbox
    import qadv_foolbox as plugin

    def run(theirs: Any, options: dict[str, Any], model: Any, x: Tensor, y: Tensor) -> Tensor:
        attack = theirs(**{name: value for name, value in options.items() if name != "eps"})
        return attack(model, x, y, epsilons=options.get("eps"))[1]

    cases: dict[str, tuple[Any, dict[str, Any]]] = {
        "PGD-20": (plugin.LinfPGD, {"eps": EPS, "abs_stepsize": EPS / 4, "steps": 20}),
        "C&W-50": (plugin.L2CarliniWagnerAttack, {"binary_search_steps": 1, "steps": 50, "initial_const": 1.0}),
        "DDN-50": (plugin.DDNAttack, {"steps": 50}),
        "DeepFool-20": (plugin.L2DeepFoolAttack, {"steps": 20}),
    }
    return Toolkit(cases, plugin.as_foolbox, partial(foolbox.PyTorchModel, bounds=(0, 1), device="cpu"), run)


def with_torchattacks() -> Toolkit:
    import qadv_torchattacks as plugin

    def run(theirs: Any, options: dict[str, Any], model: Any, x: Tensor, y: Tensor) -> Tensor:
        return theirs(model, **options)(x, y).detach()

    cases: dict[str, tuple[Any, dict[str, Any]]] = {
        "PGD-20": (plugin.PGD, {"eps": EPS, "alpha": EPS / 4, "steps": 20}),
        "PGD-L2-20": (plugin.PGDL2, {"eps": 0.25, "alpha": 0.05, "steps": 20}),
        "C&W-50": (plugin.CW, {"c": 1.0, "steps": 50}),
        "DeepFool-20": (plugin.DeepFool, {"steps": 20}),
    }
    return Toolkit(cases, plugin.as_torchattacks, lambda module: module, run)


TOOLKITS = {Name.FOOLBOX: with_foolbox, Name.TORCHATTACKS: with_torchattacks}


def by_plugin(made: Any, options: dict[str, Any], classifier: Any, seed: int, x: np.ndarray, y: np.ndarray) -> Any:
    return made(classifier, seed=seed, batch_size=len(x), verbose=False, **options).generate(x, y)


def by_toolkit(run: Callable[[Tensor, Tensor], Tensor], seed: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    words = np.random.SeedSequence([seed, 0]).generate_state(3)  # as the plugin seeds its first batch
    np.random.seed(int(words[0]))
    torch.manual_seed(int(words[2]))
    return run(torch.from_numpy(x), torch.from_numpy(y)).numpy()


def main(
    name: Annotated[Name, typer.Argument(metavar="TOOLKIT", help="foolbox or torchattacks")],
    data_dir: Annotated[Path, typer.Option(help="folder with CIFAR-10 and the float network")],
    attack: Annotated[list[str] | None, typer.Option(help="attacks to run; all without it")] = None,
    nb_test: Annotated[int, typer.Option(help="images attacked, that both networks get right")] = 16,
    rounds: Annotated[int, typer.Option(help="interleaved rounds")] = 5,
) -> None:
    torch.set_num_threads(1)
    toolkit = TOOLKITS[name]()
    wanted = {case: toolkit.cases[case] for case in chosen(attack, toolkit.cases)}
    data = qadv.create("dataset", "cifar10", data_dir=data_dir)
    make = partial(
        qadv.QuantizedClassifier.from_backbone,
        "resnet20",
        checkpoint_path=data_dir / "resnet20-cifar10.safetensors",
        preprocessing=MEAN_STD,
        device_type="cpu",
    )
    ours = make("int:4", "relu6:4", calibration=data.x_train[:256])
    network = stock_brevitas(copy.deepcopy(make("float", "float").model))
    shape = {"input_shape": (3, 32, 32), "nb_classes": 10, "clip_values": (0.0, 1.0), "device_type": "cpu"}
    stock = PyTorchClassifier(network, nn.CrossEntropyLoss(), preprocessing=MEAN_STD, **shape)
    as_theirs = {"toolkit": toolkit.of_classifier(ours), "on Brevitas": toolkit.of_module(Standardised(network).eval())}
    images, labels = data.x_test[:200], data.y_test[:200]
    right = (ours.predict(images).argmax(1) == labels) & (stock.predict(images).argmax(1) == labels)
    x, y = images[right][:nb_test], labels[right][:nb_test]
    table = Table(
        "attack", "plugin, s", f"plugin / {name}", "plugin / on Brevitas", "same images",
        "success: plugin, on Brevitas", "mean L2: plugin, on Brevitas",
        title=f"{len(x)} images, seeds 0 to {rounds - 1}; success and mean L2 of the last",
    )  # fmt: skip
    for case, (made, options) in wanted.items():
        contestants = {"plugin": partial(by_plugin, made, options, ours)}
        for each, model in as_theirs.items():
            contestants[each] = partial(by_toolkit, partial(toolkit.run, made.theirs, options, model))
        times: dict[str, list[float]] = {each: [] for each in contestants}
        found: dict[str, np.ndarray] = {}
        same = True
        for seed in range(rounds):
            for each, run in contestants.items():
                started = time.process_time()
                found[each] = run(seed, x, y)
                times[each].append(time.process_time() - started)
            same &= np.array_equal(found["plugin"], found["toolkit"])
        ratios = [
            statistics.median(a / b for a, b in zip(times["plugin"], times[each], strict=True)) for each in as_theirs
        ]
        scores = [score(ours, x, found["plugin"], y), score(stock, x, found["on Brevitas"], y)]
        table.add_row(
            case, f"{statistics.median(times['plugin']):.2f}", *(f"{ratio:.2f}" for ratio in ratios),
            "yes" if same else "no", ", ".join(f"{each:.0%}" for each, _ in scores),
            ", ".join(f"{each:.3f}" for _, each in scores),
        )  # fmt: skip
        print(f"{case}: done", flush=True)
    Console(width=150).print(table)


if __name__ == "__main__":
    typer.run(main)
