"""Cost of one training step: the training loop against a bare torch loop over the same network.

    python benchmarks/training.py [--rounds 7] [--batch-size 64]

Both do the same forward and backward passes and optimizer steps on the same batches. Rounds are interleaved, on one
thread, and the table has the median of the per-round ratios. The float rows show the loop's own overhead, the others
what quantization and the regulariser add.
"""

import statistics
import time
from collections.abc import Callable
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

import qadv
from qadv.quantization.convert import quantize

STEPS = 8
SETTINGS = (
    ("float", "float", 0.0),
    ("float", "float", 2e-3),
    ("float", "relu6:4", 0.0),
    ("int:4", "relu6:4", 0.0),
    ("bwn", "relu6:4", 0.0),
    ("twn", "relu6:4", 0.0),
    ("int:4", "relu6:4", 2e-3),
)


def bare_loop(model: nn.Module, x: torch.Tensor, y: torch.Tensor, batch_size: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    model.train()
    order = torch.randperm(len(x))
    for start in range(0, len(x), batch_size):
        chosen = order[start : start + batch_size]
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(x[chosen]), y[chosen]).backward()
        optimizer.step()


def seconds(run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def main(
    rounds: Annotated[int, typer.Option(help="interleaved rounds")] = 7,
    batch_size: Annotated[int, typer.Option(help="images per step")] = 64,
) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = np.random.default_rng(0).random((STEPS * batch_size, 3, 32, 32), dtype=np.float32)
    y = np.arange(len(x)) % 10
    backbone = qadv.load("backbone", "resnet20")()

    def with_trainer(weights: str, activations: str, beta: float) -> Callable[[], None]:
        model = quantize(backbone, weights, activations)
        classifier = qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (3, 32, 32), 10)
        trainer = qadv.DefensiveQuantTrainer(classifier, beta=beta, lr=0.01, verbose=False)
        return lambda: trainer.fit(x, y, nb_epochs=1, batch_size=batch_size)

    def bare(weights: str, activations: str) -> Callable[[], None]:
        model = quantize(backbone, weights, activations)
        tensors = torch.from_numpy(x), torch.from_numpy(y)
        return lambda: bare_loop(model, *tensors, batch_size)

    runs = {setting: (with_trainer(*setting), bare(*setting[:2])) for setting in SETTINGS}
    floor = bare("float", "float")
    times: dict[tuple[str, str, float], list[tuple[float, float, float]]] = {setting: [] for setting in SETTINGS}
    for round_ in track(range(rounds + 1), "rounds"):
        for setting, (mine, bare_quantized) in runs.items():
            measured = seconds(mine), seconds(bare_quantized), seconds(floor)
            if round_:  # the first one warms up
                times[setting].append(measured)

    table = Table(
        "weights", "activations", "β", "ms per step", "× bare loop, same network", "× bare loop, float network"
    )
    for (weights, activations, beta), measured in times.items():
        per_step = statistics.median(1000 * mine / STEPS for mine, _, _ in measured)
        same = statistics.median(mine / same for mine, same, _ in measured)
        twin = statistics.median(mine / twin for mine, _, twin in measured)
        table.add_row(weights, activations, f"{beta:g}", f"{per_step:.0f}", f"{same:.2f}", f"{twin:.2f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
