"""The page of an audit whose figures are made by hand, each another one: every figure stands where it belongs."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from qadv.benchmark.report.audit_page import audit_page
from qadv.diagnostics.audit.cost import Cost
from qadv.diagnostics.audit.result import AttackRecord, AuditResult, CheckResult, Grade, Verdict, WorstCase, interval
from qadv.diagnostics.audit.settings import QUICK
from tests.benchmark.test_report import Page, table

NET = SimpleNamespace(model=SimpleNamespace(qadv_quantization={"weights": "int:4", "activations": "relu6:4"}))
X = np.zeros((40, 3), dtype=np.float32)  # no pictures, so that the network is not asked
WIDTH = re.compile(r"(left|width):([\d.]+)%")


def result(right, clean, eps, *checks, **more):
    """Returns an audit of 40 images, so many of which hold out, and are right without an attack."""
    by = ("",) * right + ("PGD",) * (clean - right) + ("clean",) * (40 - clean)
    worst = WorstCase(by, X)
    attacks = AttackRecord("FGSM", 36, 7, 5, Cost(1100, 1200), 1.5), AttackRecord("PGD", 31, 9, 8, Cost(), 0.0)
    given = {"settings": QUICK, "gradient": "exact", "draws": 1, "cost": Cost(23000, 14000), "seconds": 210.0, **more}
    return AuditResult(worst, checks, attacks, eps=eps, samples=40, thorough=False, seed=3, **given)


def check(number, verdict, grade=Grade.NOTHING):
    return CheckResult(number, f"check {number}", f"rule {number}", verdict, f"{number} of 40, figure", {}, grade)


FAILED = [check(1, Verdict.PASSED), check(6, Verdict.FAILED, Grade.NOT_CONVERGED), check(10, Verdict.NOT_EVALUATED)]


@pytest.fixture(scope="module")
def curve():
    smaller = result(33, 36, 0.05, check(1, Verdict.PASSED), norm=2)
    text = audit_page(NET, X, np.zeros(40, int), result(13, 36, 0.1, *FAILED, smaller=(smaller,), norm=2), "net")
    return text, Page(text)


def test_the_sentence_has_the_figures_of_the_largest_ball(curve):
    (lead,) = [text for text in curve[1].texts if "under the worst of" in text]
    assert lead == (
        "net (4-bit) classifies 32.5\u00a0% of 40 images correctly under the worst of 2 attacks within L2 0.1, "
        "90.0\u00a0% without one; but a check failed: stronger attacks may lower this by a few points."
    )


def test_the_sentence_says_what_the_checks_are_worth():
    def said(**more):
        return audit_page(NET, X, np.zeros(40, int), result(13, 36, 0.1, FAILED[0], **more), "net")

    assert "without one; no check speaks against this figure." in said()
    assert "no check that was made speaks against this figure, and 2 were left out." in said(left_out=(2, 3))
    assert "within L∞ 0.1 as 8-bit images, " in said(pixels="uint8")
    broken = replace(FAILED[1], grade=Grade.UNUSABLE)
    page = audit_page(NET, X, np.zeros(40, int), result(13, 36, 0.1, broken, left_out=(2,)), "net")
    assert "its gradients mislead attacks, so that the figure means nothing." in page


def test_the_chart_has_a_bar_for_each_radius_with_its_interval(curve):
    text, page = curve
    (label,) = [found["aria-label"] for tag, found in page.tags if tag == "figure" and "aria-label" in found]
    assert label == "Images classified correctly, clean and in the worst case: L2 0.05 82.5 %; L2 0.1 32.5 %"
    drawn = [WIDTH.findall(line) for line in text.splitlines() if 'class="track"' in line]
    for found, right in zip(drawn, (33, 13), strict=True):
        low, high = (100 * end for end in interval(right, 40))
        places = [90, 100 * right / 40, low, high - low]
        assert found == [
            (name, f"{at:.2f}") for name, at in zip(("width", "width", "left", "width"), places, strict=True)
        ]
    assert re.findall(r'class="bar (\w*)"', text) == ["", "bad"]


def test_a_row_for_each_radius_says_what_its_own_checks_say(curve):
    columns, *rows = table(curve[1], "One row for each radius")
    assert columns == ["network", "ball", "worst case, %", "95 %", "clean, %", "images", "what the checks say"]
    within = ["{:.1f} to {:.1f}".format(*(100 * end for end in interval(right, 40))) for right in (33, 13)]
    assert rows == [
        ["net (4-bit)", "L2 0.05", "82.5", within[0], "90.0", "40", "nothing against it"],
        ["net (4-bit)", "L2 0.1", "32.5", within[1], "90.0", "40", "not converged: check 6 failed"],
    ]


def test_checks_and_attacks_have_their_own_figures_and_costs(curve):
    page = curve[1]
    assert table(page, "Signs of masked")[1:] == [
        ["6 check 6", "failed", "6 of 40, figure", "rule 6"],
        ["1 check 1", "passed", "1 of 40, figure", "rule 1"],
        ["10 check 10", "not evaluated", "10 of 40, figure", "rule 10"],
    ]
    assert table(page, "What each attack")[1] == ["FGSM", "36", "7", "5", "1,100", "1,200", "1.5"]
    assert all(said in page.texts for said in ("46,000 forward, 28,000 backward", "7.0", "quick"))
