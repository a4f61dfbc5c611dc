"""Cost of training: each trainer against a bare torch loop with the same passes, and against ART's adversarial trainer.

    python benchmarks/training.py [--rounds 5] [--batch-size 64]

The bare loop does the same forward and backward passes and optimizer steps on the same network: for PGD that is one
pass of the images' gradient per step, in evaluation mode, without those of the parameters. Rounds are interleaved, on
one thread, and the table has the median of the per-round ratios. `ART` is `AdversarialTrainerMadryPGD` in a plain
`PyTorchClassifier`, on qadv's quantized network and on Brevitas's own quantizers.
"""

import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import torch
import typer
from art.defences.trainer import AdversarialTrainerMadryPGD
from art.estimators.classification import PyTorchClassifier
from attacks import stock_brevitas
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

import qadv
from qadv.quantization.convert import quantize

STEPS = 6
EPS = 8 / 255
PGD_STEPS = 7


def input_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(nn.functional.cross_entropy(model(x), y), x)[0]


def r_fgsm(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    start = (x + EPS / 2 * torch.randn_like(x).sign()).clamp(0, 1)
    return (start + EPS / 2 * input_gradient(model, start, y).sign()).clamp(0, 1)


def pgd(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    adversarial = (x + EPS * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    for _ in range(PGD_STEPS):
        adversarial = adversarial + EPS / 4 * input_gradient(model, adversarial, y).sign()
        adversarial = torch.minimum(torch.maximum(adversarial, x - EPS), x + EPS).clamp(0, 1)
    return adversarial


def bare_loop(
    model: nn.Module, x: Tensor, y: Tensor, batch_size: int, attack: Any = None, paired: bool = False
) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    order = torch.randperm(len(x))
    for start in range(0, len(x), batch_size):
        chosen = order[start : start + batch_size]
        images, labels = x[chosen], y[chosen]
        adversarial = images
        if attack is not None:
            model.eval().requires_grad_(False)
            adversarial = attack(model, images, labels)
            model.requires_grad_(True)
        model.train()
        optimizer.zero_grad(set_to_none=True)
        logits = model(images if paired else adversarial)
        loss = nn.functional.cross_entropy(logits, labels)
        if paired:
            loss = loss + ((model(adversarial) - logits).norm(dim=1) / logits.norm(dim=1)).mean()
        loss.backward()
        optimizer.step()


PGD: dict[str, Any] = {"eps": EPS, "eps_step": EPS / 4, "max_iter": PGD_STEPS}
TRAINERS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "vanilla": (lambda c, **o: qadv.DefensiveQuantTrainer(c, beta=0.0, **o), {}),
    "DQ": (lambda c, **o: qadv.DefensiveQuantTrainer(c, **o), {}),
    "R+FGSM": (lambda c, **o: qadv.AdversarialQuantTrainer(c, "r-fgsm", eps=EPS, **o), {"attack": r_fgsm}),
    "PGD": (lambda c, **o: qadv.AdversarialQuantTrainer(c, "pgd", **PGD, **o), {"attack": pgd}),
    "EQ": (lambda c, **o: qadv.ErrorSilencedTrainer(c, **PGD, **o), {"attack": pgd, "paired": True}),
}


def seconds(run: Callable[[], None]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def main(
    rounds: Annotated[int, typer.Option(help="interleaved rounds")] = 5,
    batch_size: Annotated[int, typer.Option(help="images per step")] = 64,
) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = np.random.default_rng(0).random((STEPS * batch_size, 3, 32, 32), dtype=np.float32)
    y = np.arange(len(x)) % 10
    backbone = qadv.load("backbone", "resnet20")()
    fit = {"nb_epochs": 1, "batch_size": batch_size}

    def with_trainer(name: str, scheme: tuple[str, str]) -> Callable[[], None]:
        classifier = qadv.QuantizedClassifier(quantize_or_copy(scheme), nn.CrossEntropyLoss(), (3, 32, 32), 10)
        trainer = TRAINERS[name][0](classifier, lr=0.01, verbose=False)
        return lambda: trainer.fit(x, y, **fit)

    def bare(name: str, scheme: tuple[str, str]) -> Callable[[], None]:
        model = quantize_or_copy(scheme)
        tensors = torch.from_numpy(x), torch.from_numpy(y)
        return lambda: bare_loop(model, *tensors, batch_size, **TRAINERS[name][1])

    def with_art(model: nn.Module) -> Callable[[], None]:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        classifier = PyTorchClassifier(
            model, nn.CrossEntropyLoss(), (3, 32, 32), 10, optimizer=optimizer, clip_values=(0.0, 1.0)
        )
        trainer = AdversarialTrainerMadryPGD(classifier, num_random_init=1, **PGD, **fit)
        trainer.attack._verbose = False
        return lambda: trainer.fit(x, np.eye(10, dtype=np.float32)[y])

    def quantize_or_copy(scheme: tuple[str, str]) -> nn.Module:
        return quantize(backbone, *scheme)

    schemes = {"float": ("float", "float"), "4 bit": ("int:4", "relu6:4")}
    runs = {
        (name, bits): (with_trainer(name, scheme), bare(name, scheme))
        for bits, scheme in schemes.items()
        for name in TRAINERS
    }
    art = {
        "qadv's 4-bit network": with_art(quantize_or_copy(schemes["4 bit"])),
        "Brevitas's own quantizers": with_art(stock_brevitas(qadv.load("backbone", "resnet20")())),
    }
    times: dict[tuple[str, str], list[tuple[float, float]]] = {key: [] for key in runs}
    art_times: dict[str, list[float]] = {key: [] for key in art}
    for round_ in track(range(rounds + 1), "rounds"):
        for key, (mine, floor) in runs.items():
            measured = seconds(mine), seconds(floor)
            if round_:  # the first one warms up
                times[key].append(measured)
        for label, run in art.items():
            took = seconds(run)
            if round_:
                art_times[label].append(took)

    table = Table("trainer", "network", "ms per step", "× bare loop with the same passes")
    for (name, bits), pairs in times.items():
        per_step = statistics.median(1000 * ours / STEPS for ours, _ in pairs)
        ratio = statistics.median(ours / bare for ours, bare in pairs)
        table.add_row(name, bits, f"{per_step:.0f}", f"{ratio:.2f}")
    for label, theirs in art_times.items():
        ratio = statistics.median(t / ours for t, (ours, _) in zip(theirs, times["PGD", "4 bit"], strict=True))
        per_step = statistics.median(1000 * t / STEPS for t in theirs)
        table.add_row("ART's MadryPGD", label, f"{per_step:.0f}", f"{ratio:.2f} × qadv's PGD")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
