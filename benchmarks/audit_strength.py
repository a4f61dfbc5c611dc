"""How strong the audit is: networks whose truth is known, against the official AutoAttack, in passes and in figures.

    python benchmarks/audit_strength.py --data-dir DATA --out FOLDER [--network NAME]... [--method NAME]...

DATA holds mnist.npz, whose images are taken at half their size, 14 by 14. Networks are trained in a minute each: a
small CNN with float, 4-bit and 2-bit weights and activations, with and without PGD training. Honest steps and masks are
put in front of or behind the 4-bit one that was trained with PGD: what they hide is known, since a *reference* attack
goes round them: PGD on the margin against the network without the mask, judged by the network with it. Methods: "quick"
and "thorough" audits, "autoattack" (through the plugin qadv-autoattack) and "reference". Passes are forward and
backward passes of one image, per image that is classified correctly.

Each network, and what each method found on it, is a file in FOLDER: an interrupted run goes on where it stopped, and
the table is made of what is there.
"""

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor, nn

import qadv
from qadv.diagnostics.audit.ascent import ascend
from qadv.diagnostics.audit.ball import Ball
from qadv.diagnostics.audit.checks.answers_repeat import is_random
from qadv.diagnostics.audit.cost import Cost
from qadv.diagnostics.audit.losses import negative_margin
from qadv.diagnostics.audit.target import Target

EPS = 0.15
SIZE = 14
BASES = {
    "float": ("float", "float", None),
    "4 bit": ("int:4", "relu6:4", None),
    "2 bit": ("int:2", "relu6:2", None),
    "float, PGD": ("float", "float", "pgd"),
    "4 bit, PGD": ("int:4", "relu6:4", "pgd"),
    "2 bit, PGD": ("int:2", "relu6:2", "pgd"),
}
STEPPED = "4 bit, PGD"
METHODS = ("quick", "thorough", "autoattack", "reference")


class Masked(nn.Module):
    """A network behind a step whose values, gradient or both are spoilt."""

    def __init__(self, network: nn.Module, step: Callable[[Tensor], Tensor], after: bool = False) -> None:
        super().__init__()
        self.network, self.step, self.after = network, Step(step), after

    def forward(self, x: Tensor) -> Tensor:
        return self.step(self.network(x)) if self.after else self.network(self.step(x))


class Step(nn.Module):
    """The spoilt step, a module of its own."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class DrownedBackward(torch.autograd.Function):
    """The identity, with noise ten times as large added to its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        size = slopes[0].flatten(1).std(dim=1).view(-1, 1, 1, 1)
        return slopes[0] + 10 * size * torch.randn_like(slopes[0])


class SpoiltBackward(torch.autograd.Function):
    """The identity, with a gradient that is multiplied by a fixed factor for each pixel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        (factor,) = ctx.saved_tensors
        return slopes[0] * factor, None


class MaskedByClass(nn.Module):
    """Gives no gradient for 60 % of the pixels, others for each predicted class; with hard labels, if asked for."""

    def __init__(self, network: nn.Module, hard: bool) -> None:
        super().__init__()
        self.network, self.hard = network, hard

    def forward(self, x: Tensor) -> Tensor:
        kept = torch.rand((10, *x.shape[1:]), generator=torch.Generator().manual_seed(3)) > 0.6
        with torch.no_grad():
            factor = kept.to(x)[self.network(x).argmax(1)]
        logits = self.network(SpoiltBackward.apply(x, factor))
        return hard_labels(logits) if self.hard else logits


def hard_labels(logits: Tensor) -> Tensor:
    """Gives 10 for the predicted class and 0 for others, with the gradient of the logits."""
    return logits + (10 * nn.functional.one_hot(logits.argmax(1), 10) - logits).detach()


def noisy_gradient(x: Tensor) -> Tensor:
    """Drowns the gradient in noise, anew at each pass."""
    return DrownedBackward.apply(x)


def winners(x: Tensor) -> Tensor:
    """Keeps the brightest quarter of the pixels, and makes the others black."""
    least = x.detach().flatten(1).kthvalue(3 * x[0].numel() // 4, dim=1).values
    return x * (x > least.view(-1, 1, 1, 1))


def coarse(x: Tensor) -> Tensor:
    """Rounds to 3 bits, with the identity's gradient: an honest step."""
    return x + ((7 * x).round() / 7 - x).detach()


def rounded(x: Tensor) -> Tensor:
    """Rounds to 15 steps; the gradient is zero."""
    return (15 * x).round() / 15


def hidden_pixels(x: Tensor) -> Tensor:
    """Gives no gradient for 60 % of the pixels, always the same."""
    kept = torch.rand(x.shape[1:], generator=torch.Generator().manual_seed(0)) > 0.6
    return SpoiltBackward.apply(x, kept.to(x))


