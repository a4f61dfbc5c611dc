"""Cost of each scheme: a training step and an evaluation forward against the float twin.

    python benchmarks/quantizers.py [--rounds 7] [--batch-size 64] [--backbone resnet20]

Weight schemes stand beside float activations, activation schemes beside float weights, and some of both. All networks
take turns in each round, on one thread; the table has the medians of the ratios to the float network of the same
round. "frozen" is the evaluation forward of `qadv.quantization.freeze`: weights quantized once.
"""

import statistics
import time
from collections.abc import Callable
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

from qadv.backbones import create_backbone
from qadv.quantization import quantize
from qadv.quantization.frozen import freeze

WEIGHTS = ["int:4", "int-per-tensor:4", "bwn", "twn", "binary-connect", "dorefa:4", "pwlq:4", "sq(bwn)"]
ACTIVATIONS = ["relu6:4", "relu1:4", "relu:4", "pact:4", "dorefa:4", "tanh:4", "binary-net"]
PAIRS = (
    [("float", "float")]
    + [(scheme, "float") for scheme in WEIGHTS]
    + [("float", scheme) for scheme in ACTIVATIONS]
    + [("int:4", "relu6:4"), ("bwn", "pact:2"), ("dorefa:2", "dorefa:2")]
)


def seconds(run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def runs(model: nn.Module, frozen: nn.Module, x: torch.Tensor, y: torch.Tensor) -> list[Callable[[], None]]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)

    def step() -> None:
        model.train()
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        for module in model.modules():
            if hasattr(module, "after_step"):
                module.after_step()

    @torch.no_grad()
    def forward() -> None:
        model.eval()(x)

    @torch.no_grad()
    def frozen_forward() -> None:
        frozen(x)

    return [step, forward, frozen_forward]


def main(
    rounds: Annotated[int, typer.Option(help="interleaved rounds")] = 7,
    batch_size: Annotated[int, typer.Option(help="images per step")] = 64,
    backbone: Annotated[str, typer.Option(help="any backbone for 3x32x32 images")] = "resnet20",
) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, y = torch.rand(batch_size, 3, 32, 32), torch.arange(batch_size) % 10
    network = create_backbone(backbone, nb_classes=10, in_channels=3)
    measured: dict[tuple[str, str], list[list[float]]] = {}
    parts = {}
    for pair in PAIRS:
        model = network if pair == ("float", "float") else quantize(network, *pair, calibration=x[:32])
        frozen = model if model is network else freeze(model).eval()
        parts[pair], measured[pair] = runs(model, frozen, x, y), []
    for round_ in track(range(rounds + 1), "rounds"):
        for pair, (step, forward, frozen_forward) in parts.items():
            times = [seconds(step)]
            forward()  # quantizes the weights that the step has changed
            times += [seconds(forward), seconds(frozen_forward)]
            if round_:  # the first one warms up
                measured[pair].append(times)

    floor = measured["float", "float"]
    table = Table("weights", "activations", "training step", "evaluation forward", "frozen forward")
    table.title = f"{backbone}, batches of {batch_size}, one thread: × the float network"
    for pair, rows in measured.items():
        ratios = [
            statistics.median(mine[k] / twin[min(k, 1)] for mine, twin in zip(rows, floor, strict=True))
            for k in range(3)
        ]
        table.add_row(*pair, *(f"{ratio:.2f}" for ratio in ratios))
    Console().print(table)
    milliseconds = [1000 * statistics.median(times[k] for times in floor) for k in range(2)]
    print(f"float: training step {milliseconds[0]:.0f} ms, evaluation forward {milliseconds[1]:.0f} ms")


if __name__ == "__main__":
    typer.run(main)
