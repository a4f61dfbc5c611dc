"""ART's attacks through this project against plain ART, over several seeds: success, distortion, peak memory.

    python benchmarks/attack_strength.py --data-dir DATA [--attack ZOO] [--seeds 3] [--nb-test 16]

DATA holds CIFAR-10's test images and resnet20-cifar10.safetensors. Both sides attack the same function, ResNet-20 with
4-bit weights and activations, not calibrated:

- "qadv": `QuantizedClassifier` on `qadv.quantize(..., "int:4", "relu6:4")`; through `QueryCoalescer` where the attack
  works sample by sample;
- "ART, qadv's network": plain `PyTorchClassifier` on the network of "qadv", where single images take a third of the
  time that they take on the next;
- "ART": plain `PyTorchClassifier` on Brevitas's own quantizers, for `--stock-seeds` seeds. The logits of the two
  networks agree to 2e-7, but not their gradients: Brevitas rounds and then clips, so its gradient goes on half a step
  beyond the range.

Each contestant of each attack runs in a fresh process. Its peak memory is the largest resident set while it attacks;
its growth is that less the resident set before, with the libraries, network and images loaded. Each seed gives a
success rate and median distances of the successful images; the table has mean ± deviation over the seeds. Two
contestants agree in a figure if their means differ by no more than twice the larger deviation, or than one image in
success and 2 % in a distance, which is about what one seed says.
"""

import copy
import json
import resource
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import art.attacks.evasion as art
import numpy as np
import torch
import typer
from art.estimators.classification import PyTorchClassifier
from attacks import EPS, MEAN_STD, Case, cases, chosen, stock_brevitas
from rich.console import Console
from rich.table import Table
from torch import nn

import qadv
from qadv.backbones import create_backbone
from qadv.backbones.float_weights import load_float_weights
from qadv.estimators.attacked import AttackedNetwork
from qadv.postprocessors.softmax import Softmax

QADV, SAME, ART = "qadv", "ART, qadv's network", "ART"
DRAW_NOTHING = ("C&W-L2", "DeepFool")
ONE_BY_ONE = ["ZOO", "Boundary", "HopSkipJump", "SignOPT", "SimBA"]
MIB = 2**20


def strength_cases() -> dict[str, Case]:
    """Returns the attacks; most as `benchmarks/attacks.py` times them."""
    timed = {case.name: case for case in cases()}
    quiet = {"verbose": False}
    pgd = Case(
        "PGD-20, random start",
        partial(
            art.ProjectedGradientDescent, norm=np.inf, eps=EPS / 2, eps_step=EPS / 8, max_iter=20, num_random_init=1,
            batch_size=128, **quiet,
        ),
    )  # fmt: skip
    # steps large enough that some images are broken within a few queries
    zoo = Case(
        "ZOO",
        partial(
            art.ZooAttack, max_iter=4, learning_rate=0.5, initial_const=10.0, variable_h=0.05, binary_search_steps=1,
            use_resize=False, use_importance=False, nb_parallel=16, batch_size=1, **quiet,
        ),
        one_by_one=True,
    )  # fmt: skip
    chosen = [pgd, *(timed[name] for name in ("C&W-L2", "DeepFool", "Square")), zoo,
              *(timed[name] for name in ONE_BY_ONE[1:])]  # fmt: skip
    return {case.name: case for case in chosen}


def classifiers(data_dir: Path) -> dict[str, tuple[Any, Any]]:
    """Returns each contestant's classifier, and the same with probabilities."""
    network = create_backbone("resnet20", nb_classes=10, in_channels=3)
    load_float_weights(network, data_dir / "resnet20-cifar10.safetensors")
    network.eval()
    settings: dict[str, Any] = {
        "loss": nn.CrossEntropyLoss(), "input_shape": (3, 32, 32), "nb_classes": 10, "clip_values": (0.0, 1.0),
        "preprocessing": MEAN_STD,
    }  # fmt: skip
    stock = stock_brevitas(copy.deepcopy(network))
    ours = qadv.quantize(network, "int:4", "relu6:4").eval()
    # without the cast to float32 HopSkipJump and Boundary fail in ART with NumPy 2
    stock, ours = AttackedNetwork(stock), AttackedNetwork(ours)
    made = {QADV: (ours, qadv.QuantizedClassifier), ART: (stock, PyTorchClassifier), SAME: (ours, PyTorchClassifier)}
    return {
        name: (
            kind(copy.deepcopy(model), **settings),
            kind(copy.deepcopy(model), **settings, postprocessing_defences=Softmax()),
        )
        for name, (model, kind) in made.items()
    }