def wrong_signs(x: Tensor) -> Tensor:
    """Turns the gradient of half of the pixels round, always the same."""
    right = torch.rand(x.shape[1:], generator=torch.Generator().manual_seed(1)) > 0.5
    return SpoiltBackward.apply(x, 2 * right.to(x) - 1)


def saturated(logits: Tensor) -> Tensor:
    """Logits so large that the softmax has no gradient, as after distillation."""
    return 1000 * logits


def noisy(x: Tensor) -> Tensor:
    """Adds noise, anew at each pass."""
    return x + 0.1 * torch.randn_like(x)


def hashed(x: Tensor) -> Tensor:
    """Adds noise that the pixels themselves decide."""
    weights = torch.rand(x[0].numel(), generator=torch.Generator().manual_seed(2)) + 1
    seeds = (x.detach().flatten(1).double() @ weights.double() * 1e6).long() % 2**31
    drawn = [torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
    return x + 0.1 * torch.stack(drawn)


STEPS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "rounding to 3 bits": lambda network: Masked(network, coarse),
    "k winners": lambda network: Masked(network, winners),
    "rounding, no gradient": lambda network: Masked(network, rounded),
    "60 % of pixels": lambda network: Masked(network, hidden_pixels),
    "pixels by class": lambda network: MaskedByClass(network, hard=False),
    "hard labels": lambda network: Masked(network, hard_labels, after=True),
    "hard, by class": lambda network: MaskedByClass(network, hard=True),
    "drowned gradient": lambda network: Masked(network, noisy_gradient),
    "half of the signs": lambda network: Masked(network, wrong_signs),
    "saturated softmax": lambda network: Masked(network, saturated, after=True),
    "noise": lambda network: Masked(network, noisy),
    "noise by hash": lambda network: Masked(network, hashed),
}


def wrapped(network: nn.Module) -> Any:
    return qadv.QuantizedClassifier(network, nn.CrossEntropyLoss(), (1, SIZE, SIZE), 10)


def halved(x: Any) -> Any:
    """Returns images (N, 1, 28, 28) at half their size."""
    return x.reshape(len(x), 1, SIZE, 2, SIZE, 2).mean(axis=(3, 5))


def base(name: str, data: Any, out: Path, seed: int, nb_train: int, nb_epochs: int) -> Any:
    """Returns a trained classifier, from its file where there is one."""
    path = out / f"{name} {seed}.safetensors"
    if path.exists():
        return qadv.QuantizedClassifier.load(path)
    weights, activations, attack = BASES[name]
    torch.manual_seed(seed)
    classifier = qadv.QuantizedClassifier.from_backbone(
        "mnist-cnn", weights, activations, input_shape=(1, SIZE, SIZE), image_size=SIZE, width=8
    )
    adversary = None if attack is None else qadv.Adversary(attack, eps=EPS, max_iter=5)
    trainer = qadv.DefensiveQuantTrainer(
        classifier, beta=0.0, lr=0.1, adversary=adversary, seed=seed, verbose=False
    )  # fmt: skip
    trainer.fit(halved(data.x_train[:nb_train]), data.y_train[:nb_train], nb_epochs=nb_epochs, batch_size=128)
    classifier.save(path)
    return classifier


def audited(classifier: Any, x: Any, y: Any, seed: int, thorough: bool) -> dict[str, Any]:
    result = qadv.audit(classifier, x, y, eps=EPS, seed=seed, thorough=thorough, verbose=False)
    grade = getattr(result, "grade", None) or f"{result.failed} failed"
    parts = [[each.name, each.samples, each.first, each.cost.to_dict()] for each in result.attacks]
    return {"robust": result.worst_case.robust.tolist(), "grade": str(grade), "headline": result.headline,
            "failed": list(result.failed), "figures": {each.name: each.figure for each in result.checks},
            "cost": result.cost.to_dict(), "seconds": result.seconds, "attacks": parts}  # fmt: skip


def attacked(classifier: Any, x: Any, y: Any, seed: int) -> dict[str, Any]:
    """The official AutoAttack, version "standard"."""
    cost = Cost()
    with cost.counted(classifier.model):
        attack = qadv.create("attack", "qadv-autoattack/autoattack", classifier, eps=EPS, seed=seed, verbose=False)
        attack.generate(x, y)
    return {"robust": attack.robust.tolist(), "cost": cost.to_dict()}


