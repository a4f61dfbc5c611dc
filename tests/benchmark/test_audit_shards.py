"""Audits in shards: finished ones are kept, and what they found together is judged as one."""

import csv
import io
import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod
from typer.testing import CliRunner

import qadv
from qadv.benchmark import audit_shards
from qadv.benchmark.report.audit_page import audit_page
from qadv.cli import app
from qadv.diagnostics.audit import run
from qadv.diagnostics.audit.checks.check import CountedCheck, NumberedCheck, numbered_checks
from qadv.diagnostics.audit.merge import merged
from qadv.diagnostics.audit.result import CheckResult, Finding, Grade, Scale, Verdict
from qadv.diagnostics.audit.settings import FEW_STEPS, QUICK
from qadv.diagnostics.audit.target import Target
from qadv.diagnostics.audit.work import TimeLeft, Watch, fallen
from qadv.errors import AuditInterrupted, InvalidInputError

CHECKS = [1, 3, 5, 6, 12]


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(run, "QUICK", replace(FEW_STEPS, steps=8))


@pytest.fixture
def audited(trained, digits):
    def audit(nb_samples=24, shard=8, **options):
        x, y = digits.x_test[:nb_samples], digits.y_test[:nb_samples]
        given = {"eps": 0.1, "checks": CHECKS, "jobs": 1, "verbose": False, **options}
        return qadv.audit_in_shards(given.pop("classifier", trained), x, y, shard=shard, **given)

    return audit


class Weak:
    def __init__(self, eps):
        self.eps = eps

    def __call__(self, classifier):
        return FastGradientMethod(classifier, eps=self.eps)

    made = __call__


def again():
    def itself(classifier, left=1):
        return itself(classifier, left - 1) if left in {1, 2} else FastGradientMethod(classifier, eps=0.01)

    return itself


def untimed(result):
    """Returns all of a result but how long it took, and its images."""

    def without(value):
        if isinstance(value, dict):
            return {key: without(each) for key, each in value.items() if key != "seconds"}
        return [without(each) for each in value] if isinstance(value, list) else value

    return json.dumps(without(result.to_dict())), result.worst_case.adversarial.tobytes()


def test_shards_are_audits_of_their_images_and_figures_are_of_all(audited, trained, digits):
    options = {"eps": [0.05, 0.1], "checks": CHECKS, "verbose": False}
    parts = [qadv.audit(trained, digits.x_test[at], digits.y_test[at], **options) for at in (slice(4), slice(4, 6))]
    whole = audited(6, 4, eps=[0.05, 0.1])
    assert untimed(whole) == untimed(merged(parts))
    assert untimed(audited(4, 4, eps=[0.05, 0.1])) == untimed(parts[0]), "of one shard's images it is the audit's"
    assert whole.samples == 6
    assert whole.worst_case.accuracy == np.mean([*parts[0].worst_case.robust, *parts[1].worst_case.robust])
    assert [eps for eps, *_ in whole.curve] == [0.05, 0.1]
    counts = [check.values["counts"]["margin"]["zero"] for check in (whole.checks[0], *(p.checks[0] for p in parts))]
    assert counts[0] == counts[1] + counts[2]
    gone = {attack.name: attack.samples for attack in whole.attacks}
    assert gone["FGSM"] == 6
    curves = [dict(each.checks[2].values["accuracy_by_eps"]["PGD"]) for each in (whole, *parts)]
    assert curves[0][0.5] == pytest.approx((2 * curves[1][0.5] + curves[2][0.5]) / 3)


def test_a_shard_whose_images_all_fall_early_counts_at_later_radii(trained, digits):
    wrong = np.where(digits.y_test[:8] == 0, 1, 0)  # nothing is classified correctly: the curve ends at once
    kept = {"eps": [1e-4, 2e-4], "checks": [1], "verbose": False}
    parts = [qadv.audit(trained, digits.x_test[:8], y, **kept) for y in (wrong, digits.y_test[:8])]
    assert [len(part.smaller) for part in parts] == [0, 1]
    whole = merged(parts)
    assert [accuracy for _, accuracy, _ in whole.curve] == [parts[1].worst_case.accuracy / 2] * 2
    assert whole.samples == 16


