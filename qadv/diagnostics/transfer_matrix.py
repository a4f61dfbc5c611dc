"""Adversarial images of each network given to each (docs/methods.md §3, §5; EQ table 2b, low-bitwidth tables 17-34)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qadv.checks import check_choice, check_whole
from qadv.diagnostics.attacking import check_classifiers, generate, least_classes
from qadv.diagnostics.drawing import draw_matrix, new_panels
from qadv.diagnostics.measured import Measured
from qadv.errors import InvalidInputError, closest
from qadv.estimators.checks import check_pair
from qadv.estimators.fingerprint import fingerprint
from qadv.estimators.protocol import Classifier
from qadv.evaluation import Outcome, predicted
from qadv.random_states import repeatable
from qadv.tables import number, percent, text_table


@dataclass(frozen=True)
class TransferMatrix(Measured):
    """Every attack, from every source to every target; prints as one table per attack.

    Arrays have the shape (attacks, sources, targets). A success is an image that the *target* classifies correctly and
    whose adversarial version it does not. Where there is none, distances are NaN.

    Attributes:
        attacks: their names.
        sources, targets: names of the networks that images were made on, and of those that got them.
        copied: names of those that, as their own target, were attacked from a second copy.
        clean: accuracy of each target on the clean images, (targets,).
        accuracy: accuracy of the target on the adversarial images.
        success_rate: successes as part of the images that the target classifies correctly; NaN if there is none.
        l2, linf: mean norms of the successes.
        worst_case: part of the images that a target classifies correctly, clean and whatever the attack and its source,
            (targets,).
    """

    attacks: tuple[str, ...]
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    copied: tuple[str, ...]
    samples: int
    clean: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    success_rate: NDArray[np.float64]
    l2: NDArray[np.float64]
    linf: NDArray[np.float64]
    worst_case: NDArray[np.float64]

    def __str__(self) -> str:
        columns = ["source", *self.targets]
        tables = []
        for a, attack in enumerate(self.attacks):
            rows = [["(clean)", *map(percent, self.clean)]]
            for s, source in enumerate(self.sources):
                copied = {self.targets.index(source)} if source in self.copied else ()
                figures = zip(self.accuracy[a, s], self.l2[a, s], self.linf[a, s], strict=True)
                cells = (f"{percent(share)} / {number(l2, 2)} / {number(linf, 2)}" for share, l2, linf in figures)
                rows.append([source, *(cell + "*" * (t in copied) for t, cell in enumerate(cells))])
            title = f"{attack}, {self.samples} images: accuracy of each target / mean L2 / mean L∞ of the successes"
            tables.append(text_table(title, columns, rows))
        worst = ["", *map(percent, self.worst_case)]
        tables.append(text_table("Worst case over all of them", ["", *self.targets], [worst]))
        note = f"* {', '.join(self.copied)}: attacked from a second copy" if self.copied else ""
        return "\n".join([*tables, note]).rstrip()


@repeatable
def transfer_matrix(
    classifiers: Mapping[str, Classifier],
    x: NDArray[Any],
    y: Any,
    attacks: Mapping[str, Callable[[Any], Any]],
    sources: Sequence[str] | None = None,
    copies: Mapping[str, Any] | None = None,
    batch_size: int = 128,
    seed: int = 0,
) -> TransferMatrix:
    """Attacks each network and gives the images to all; each attack runs once per source.

    Args:
        classifiers: ART classifiers by name, for the same images and classes; all are targets.
        x, y: images, (N, *input_shape), and their classes, indices or one-hot.
        attacks: by name, functions that take a classifier and return an untargeted ART attack on it.
        sources: names of those that are attacked; `None` for all.
        copies: for some names a second network, trained from another start: in place of the network itself it is the
            source of the attack on that network alone, as in EQ's table 2b. It costs one more run per attack.
        batch_size: images per pass of the targets; the attacks have their own.
        seed: decides what each attack draws: the same for each source.

    Raises:
        InvalidInputError: a copy has the weights of the network itself, or an attack gives something else than images.
    """
    targets = check_classifiers(classifiers)
    copies = dict(copies or {})
    names = list(targets) if sources is None else list(dict.fromkeys(sources))
    for name in [*names, *copies]:
        if name not in targets:
            raise InvalidInputError(f"sources and copies: {name!r} is none of the classifiers{closest(name, targets)}")
    check_classifiers({**targets, **{f"copy of {name}": copy for name, copy in copies.items()}})
    for name, copy in copies.items():
        if fingerprint(copy) == fingerprint(targets[name]):
            raise InvalidInputError(
                f"copies: {name!r} has the same weights as the network itself, so that nothing is transferred; train a "
                "second one from another start, or leave it out"
            )
    if not names or not isinstance(attacks, Mapping) or not attacks or not all(map(callable, attacks.values())):
        raise InvalidInputError(
            "expected one or more sources, and attacks by name, e.g. {'FGSM': lambda c: FastGradientMethod(c, eps=0.1)}"
        )
    first = next(iter(targets.values()))
    x, labels = check_pair(first, x, y, least_classes([*targets.values(), *copies.values()]))
    batch_size = check_whole("batch_size", batch_size)

    right = np.stack([predicted(target, x, batch_size) == labels for target in targets.values()])
    withstood = right.copy()
    shape = (len(attacks), len(names), len(targets))
    found = {key: np.full(shape, np.nan) for key in ("accuracy", "success_rate", "l2", "linf")}
    for a, (label, make) in enumerate(attacks.items()):
        for s, name in enumerate(names):
            made = generate(make(targets[name]), x, labels, seed, label)
            own = generate(make(copies[name]), x, labels, seed, label) if name in copies else made
            for t, (target_name, target) in enumerate(targets.items()):
                images = own if target_name == name else made  # a second copy attacks nobody else
                outcome = Outcome.of(target, x, labels, images, right[t], batch_size)
                withstood[t] &= outcome.right
                distances = outcome.mean_distance(2), outcome.mean_distance(np.inf)
                for key, figure in zip(found, (outcome.right.mean(), outcome.success_rate, *distances), strict=True):
                    found[key][a, s, t] = np.nan if figure is None else figure
    return TransferMatrix(
        attacks=tuple(attacks),
        sources=tuple(names),
        targets=tuple(targets),
        copied=tuple(name for name in names if name in copies),
        samples=len(x),
        clean=right.mean(axis=1),
        worst_case=withstood.mean(axis=1),
        **found,
    )


def draw_transfer_matrix(matrix: TransferMatrix, attack: str | None = None, ax: Any = None) -> Any:
    """Draws accuracies as coloured cells, sources in rows and targets in columns, clean accuracy on top.

    `attack` names the one to draw; `None` draws all, side by side, on a figure of their own.
    """
    if attack is not None:
        check_choice("attack", attack, matrix.attacks)
    chosen = matrix.attacks if attack is None else (attack,)
    if ax is not None and len(chosen) > 1:
        raise InvalidInputError(f"ax: one for {len(chosen)} attacks; name the attack to draw, or leave ax out")
    panel_size = 2.2 + 0.8 * len(matrix.targets), 2.4 + 0.6 * len(matrix.sources)
    figure, panels = new_panels(len(chosen), panel_size) if ax is None else (ax.figure, [ax])
    for index, (name, panel) in enumerate(zip(chosen, panels, strict=True)):
        values = 100 * np.vstack([matrix.clean, matrix.accuracy[matrix.attacks.index(name)]])
        rows = ["(clean)", *matrix.sources]
        texts = np.char.mod("%.0f", values).astype(object)
        for copied in matrix.copied:
            texts[rows.index(copied), matrix.targets.index(copied)] += "*"
        draw_matrix(panel, values, rows, matrix.targets, texts.tolist(), (0, 100), "viridis")
        panel.axhline(0.5, color="white", linewidth=3)
        panel.set_title(f"{name}: accuracy, %", fontsize=10)
        panel.set_xlabel("target")
        if index == 0:
            panel.set_ylabel("source")
    if matrix.copied:
        where: dict[str, Any] = {"xycoords": "axes fraction", "ha": "right", "va": "top"}
        panels[-1].annotate("* from a second copy", (1, -0.02), **where, fontsize=7)
    return figure