def referenced(classifier: Any, inner: Any, x: Any, y: Any, seed: int) -> dict[str, Any]:
    """PGD of 100 steps on every other class's margin, on the network without its mask; judged with it."""
    target, judge = Target(inner, 128), Target(classifier, 128)
    judge.draws = 8 if is_random(judge, x, y, 3) else 1
    robust, ball = ~judge.broken(x, y), Ball(EPS, math.inf, 0.0, 1.0)
    order = np.argsort(-np.where(np.eye(10, dtype=bool)[y], -np.inf, target.logits(x)), axis=1)
    for turn in range(20):
        left = np.flatnonzero(robust)
        if len(left) == 0:
            break
        goals = None if turn < 2 else order[left, (turn - 2) % 9]
        found = ascend(
            target, x[left], y[left], loss=negative_margin, goals=goals, ball=ball, steps=100, seed=seed + 1000 + turn,
            leave=False,
        )  # fmt: skip
        for points in (found.images, found.highest):
            robust[left] &= ~judge.broken(points, y[left])
    return {"robust": robust.tolist()}


def main(
    data_dir: Annotated[Path, typer.Option(help="the folder with mnist.npz")],
    out: Annotated[Path, typer.Option(help="the folder for networks and findings")],
    network: Annotated[list[str] | None, typer.Option(help="one of them, by name; all without it")] = None,
    method: Annotated[list[str] | None, typer.Option(help=f"one of {', '.join(METHODS)}")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="seeds of training and attacks; 0 1 2 without it")] = None,
    nb_test: Annotated[int, typer.Option(help="test images, those after the first thousand")] = 100,
    nb_train: Annotated[int, typer.Option(help="training images")] = 20000,
    nb_epochs: Annotated[int, typer.Option(help="of training")] = 4,
    before: Annotated[
        Path | None, typer.Option(help="the folder of an earlier qadv, whose findings are shown too")
    ] = None,
    table_only: Annotated[bool, typer.Option("--table-only", help="of what is in the folder")] = False,
) -> None:
    """Compares audits with AutoAttack and with a reference that goes round each mask; prints a table, in Markdown."""
    out.mkdir(parents=True, exist_ok=True)
    data = qadv.create("dataset", "mnist", data_dir=data_dir)
    x, y = halved(data.x_test[1000 : 1000 + nb_test]), data.y_test[1000 : 1000 + nb_test]
    rows: dict[str, list[dict[str, Any]]] = {}
    for each in seed or (0, 1, 2):
        for name in network or [*BASES, *STEPS]:
            inner = base(name if name in BASES else STEPPED, data, out, each, nb_train, nb_epochs)
            torch.manual_seed(each)
            classifier = wrapped(STEPS[name](inner.network)) if name in STEPS else inner
            row: dict[str, Any] = {"clean": float((classifier.predict(x).argmax(1) == y).mean())}
            rows.setdefault(name, []).append(row)
            for how in method or METHODS:
                path = out / f"{name} {each} {how} {nb_test}.json"
                if not path.exists() and not table_only:
                    torch.manual_seed(each)
                    if how == "reference":
                        found = referenced(classifier, inner, x, y, each)
                    elif how == "autoattack":
                        found = attacked(classifier, x, y, each)
                    else:
                        found = audited(classifier, x, y, each, thorough=how == "thorough")
                    path.write_text(json.dumps(found))
                if path.exists():
                    row[how] = json.loads(path.read_text())
            earlier = None if before is None else before / f"{name} {each} quick {nb_test}.json"
            if earlier is not None and earlier.exists():
                row["before"] = json.loads(earlier.read_text())
    print(table(rows))


def table(rows: dict[str, list[dict[str, Any]]]) -> str:
    """Returns a row for each network, its seeds side by side: accuracies in %, passes per image that is right."""

    def left(row: dict[str, Any], how: str) -> str:
        return f"{100 * np.mean(row[how]['robust']):.0f}" if how in row else "–"

    def passes(row: dict[str, Any], how: str) -> str:
        return f"{sum(row[how]['cost'].values()) / len(row[how]['robust']) / row['clean']:,.0f}" if how in row else "–"

    def grade(row: dict[str, Any]) -> str:
        found = row.get("quick", {})
        failed = f": {', '.join(map(str, found['failed']))}" if found.get("failed") else ""
        return f"{found.get('grade', '–')}{failed}"

    columns = {"clean": lambda row: f"{100 * row['clean']:.0f}"}
    for how in ("before", "quick", "thorough", "autoattack"):
        columns[how] = partial(left, how=how)
        columns[f"passes, {how}"] = partial(passes, how=how)
    columns |= {"reference": partial(left, how="reference"), "grade, quick": grade}
    made = {column: [list(map(cell, found)) for found in rows.values()] for column, cell in columns.items()}
    shown = {column: cells for column, cells in made.items() if any(set(row) - {"–"} for row in cells)}
    lines = [f"| network | {' | '.join(shown)} |", "|---" * (len(shown) + 1) + "|"]
    for name, *cells in zip(rows, *shown.values(), strict=True):
        *figures, grades = cells
        lines.append(
            f"| {name} | {' | '.join(', '.join(row) for row in figures)} | {'; '.join(dict.fromkeys(grades))} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
