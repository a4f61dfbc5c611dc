"""The demo's results as one table."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Column, Table

from qadv.benchmark.report.numbers import plain_eps
from qadv.demo.settings import DemoSettings
from qadv.frontends.summary import summarize
from qadv.tables import percent, right, table

if TYPE_CHECKING:
    from qadv.demo.run import NetworkResult

IN_BALL = ("FGSM", "PGD")  # the attacks that keep within ε


def results_table(dataset: str, settings: DemoSettings, networks: Sequence["NetworkResult"]) -> Table:
    """Returns one row per network and attack: accuracies, and mean L2 and L∞ of the perturbations that succeeded.

    The last row of a network is its headline: the lowest accuracy under an attack within ε, and that no audit says
    whether it may be believed.
    """
    shown = table(
        [*(Column(name, no_wrap=True) for name in ("network", "attack")),
         *right("images", "clean", "adversarial", "mean L2", "mean L∞")],
        (),
        title=f"{dataset}: FGSM and PGD with eps = {plain_eps(settings.eps)}, ZOO and Boundary minimise L2",
        caption=f"L2 and L∞: mean over the successes. Lowest: of {' and '.join(IN_BALL)}, which keep within eps. It is "
        "an upper bound on robustness; qadv audit says whether it is a tight one.",
    )  # fmt: skip
    for network in networks:
        size = f"{summarize(network.classifier).packed_bytes / 1024:.0f} KiB"
        shown.add_row(network.label, "none", "all", percent(network.clean_accuracy))
        for row, attack in enumerate(network.attacks):
            shares = percent(attack.clean_accuracy), percent(attack.adversarial_accuracy)
            means = (attack.mean_l2, 2), (attack.mean_linf, 3)
            distances = ("–" if mean is None else f"{mean:.{digits}f}" for mean, digits in means)
            shown.add_row("" if row else size, attack.attack, str(attack.samples), *shares, *distances)
        if within := [attack for attack in network.attacks if attack.attack in IN_BALL]:
            lowest = min(within, key=lambda attack: attack.adversarial_accuracy)
            shares = percent(lowest.clean_accuracy), percent(lowest.adversarial_accuracy)
            shown.add_row("not audited", "lowest", str(lowest.samples), *shares)
        shown.add_section()
    return shown