def test_an_audit_interrupted_ten_times_loses_nothing_finished_and_ends_the_same(audited, tmp_path, monkeypatch):
    logits, calls, ends, known = Target.logits, [], [], 0
    options = {"nb_samples": 12, "shard": 3, "checks": [1]}
    whole = untimed(audited(**options))

    def interrupted(self, x):
        calls.append(len(x))
        if len(calls) in ends:
            raise KeyboardInterrupt
        return logits(self, x)

    monkeypatch.setattr(Target, "logits", interrupted)
    for stop in np.random.default_rng(0).integers(1, 40, size=10):  # a shard asks some 28 times
        ends[:] = [stop]
        calls.clear()
        with pytest.raises(AuditInterrupted) as found:
            audited(**options, out=tmp_path)
        stopped = found.value.result
        before, known = known, stopped.samples if stopped else 0
        assert known >= before, "what was finished before is there"
    assert 0 < known < 12
    assert f"{known} of 12 images: interrupted" in stopped.headline
    assert json.loads((tmp_path / "audit.json").read_text())["samples"] == known
    ends.clear()
    calls.clear()
    assert untimed(audited(**options, out=tmp_path)) == whole
    assert len(calls) < 28 * (12 - known) / 3 + 28, "finished shards are not audited again"


def test_it_stops_when_the_interval_is_narrow_or_the_time_is_over(audited, monkeypatch, capsys):
    result = audited(until=33, checks=[1], verbose=True)
    assert result.samples < 24
    low, high = result.interval
    assert max(high - result.worst_case.accuracy, result.worst_case.accuracy - low) <= 0.33
    assert f"{result.samples} of 24 images: the interval is within 33 points" in result.headline
    said = capsys.readouterr().err
    assert "24 images in shards of 8, one at a time: about" in said
    assert f"8 of 24 images: {100 * audited(8, checks=[1]).worst_case.accuracy:.1f} % hold out so far (95 %" in said
    clock = iter(range(0, 10_000, 60))
    monkeypatch.setattr(audit_shards.time, "monotonic", lambda: next(clock))
    result = audited(time_limit=90, checks=[1])
    assert (result.samples, "16 of 24 images: the time limit was reached" in result.headline) == (16, True)
    with pytest.raises(InvalidInputError, match="time_limit: not one shard was finished"):
        audited(time_limit=1e-3, checks=[1])


def test_what_decides_the_result_decides_whose_shards_are_taken(
    audited, trained, make_classifier, tmp_path, monkeypatch
):
    made = []
    shard = audit_shards.audit_shard
    monkeypatch.setattr(audit_shards, "audit_shard", lambda *given: made.append(1) or shard(*given))

    def asked(**change):
        made.clear()
        audited(**{"nb_samples": 8, "checks": [1], "out": tmp_path, **change})
        return len(made)

    assert [asked(), asked(), asked(nb_samples=16), asked(eps=0.2), asked(seed=1)] == [1, 0, 1, 1, 1]
    assert [asked(without=["FGSM"]), asked(without=["FGSM"])] == [1, 0]
    trained.preprocessing_defences, before = [qadv.BitDepthReduction(bit_depth=3)], trained.preprocessing_defences
    try:
        trained._update_preprocessing_operations()
        assert [asked(), asked()] == [1, 0]
    finally:
        trained.preprocessing_defences = before
        trained._update_preprocessing_operations()

    network = make_classifier(seed=1).network

    def parent(mean):
        return qadv.QuantizedClassifier(network, trained.loss, (1, 8, 8), 10, preprocessing=(mean, 1.0))

    assert [asked(float_parent=parent(mean)) for mean in (0.0, 0.1, 0.1)] == [1, 1, 0]

    def with_gradients_of(seed):
        surrogate = make_classifier("float", "float", seed=seed).network
        return qadv.QuantizedClassifier(trained.network, trained.loss, (1, 8, 8), 10, surrogate=surrogate)

    surrogates = [trained, *map(with_gradients_of, (0, 1, 1))]
    assert [asked(classifier=each) for each in surrogates] == [0, 1, 1, 0]

    def weak(eps):
        return lambda classifier: FastGradientMethod(classifier, eps=eps)

    def edited(eps):
        return lambda classifier: FastGradientMethod(classifier, eps=eps, minimal=False)

    adaptive = (weak(0.01), weak(0.01), weak(0.02), edited(0.02), partial(FastGradientMethod, eps=0.02))
    assert [asked(adaptive=each, checks=[10]) for each in adaptive] == [1, 0, 1, 1, 1]
    assert [asked(adaptive=Weak(eps), checks=[10]) for eps in (0.01, 0.01, 0.02)] == [1, 0, 1]
    assert [asked(adaptive=Weak(eps).made, checks=[10]) for eps in (0.01, 0.02)] == [1, 1]
    assert [asked(adaptive=again(), checks=[10]) for _ in range(2)] == [1, 0]
    for cell in (tmp_path / "cells").iterdir():
        (cell / "adversarial.safetensors").write_bytes(b"gone")
    assert asked() == 1, "a damaged shard is audited again"


