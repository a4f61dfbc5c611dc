"""The demo's results as one table."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from qadv.demo.settings import DemoSettings
from qadv.evaluation import AttackResult
from qadv.quantization.summary import summarize

if TYPE_CHECKING:
    from qadv.demo.run import NetworkResult

IN_BALL = ("FGSM", "PGD")  # the attacks that keep within ε


def results_table(dataset: str, settings: DemoSettings, networks: Sequence["NetworkResult"]) -> Table:
    """Returns one row per network and attack: accuracies, and mean L2 and L∞ of the perturbations that succeeded.

    The last row of a network is its headline: the lowest accuracy under an attack within ε, and that no audit says
    whether it may be believed.
    """
    table = Table(
        title=f"{dataset}: FGSM and PGD with eps = {_eps(settings.eps)}, ZOO and Boundary minimise L2",
        caption=f"L2 and L∞: mean over the successes. Lowest: of {' and '.join(IN_BALL)}, which keep within eps. It is "
        "an upper bound on robustness; qadv audit says whether it is a tight one.",
    )
    for column in ("network", "attack"):
        table.add_column(column, no_wrap=True)
    for column in ("images", "clean", "adversarial", "mean L2", "mean L∞"):
        table.add_column(column, justify="right", no_wrap=True)
    for network in networks:
        size = f"{summarize(network.classifier).packed_bytes / 1024:.0f} KiB"
        table.add_row(network.label, "none", "all", f"{network.clean_accuracy:.1%}", "", "", "")
        for row, attack in enumerate(network.attacks):
            table.add_row(
                size if row == 0 else "",
                attack.attack,
                str(attack.samples),
                f"{attack.clean_accuracy:.1%}",
                f"{attack.adversarial_accuracy:.1%}",
                "–" if attack.mean_l2 is None else f"{attack.mean_l2:.2f}",
                "–" if attack.mean_linf is None else f"{attack.mean_linf:.3f}",
            )
        lowest = min((attack for attack in network.attacks if attack.attack in IN_BALL), key=_accuracy, default=None)
        if lowest is not None:
            found = f"{lowest.adversarial_accuracy:.1%}"
            table.add_row("not audited", "lowest", str(lowest.samples), f"{lowest.clean_accuracy:.1%}", found, "", "")
        table.add_section()
    return table


def _accuracy(attack: AttackResult) -> float:
    return attack.adversarial_accuracy


def _eps(eps: float) -> str:
    pixels = eps * 255
    return f"{pixels:.0f}/255" if abs(pixels - round(pixels)) < 1e-9 else f"{eps:g}"
