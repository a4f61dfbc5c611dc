"""Tables of accuracies: networks × attacks, the worst case, and what the attacks did and cost."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from qadv.benchmark.report.audits import verdict
from qadv.benchmark.report.content import Block, Note, Row, Section, Table, Value
from qadv.benchmark.report.numbers import ABSENT, accuracy, mean_value, over_seeds, spread
from qadv.benchmark.report.published import PublishedFigures
from qadv.benchmark.report.results import CellResult, Network, StudyResults
from qadv.benchmark.report.threats import Threat
from qadv.benchmark.report.worst_case import outside, worst_cases

_NORMS = ("l2", "linf")


def accuracy_section(results: StudyResults) -> Section:
    """Returns accuracy of each network without an attack and under each, the published one beside it."""
    published = PublishedFigures(results)
    networks, named = results.networks, results.study.attacks
    under = {name: [cell for each in networks for cell in results.from_all_sources(each, name)] for name in named}
    attacks = [name for name, cells in under.items() if cells]
    rows: list[Row] = [
        [
            network.label,
            over_seeds(results.clean(network), accuracy, published.of(network, "clean")),
            *(_under(results, network, name, published.of(network, name)) for name in attacks),
        ]
        for network in networks
    ]
    notes = []
    if len(results.study.seeds) > 1:
        notes.append(f"Mean ± standard deviation (n − 1) over {len(results.study.seeds)} seeds.")
    each = "images made on each network of the study, this one included; the worst of them for each image."
    notes += [f"{name}: {each}" for name in attacks if named[name].source == "each"]
    notes += published.notes
    clean = [cell for network in networks for cell in results.clean(network)]
    columns = ["network", _with_images("clean", clean), *(_with_images(name, under[name]) for name in attacks)]
    caption = "Accuracy in %" + (", ours and as published" if results.study.published else "")
    return Section("Accuracy", (Table.of(caption, columns, rows, *notes),))


def worst_case_section(results: StudyResults) -> Section | None:
    """Returns the worst case of each network and ball; `None` where no attack keeps to one."""
    rows: list[Row] = []
    for network in results.networks:
        headlines: dict[Threat, float] = {}
        for worst in worst_cases(results, network):  # the headline of a ball comes first
            if worst.audited:
                headlines.setdefault(worst.threat, float(np.mean(worst.accuracy)))
            label = verdict(results, network, worst.audited, headlines.get(worst.threat))
            shares, clean = ([100 * share for share in found] for found in (worst.accuracy, worst.clean))
            some = len(worst.seeds) < len(results.study.seeds)
            alone = f" (seed{'s' * (len(worst.seeds) > 1)} {', '.join(map(str, worst.seeds))} alone)" if some else ""
            rows.append([
                network.label, str(worst.threat), Value(spread(shares)), label,
                f"{worst.samples:,}", Value(spread(clean)), worst.over + alone,
            ])  # fmt: skip
    if not rows:
        return None
    columns = ["network", "ball", "worst case, %", "audit", "images", "clean, %", "over"]
    caption = "Share of images classified correctly, clean and under every attack of one ball"
    note = (
        "Image by image, over the first images that all these attacks were run on. It is an upper bound of the "
        "accuracy under any attack; where a check of the audit failed, stronger attacks are to be expected. The first "
        "line of a network and ball is its headline: with the attacks of the audit, where there is one."
    )
    blocks: list[Block] = [Table.of(caption, columns, rows, note)]
    if left := "; ".join(outside(results)):
        blocks.append(Note(f"Not counted, because images leave the ball that the options say: {left}.", "bad"))
    return Section("Worst case", tuple(blocks))


def strength_section(results: StudyResults) -> Section | None:
    """Returns what attacks did and cost: distances of the successes, as published too, passes, seconds."""
    rows: list[Row] = []
    published = PublishedFigures(results)
    for network in results.networks:
        named = (name for name, attack in results.study.attacks.items() if attack.source is None)
        own = {cell.key for name in named for cell in results.attacked(network, name)}
        for name, attack in results.study.attacks.items():
            for source in [None] if attack.source == "each" else results.sources(network, name):
                cells = [cell for cell in results.attacked(network, name, source) if cell.there]
                if cells and not (attack.source == "each" and {cell.key for cell in cells} & own):
                    made_on = "itself" if source is None else results.label(source)
                    distances = [published.distance(network, name, norm, source) for norm in _NORMS]
                    rows.append([network.label, name, made_on, *_strength(cells, distances)])
    if not rows:
        return None
    columns = [
        "network", "attack", "made on", "images", "broken, %", "mean L2", "mean L∞", "forward passes",
        "backward passes", "seconds",
    ]  # fmt: skip
    note = (
        "Broken: of those classified correctly without an attack. Distances are means over the broken ones, in pixel "
        "values; passes are those of one image each, divided by the number of images. Means over seeds."
    )
    table = Table.of("What the attacks did and cost", columns, rows, note, *published.notes)
    return Section("Strength and cost of the attacks", (table,))


def broken(cell: CellResult) -> Any:
    """Returns which images were right without the attack and are not with it, (N,) bool."""
    return cell.record["clean_right"] & ~cell.record["right"]


def distance(cell: CellResult, norm: str) -> float | None:
    """Returns the mean distance of the broken images; `norm` is `l2` or `linf`."""
    distances = cell.record[norm][broken(cell)]
    return float(distances.mean()) if len(distances) else None


def _strength(cells: Sequence[CellResult], published: Sequence[str]) -> Row:
    samples = len(cells[0].record["right"])
    rates = [100 * broken(c).sum() / max(c.record["clean_right"].sum(), 1) for c in cells]
    costs: Row = [ABSENT] * 3
    if all("cost" in cell.record for cell in cells):
        passes = [[c.record["cost"][way] / samples for c in cells] for way in ("forward", "backward")]
        costs = [f"{np.mean(each):,.0f}" for each in passes]
        costs.append(f"{np.mean([c.record['seconds'] for c in cells]):,.1f}")
    found = [Value(mean_value([distance(c, n) for c in cells]), p) for n, p in zip(_NORMS, published, strict=True)]
    return [f"{samples:,}", spread(rates), *found, *costs]


def _under(results: StudyResults, network: Network, name: str, published: str) -> Value:
    cells = results.from_all_sources(network, name)
    if results.study.attacks[name].source != "each" or not cells:
        return over_seeds(cells, accuracy, published)
    by_seed = [[cell for cell in cells if cell.place["seed"] == seed] for seed in results.study.seeds]
    whole = [of_seed for of_seed in by_seed if of_seed and all(cell.there for cell in of_seed)]
    if not whole:
        return Value("not all there", published, "bad")
    rights = [[cell.record["right"] for cell in of_seed] for of_seed in whole]
    text = spread([100 * float(np.logical_and.reduce(right).mean()) for right in rights])
    return Value(text + ("" if len(whole) == len(by_seed) else f" ({len(whole)} of {len(by_seed)} seeds)"), published)


def _with_images(name: str, cells: Sequence[CellResult]) -> str:
    counts = [f"{count:,}" for count in sorted({len(cell.record["right"]) for cell in cells if cell.there})]
    return f"{name} ({' to '.join(dict.fromkeys((counts[0], counts[-1])))})" if counts else name