def test_arguments_are_refused_before_anything_runs(audited):
    for change, message in (
        ({"shard": 0}, "shard: expected"),
        ({"jobs": 0}, "jobs: expected"),
        ({"until": -1}, "until: expected"),
        ({"time_limit": "1"}, "time_limit: expected"),
        ({"address": "10.0.0.1:6379"}, "address: only engine='ray'"),
        ({"engine": "spark"}, "engine: expected one of local, ray"),
        ({"checks": [13]}, "checks: expected one of"),
        ({"checks": []}, "checks: expected a number"),
        ({"jobs": 2, "adaptive": lambda classifier: None}, "jobs: the networks and options can't be handed"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            audited(8, **change)
    with pytest.raises(TypeError, match="epsilon"):
        audited(8, epsilon=1)


def test_what_is_left_out_does_not_run_and_no_check_judges_by_it(trained, digits):
    given = {"eps": 0.1, "without": ["Square", "FGSM", 9], "checks": [3, 5, 7, 9], "verbose": False}
    result = qadv.audit(trained, digits.x_test[:6], digits.y_test[:6], **given)
    assert not [each.name for each in result.attacks if each.name.startswith(("Square", "FGSM"))]
    assert [each.name for each in result.attacks if each.name.startswith("PGD")]
    verdicts = {check.number: check.verdict.value for check in result.checks}
    assert verdicts == dict.fromkeys((3, 5, 7), "not evaluated")
    assert "without the attacks FGSM, Square" in result.headline
    assert type(result).from_dict(result.to_dict(), [result.worst_case.adversarial]).without == ("FGSM", "Square")
    with pytest.raises(InvalidInputError, match="without: expected one of"):
        qadv.audit(trained, digits.x_test[:6], digits.y_test[:6], without=["Sqare"])


@pytest.mark.parametrize(("given", "said"), [({"eps": 2}, "eps: expected at most 1"), ({"norm": 3}, "norm: expected")])
def test_a_ball_that_is_none_is_refused_before_the_estimate(given, said, trained, digits, monkeypatch):
    monkeypatch.setattr(audit_shards, "estimate", None)
    with pytest.raises(InvalidInputError, match=said):
        qadv.audit_in_shards(trained, digits.x_test[:4], digits.y_test[:4], **given)


@pytest.fixture
def in_two_processes(audited, monkeypatch):
    """An audit by two processes of an engine, which finds what one finds."""

    def audit(engine):
        monkeypatch.setattr(run, "QUICK", QUICK)  # as it is in the other processes
        found = audited(6, shard=3, checks=[1], jobs=2, engine=engine)
        assert untimed(found) == untimed(audited(6, shard=3, checks=[1]))

    return audit


@pytest.mark.slow
def test_two_processes_find_the_same_as_one(in_two_processes):
    in_two_processes("local")


def result_of(number, finding):
    return CheckResult(number, "name", "rule", **vars(finding))


def test_checks_judge_the_sums_over_shards():
    known = {check.number: check for check in numbered_checks()}
    few = {"gain": 1, "first": 1, "left": 5, "direct": 3}
    check = known[3].entry.load()()
    part = result_of(3, replace(check.judge(few, Scale(8)), counts=few))
    assert part.verdict == "passed", "one of eight images may be an accident"
    whole = known[3].over([part] * 3, [8] * 3)
    assert (whole.verdict, whole.values["gain"], whole.values["left"]) == ("failed", 3, 15)
    none = result_of(3, Finding.none("no image"))
    assert known[3].over([none, none], [8, 8]) == none
    some = known[3].over([part, none], [8, 4])
    assert (some.verdict.value, some.figure.endswith("; not evaluated on 4 images: no image")) == ("passed", True)
    assert some.values == part.values


def test_every_check_of_qadv_counts():
    assert all(issubclass(check.entry.load(), CountedCheck) for check in numbered_checks() if check.number <= 12)


def test_a_check_that_does_not_count_fails_where_it_failed_on_a_shard():
    passed = result_of(13, Finding.of(True, "none", gain=0))
    failed = result_of(13, Finding.of(False, "2 more", gain=2))
    check = NumberedCheck(13, numbered_checks()[0].entry)
    whole = check.over([passed, failed, passed], [8, 8, 8])
    assert (whole.verdict, whole.grade, whole.figure) == (Verdict.FAILED, Grade.NOT_CONVERGED, "none; 2 more")
    assert whole.values == {"parts": [{"gain": 0}, {"gain": 2}, {"gain": 0}]}
    assert check.over([passed, passed], [8, 8]).verdict == "passed"


def test_chosen_checks_run_with_the_direct_attacks(trained, digits):
    options = {"eps": 0.1, "verbose": False}
    result = qadv.audit(trained, digits.x_test[:8], digits.y_test[:8], checks=["zero-gradients", 12], **options)
    assert [check.number for check in result.checks] == [1, 12]
    assert "without checks 2, 3, 4, 5, 6, 7, 8, 9, 10, 11" in result.headline
    assert "PGD, margin" in [attack.name for attack in result.attacks]
    assert not any(attack.name.startswith("Square") for attack in result.attacks)


@pytest.mark.parametrize(("eps", "holds"), [(1e-5, True), (0.9, False)])
def test_the_passes_that_an_estimate_counts_are_those_that_an_audit_makes(trained, digits, monkeypatch, eps, holds):
    settings = replace(QUICK, steps=20, long_steps=20, square_steps=60, unbounded_steps=10)
    monkeypatch.setattr(run, "QUICK", settings)
    right = trained.predict(digits.x_test[:12]).argmax(1) == digits.y_test[:12]
    x, y = digits.x_test[:12][right], digits.y_test[:12][right]
    made = qadv.audit(trained, x, y, eps=eps, checks=set(range(1, 13)) - {2, 11}, verbose=False)
    assert made.worst_case.accuracy == float(holds)
    left = TimeLeft(Target(trained, 128), x, y, settings, 1, range(1, 13))
    expected = sum(left.by_check.values(), fallen(settings) - fallen(settings)) if holds else fallen(settings)
    for way in ("forward", "backward"):
        assert getattr(made.cost, way) / len(x) == pytest.approx(getattr(expected, way), rel=0.2 if holds else 0.5), way


def test_the_time_left_follows_what_passes_take(trained, digits, monkeypatch):
    left = TimeLeft(Target(trained, 4), digits.x_test[:4], digits.y_test[:4], FEW_STEPS, 0, range(1, 13))
    assert left.seconds(4) > left.seconds(4, made={1, 3, 9}) > 0
    assert left.seconds(4) > left.seconds(1)
    assert left.seconds(8) > left.least(8)
    speed = replace(left.speed, forward=(0.0, 1.0), both=(0.0, 3.0))
    cost = fallen(FEW_STEPS)
    now = iter((0.0, 100.0, 150.0))
    monkeypatch.setattr("qadv.diagnostics.audit.work.time.perf_counter", lambda: next(now))
    watch = Watch(speed, cost - cost, 1)
    took = (cost.forward - cost.backward) + 3 * cost.backward
    assert watch.slower(cost, 1) == pytest.approx(100 / took)
    assert watch.slower(cost, 1) == pytest.approx(150 / took)


def test_the_command_keeps_what_is_finished_and_writes_a_page(trained, digits, tmp_path, monkeypatch):
    trained.save(tmp_path / "net.safetensors")
    common = ["audit", str(tmp_path / "net.safetensors"), "--dataset", "digits", "--nb-test", "12", "--shard", "6"]
    common += ["--eps", "0.1", "--check", "1", "--check", "no-bound", "--check", "12", "--out", str(tmp_path / "out")]
    shard, made = audit_shards.audit_shard, []

    def once(*given):
        made.append(1)
        if len(made) == 2:
            raise KeyboardInterrupt
        return shard(*given)

    monkeypatch.setattr(audit_shards, "audit_shard", once)
    done = CliRunner().invoke(app, [*common, "--json"])
    assert done.exit_code not in (0, 2)
    assert json.loads(done.stdout)["samples"] == 6
    assert "the same command goes on from there" in " ".join(done.stderr.split())
    page = tmp_path / "page.html"
    done = CliRunner().invoke(app, [*common, "--json", "--html", str(page), "--fail-under", "99.5"])
    assert len(made) == 3, "the first shard was there"
    found = json.loads(done.stdout)
    assert done.exit_code == 2
    assert "is under 99.5 %" in done.stderr
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "images.csv").read_text())))
    assert [int(row["label"]) for row in rows] == digits.y_test[:12].tolist()
    assert [row["holds_out"] == "1" for row in rows] == found["worst_case"]["robust"]
    assert {row["eps"] for row in rows if row["holds_out"] == "0" and row["clean"] == "1"} == {"0.1"}
    text = page.read_text()
    share = 100 * found["worst_case"]["accuracy"]
    assert f"net.safetensors (4-bit) classifies {share:.1f}\u00a0% of 12 images correctly" in text
    assert "no check that was made speaks against this figure, and 9 were left out" in text
    assert "<script" not in text
    assert "http:" not in text
    assert "https:" not in text
    broken = sum(row["broken_by"] not in ("", "clean") for row in rows)
    assert broken > 4
    assert text.count("difference × 10</span>") == min(broken, 8)
    sure = torch.softmax(torch.tensor(trained.predict(digits.x_test[:12])), dim=1).max(dim=1)
    first = next(place for place, row in enumerate(rows) if row["broken_by"] not in ("", "clean"))
    said = (
        f"true: {rows[first]['label']}; clean: {sure.indices[first]} ({100 * sure.values[first]:.0f} %); adversarial:"
    )
    assert said in text


def test_the_page_of_a_pair_says_what_is_counted(trained, digits):
    x, y = digits.x_test[:60], digits.y_test[:60]
    result = qadv.audit(trained, x, y, eps=0.1, pair=(3, 5), checks=[12], verbose=False)
    page = audit_page(trained, x, y, result, "net", list("abcdefghij"))
    share = f"{100 * result.worst_case.accuracy:.1f}"
    assert f"net (4-bit) keeps {share}\u00a0% of {result.samples} images of class d from being given class f" in page
    assert "classified correctly, clean" not in page


def test_networks_of_one_file_name_and_no_bars_where_nobody_sees_them(trained, make_classifier, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place, network in ((".", trained), ("a", make_classifier(seed=1)), ("b", make_classifier(seed=2))):
        network.save(f"{place}/net.safetensors")
    given = "audit net.safetensors --dataset digits --nb-test 4 --check transfer --other a/net.safetensors"
    done = CliRunner().invoke(app, [*given.split(), "--other", "b/net.safetensors"])
    assert all(name in done.stdout for name in ("a/net", "b/net"))
    assert "\r" not in done.stderr
    assert "4 of 4 images" in done.stderr
