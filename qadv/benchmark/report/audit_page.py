"""The page of one audit: `qadv audit --html`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from qadv.benchmark.report.audits import TONES
from qadv.benchmark.report.content import About, Bars, Block, Gallery, Note, Row, Section, StudyPage, Table, Value
from qadv.benchmark.report.examples import MAGNIFIED, example
from qadv.benchmark.report.numbers import percent
from qadv.benchmark.report.opening import bar
from qadv.benchmark.report.readable import bits
from qadv.benchmark.report.rendering import html_page
from qadv.benchmark.report.threats import Threat
from qadv.diagnostics.audit.result import AuditResult, Grade, Verdict, failed_checks
from qadv.estimators.protocol import Classifier
from qadv.modes import evaluation_mode

_EXAMPLES = 8
_SAID = {
    Grade.NOTHING: "no check speaks against this figure",
    Grade.NOT_CONVERGED: "but a check failed: stronger attacks may lower this by a few points",
    Grade.UNUSABLE: "but its gradients mislead attacks, so that the figure means nothing",
}


def audit_page(
    classifier: Classifier,
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    result: AuditResult,
    name: str,
    class_names: Sequence[str] | None = None,
) -> str:
    """Returns an HTML page that loads nothing: a sentence, a chart, a row for each radius, images, checks, attacks.

    Args:
        classifier, x, y: as they were audited; of a pair of classes, all images.
        result: what `audit` found.
        name: of the network, for the title.
        class_names: as people call the classes; without them their numbers.
    """
    quantization = getattr(classifier.model, "qadv_quantization", None) or {}
    title = f"{name} ({bits(quantization['weights'], quantization['activations'])})" if quantization else name
    curve = (*result.smaller, result)
    sections = [Section("At a glance", tuple(_glance(curve, title)))]
    if (images := _gallery(classifier, x, y, result, class_names)) is not None:
        note = f"The difference is magnified {MAGNIFIED} times; grey is no change."
        sections.append(Section("Images", (Note(note), images)))
    sections += [Section("Checks", (_checks(result),)), Section("Attacks", (_attacks(result),))]
    worst = result.worst_case
    says, pair = "classifies {} % of {} images correctly", result.pair
    if pair is not None:
        source, goal = (class_names[each] if class_names else each for each in pair)
        says = f"keeps {{}} % of {{}} images of class {source} from being given class {goal}"
    lead = (
        f"{title} {says.format(f'{100 * worst.accuracy:.1f}', f'{result.samples:,}')} under the worst of "
        f"{len(result.attacks)} attacks within {_ball(result)}, {100 * worst.clean_accuracy:.1f} % without one; "
        f"{_said(result)}."
    )
    cost, seconds = result.spent
    facts = (
        ("gradients", result.gradient),
        ("budgets", "thorough" if result.thorough else "quick"),
        ("seed", str(result.seed)),
        ("passes of one image", f"{cost.forward:,} forward, {cost.backward:,} backward"),
        ("minutes", f"{seconds / 60:.1f}"),
    )
    page = StudyPage("audit", About(f"Audit of {title}"), False, facts, tuple(sections), lead)
    return html_page([page], made_by="qadv audit")


def _said(result: AuditResult) -> str:
    """Returns what the checks say, of which some may not have been asked for."""
    if result.grade is Grade.NOTHING and result.left_out:
        return f"no check that was made speaks against this figure, and {len(result.left_out)} were left out"
    return _SAID[result.grade]


def _ball(result: AuditResult) -> str:
    return f"{Threat(result.norm, result.eps)}{' as 8-bit images' if result.pixels == 'uint8' else ''}"


def _glance(curve: Sequence[AuditResult], title: str) -> list[Block]:
    rows: list[Row] = []
    bars = []
    for each in curve:
        worst, (low, high) = each.worst_case, each.interval
        tone = "bad" if each.failed else "good"
        said = Value(f"{each.grade}: {failed_checks(each.failed)}" if each.failed else each.grade, tone=tone)
        share, clean = percent(worst.accuracy), percent(worst.clean_accuracy)
        rows.append([title, _ball(each), share, f"{percent(low)} to {percent(high)}", clean, f"{each.samples:,}", said])
        label = title if len(curve) == 1 else _ball(each)
        bars.append(bar(label, [worst.accuracy], [worst.clean_accuracy], each.samples, tone))
    columns = ["network", "ball", "worst case, %", "95 %", "clean, %", "images", "what the checks say"]
    what = "classified correctly" if curve[-1].pair is None else "not given the other class"
    notes = curve[-1].headline.split("; ")[1:]
    return [
        Bars(f"Images {what}, clean and in the worst case", tuple(bars)),
        Table.of("One row for each radius" if len(curve) > 1 else "The worst case", columns, rows, *notes),
    ]


def _gallery(
    classifier: Classifier, x: Any, y: Any, result: AuditResult, class_names: Sequence[str] | None
) -> Gallery | None:
    """Returns the first images that an attack broke, then the first that hold out; none of no pictures."""
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        return None
    if result.pair is not None:
        x, y = x[y == result.pair[0]], y[y == result.pair[0]]
    by = np.array(result.worst_case.broken_by)
    order = [*np.flatnonzero((by != "") & (by != "clean")), *np.flatnonzero(by == "")][:_EXAMPLES]
    if not order:
        return None
    shown = x[order].astype(np.float32), result.worst_case.adversarial[order]
    with evaluation_mode(classifier.model):
        said = [softmax(classifier.predict(images), axis=1) for images in shown]
    low, high = np.min(classifier.clip_values[0]), np.max(classifier.clip_values[1])
    examples = []
    for place, image in enumerate(order):
        pictures = [(images[place] - low) / (high - low) for images in shown]
        answers = [(int(rows[place].argmax()), float(rows[place].max())) for rows in said]
        tone = "bad" if by[image] else "good"
        end = f"broken by {by[image]}" if by[image] else "holds out"
        found = pictures[1] if by[image] else None
        examples.append(example(found, pictures[0], int(y[image]), answers, class_names, end, tone))
    return Gallery("Clean, adversarial, and what was added", tuple(examples))


def _checks(result: AuditResult) -> Table:
    rows: list[Row] = []
    for check in sorted(result.checks, key=lambda check: check.verdict is not Verdict.FAILED):
        verdict = Value(check.verdict.value, tone=TONES[check.verdict.value])
        rows.append([f"{check.number} {check.name}", verdict, check.figure, check.rule])
    columns = ["check", "verdict", "figure", "passes if"]
    return Table.of("Signs of masked gradients, those that failed first", columns, rows)


def _attacks(result: AuditResult) -> Table:
    columns = ["attack", "images", "broken", "broken first", "forward passes", "backward passes", "seconds"]
    rows: list[Row] = []
    for each in result.attacks:
        counts = (each.samples, each.broken, each.first, each.cost.forward, each.cost.backward)
        rows.append([each.name, *(f"{count:,}" for count in counts), f"{each.seconds:.1f}"])
    return Table.of("What each attack did and cost", columns, rows, folded=True)