def attacked_images(data_dir: Path, both: dict[str, tuple[Any, Any]], nb: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first test images that both networks get right, with their labels."""
    with np.load(data_dir / "cifar10-test.npz") as file:
        x, y = file["x_test"][: 8 * nb].astype(np.float32) / 255, file["y_test"][: 8 * nb].astype(np.int64)
    right = np.all([both[name][0].predict(x).argmax(1) == y for name in (QADV, ART)], axis=0)
    return x[right][:nb], y[right][:nb]


def resident() -> int:
    """Returns the bytes that this process has in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak_since_reset() -> int:
    """Returns the most that this process had in memory since `/proc/self/clear_refs` was written."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return 1024 * int(line.split()[1])


def contest(data_dir: Path, attack: str, contestant: str, seeds: int, nb_test: int) -> dict[str, Any]:
    """Runs one contestant of one attack, in this process."""
    torch.set_num_threads(1)
    both = classifiers(data_dir)
    case = strength_cases()[attack]
    x, y = attacked_images(data_dir, both, nb_test)
    classifier = both[contestant][case.probabilities]
    del both
    one_hot = np.eye(10, dtype=np.float32)[y]
    Path("/proc/self/clear_refs").write_text("5")
    before = resident()
    runs = []
    started = time.perf_counter()
    for seed in range(seeds):
        np.random.seed(seed)
        torch.manual_seed(seed)
        made = case.attack(classifier)
        if case.one_by_one and contestant == QADV:
            made = qadv.QueryCoalescer(made, seed=seed, verbose=False)
        adversarial = made.generate(x, one_hot)
        broken = classifier.predict(adversarial).argmax(1) != y
        difference = (adversarial - x).reshape(len(x), -1)[broken]
        runs.append(
            {
                "success": float(broken.mean()),
                "L2": float(np.median(np.linalg.norm(difference, axis=1))) if broken.any() else None,
                "Linf": float(np.median(np.abs(difference).max(axis=1))) if broken.any() else None,
            }
        )
    seconds = (time.perf_counter() - started) / seeds
    return {"runs": runs, "seconds": seconds, "peak": peak_since_reset(), "growth": peak_since_reset() - before}


def mean_and_deviation(runs: list[dict[str, Any]], figure: str) -> str:
    values = [run[figure] for run in runs if run[figure] is not None]
    if not values:
        return "-"
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{deviation}"


def agree(runs: list[dict[str, Any]], others: list[dict[str, Any]], nb_test: int) -> str:
    """Says in which figures two contestants differ by more than the spread over seeds."""
    apart = []
    for figure, least in (("success", 1 / nb_test), ("L2", 0.02), ("Linf", 0.02)):
        pair = [[run[figure] for run in each if run[figure] is not None] for each in (runs, others)]
        if not all(pair):
            continue
        means = [statistics.mean(values) for values in pair]
        spread = 2 * max(statistics.stdev(values) if len(values) > 1 else 0.0 for values in pair)
        least = least if figure == "success" else least * means[1]
        if abs(means[0] - means[1]) > max(spread, least):
            apart.append(f"{figure} ({means[0] - means[1]:+.3f})")
    return "yes" if not apart else f"not {', '.join(apart)}"


def main(
    data_dir: Annotated[Path, typer.Option(help="folder with CIFAR-10 and the float network")],
    attack: Annotated[list[str] | None, typer.Option(help="attacks to run; all without it")] = None,
    seeds: Annotated[int, typer.Option(help="runs of each attack")] = 3,
    stock_seeds: Annotated[int, typer.Option(help="runs of each attack on Brevitas's own quantizers, 0 for none")] = 1,
    nb_test: Annotated[int, typer.Option(help="images attacked")] = 16,
    contestant: Annotated[str | None, typer.Option(help="used for its own processes", hidden=True)] = None,
) -> None:
    if contestant is not None:
        assert attack is not None
        print("RESULT", json.dumps(contest(data_dir, attack[0], contestant, seeds, nb_test)))
        return
    table = Table(
        "attack", "contestant", "success", "median L2", "median L∞", "as qadv", "peak memory, MiB", "growth, MiB",
        "qadv's peak / its", "seconds a seed", title=f"{nb_test} images, {seeds} seeds, mean ± deviation",
    )  # fmt: skip
    for name in chosen(attack, strength_cases()):
        results: dict[str, dict[str, Any]] = {}
        for each in (QADV, SAME, ART) if stock_seeds else (QADV, SAME):
            nb_seeds = 1 if name in DRAW_NOTHING else stock_seeds if each == ART else seeds
            command = [
                sys.executable, __file__, "--data-dir", str(data_dir), "--attack", name, "--contestant", each,
                "--seeds", str(nb_seeds), "--nb-test", str(nb_test),
            ]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{name}, {each}:\n{done.stderr}")
            results[each] = json.loads(done.stdout.split("RESULT ")[1])
            print(name, each, results[each], flush=True)
        for each, result in results.items():
            table.add_row(
                name if each == QADV else "", each,
                *(mean_and_deviation(result["runs"], figure) for figure in ("success", "L2", "Linf")),
                "" if each == QADV else agree(results[QADV]["runs"], result["runs"], nb_test),
                f"{result['peak'] / MIB:.0f}", f"{result['growth'] / MIB:.0f}",
                "" if each == QADV else f"{results[QADV]['peak'] / result['peak']:.2f}",
                f"{result['seconds']:.1f}",
            )  # fmt: skip
    Console(width=170).print(table)


if __name__ == "__main__":
    typer.run(main)
