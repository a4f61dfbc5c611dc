"""Audits in other balls, at several radii and of one pair of classes; what they are audits of, and what they refuse."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import art.attacks.evasion
import numpy as np
import pytest
import torch
from torch import nn

import qadv
from qadv.components import AuditCheck
from qadv.diagnostics import AuditCase, Finding
from qadv.diagnostics.audit import run
from qadv.diagnostics.audit.ascent import ascend
from qadv.diagnostics.audit.ball import Ball
from qadv.diagnostics.audit.checks.check import NumberedCheck
from qadv.diagnostics.audit.float_weights import float_network
from qadv.diagnostics.audit.gradients import gradients_of
from qadv.diagnostics.audit.label_search import rays
from qadv.diagnostics.audit.losses import negative_margin
from qadv.diagnostics.audit.settings import FEW_STEPS
from qadv.diagnostics.audit.target import Target
from qadv.errors import InvalidInputError
from qadv.registry import Entry


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(run, "QUICK", replace(FEW_STEPS, steps=8, long_steps=8))


@pytest.fixture
def audited(trained, digits, only_checks):
    """Audits the trained network, all checks but the export's, which takes longer than all the rest."""
    only_checks(lambda number: number != 11)

    def audit(eps, nb_samples=40, classifier=trained, **options):
        x, y = digits.x_test[:nb_samples], digits.y_test[:nb_samples]
        return qadv.audit(classifier, x, y, eps=eps, verbose=False, **options)

    return audit


def wrapped(network):
    return qadv.QuantizedClassifier(network, nn.CrossEntropyLoss(), (1, 8, 8), 10)


def lengths(changes):
    return np.linalg.norm(np.asarray(changes).reshape(len(changes), -1), axis=1)


class HardLabels(nn.Module):
    """Gives a number for the predicted class alone, with the gradient of the logits; those of a mask by class."""

    def __init__(self, network, by_class=False, size=1.0):
        super().__init__()
        self.network, self.by_class, self.size = network, by_class, size

    def forward(self, x):
        if self.by_class:
            kept = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.6
            here = kept[self.network(x).argmax(1)]
            x = torch.where(here, x, x.detach())
        logits = self.network(x)
        return logits + (self.size * nn.functional.one_hot(logits.argmax(1), 10) - logits).detach()


def test_the_worst_case_of_an_l2_ball_lies_in_it(audited, trained, digits):
    result = audited(0.5, norm=2)
    worst = result.worst_case
    far = lengths(worst.adversarial - digits.x_test[:40])
    assert far.max() <= 0.5 + 1e-5
    assert np.sort(far)[-5:] == pytest.approx(0.5, abs=0.02), "all of the ball is used"
    assert np.abs(worst.adversarial - digits.x_test[:40]).max() > 0.5 / 8, "not the L∞ ball inside"
    assert 0 < worst.accuracy < worst.clean_accuracy
    assert "within L2 0.5 (" in result.headline
    assert result.to_dict()["norm"] == 2
    assert audited(0.5, norm="2").worst_case.accuracy == worst.accuracy
    assert 4 not in result.failed, "without a bound every image is broken"
    case = AuditCase(Target(trained, 64), digits.x_test[:9], digits.y_test[:9], eps=0.5, norm=2, settings=FEW_STEPS)
    steps = case.fgsm(0.1)(case.x, case.y) - case.x
    assert lengths(steps).max() <= 0.1 + 1e-5, "FGSM's step is as long as the ball"


def test_points_are_projected_on_l2_balls():
    x = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    far = x + torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    ball = Ball(0.3, 2, -9.0, 9.0)
    found = ball.project(far, x)
    np.testing.assert_allclose(lengths(found - x), 0.3, rtol=1e-5)
    unit = ((far - x).numpy() / lengths(far - x)[:, None, None, None]).astype(np.float32)
    np.testing.assert_allclose((found - x).numpy() / 0.3, unit, rtol=1e-4, atol=1e-6)
    near = x + 0.01
    torch.testing.assert_close(ball.project(near, x), near)
    generators = [torch.Generator().manual_seed(i) for i in range(5)]
    np.testing.assert_allclose(lengths(ball.random(x, generators) - x), 0.3, rtol=1e-4)
    torch.testing.assert_close(ball.step(x, far - x, 0.3, x), found)
    assert ball.step(x, torch.zeros_like(x), 0.3, x).equal(x)
    assert Ball(0.3, 2, 0.0, 1.0).project(far, x).clamp(0, 1).equal(Ball(0.3, 2, 0.0, 1.0).project(far, x))


def test_several_radii_are_a_curve_that_keeps_what_smaller_balls_broke(audited, digits):
    result = audited([0.02, "8/100", 0.16], nb_samples=20)
    assert [point[0] for point in result.curve] == [0.02, 0.08, 0.16]
    shares = [point[1] for point in result.curve]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[-1]
    for smaller, larger in pairwise((*result.smaller, result)):
        broken = [i for i, by in enumerate(smaller.worst_case.broken_by) if by]
        np.testing.assert_array_equal(smaller.worst_case.adversarial[broken], larger.worst_case.adversarial[broken])
        assert [larger.worst_case.broken_by[i] for i in broken] == [smaller.worst_case.broken_by[i] for i in broken]
        pgd = next(attack for attack in larger.attacks if attack.name == "PGD")
        assert pgd.samples == smaller.worst_case.robust.sum(), "what is broken is not attacked again"
        assert larger.worst_case.clean_accuracy == smaller.worst_case.clean_accuracy
    assert result.smaller[0].to_dict() | {"seconds": 0} != result.to_dict()
    first = audited(0.02, nb_samples=20)
    assert result.smaller[0].worst_case.to_dict() == first.worst_case.to_dict(), "the first is as if alone"
    counts = [next((each.samples, each.broken) for each in found.attacks if each.name == "FGSM")
              for found in (result, audited(0.16, nb_samples=20))]  # fmt: skip
    assert counts[0] == counts[1], "of the images that it was run on, whatever broke them before"
    plain = result.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["curve"][0] == {"eps": 0.02, "accuracy": shares[0], "grade": first.grade.value}
    assert [each["eps"] for each in plain["smaller"]] == [0.02, 0.08]
    said = " ".join(str(result).split())
    assert f"Curve: {100 * shares[0]:.1f} % at 0.02" in said
    assert f"Cost: {sum(each.cost.forward for each in (*result.smaller, result)):,} forward" in said


def test_the_curve_goes_down_to_zero_and_ends_there(audited):
    result = audited([0.1], nb_samples=12, to_zero=True)
    radii, shares, _ = zip(*result.curve, strict=True)
    assert all(later == pytest.approx(2 * earlier) for earlier, later in pairwise(radii))
    assert shares[-1] == 0
    assert 0 not in shares[:-1]
    assert len(audited([0.5, 0.6, 0.7], nb_samples=12).curve) == 1, "nothing is left to look at"


def test_one_pair_of_classes(audited, trained, digits):
    x, y = digits.x_test[:150], digits.y_test[:150]
    result = audited(0.1, nb_samples=150, pair=(3, 9))
    worst = result.worst_case
    assert result.samples == (y == 3).sum() == len(worst.robust)
    predicted = trained.predict(worst.adversarial).argmax(1)
    assert np.array_equal(predicted == 9, ~worst.robust)
    assert 0 < worst.accuracy < 1
    assert worst.accuracy > qadv.audit(trained, x[y == 3], y[y == 3], eps=0.1, verbose=False).worst_case.accuracy
    assert f"of {result.samples} images of class 3 that are not given class 9 within" in result.headline
    assert result.to_dict()["pair"] == [3, 9]
    assert 4 not in result.failed, "without a bound every image is given the class"
    assert not any("other class" in attack.name for attack in result.attacks)
    everything = audited(1.0, nb_samples=150, pair=(3, 9))
    assert everything.worst_case.accuracy == 0


def test_what_an_audit_can_not_be_of_is_refused(trained, digits):
    x, y = digits.x_test[:6], digits.y_test[:6]
    for change, said in (
        ({"norm": 1}, "norm: expected one of 2, inf"),
        ({"eps": []}, "eps: expected a radius, or several, got none"),
        ({"eps": [0.2, 0.1]}, "eps: expected radii each larger than the one before"),
        ({"eps": [0.1, 2.0]}, "eps: expected at most 1"),
        ({"eps": 9.0, "norm": 2}, "eps: expected at most 8, the largest L2 distance"),
        ({"pair": (3, 3)}, "pair: expected two different classes"),
        ({"pair": 3}, "pair: expected two classes from 0 to 9, got 3"),
        ({"pair": (3, 10)}, "pair: expected two classes from 0 to 9"),
        ({"pair": (0, 9), "x": x[y != 0], "y": y[y != 0]}, "pair: expected images of class 0, and there is none"),
        ({"to_zero": 1}, "to_zero: expected True or False"),
    ):
        with pytest.raises(InvalidInputError, match=said):
            qadv.audit(trained, **{"x": x, "y": y, "eps": 0.1, "verbose": False, **change})


def test_float_weights_that_the_network_rounds_are_a_source(audited, trained, make_classifier, digits):
    own = float_network(trained)
    weights = trained.model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in own.model.state_dict().items())
    assert not np.array_equal(own.predict(digits.x_test[:9]), trained.predict(digits.x_test[:9]))
    result = audited(0.05, nb_samples=20)
    assert list(result.checks[6].values["by_source"]) == ["its float weights"]
    assert "no transfer source" not in result.headline
    given = audited(0.05, nb_samples=20, others={"another": make_classifier(seed=1)})
    assert list(given.checks[6].values["by_source"]) == ["another"]
    for classifier in (make_classifier("float", "float"), wrapped(nn.Sequential(nn.Identity(), trained.model))):
        assert float_network(classifier) is None


@pytest.mark.parametrize("by_class", [False, True])
def test_hard_labels_are_unusable_and_attacked_by_labels_alone(by_class, audited, trained, digits, monkeypatch):
    monkeypatch.setattr(run, "QUICK", replace(FEW_STEPS, square_steps=20))
    result = audited(0.1, nb_samples=20, classifier=wrapped(HardLabels(trained.model, by_class)))
    assert result.checks[0].values["hard"]
    assert "hard labels: attack the logits in front of them" in result.checks[0].figure
    assert result.grade == "gradients unusable"
    names = [attack.name for attack in result.attacks]
    assert "RayS, 100 directions" in names
    assert not any(name.startswith("Square") for name in names)
    assert "PGD, other class 9" in names or result.worst_case.accuracy == 0


def test_logits_that_tell_more_than_the_class_are_no_hard_labels(trained, digits):
    x, y = digits.x_test[:30], digits.y_test[:30]
    ball = Ball(0.1, math.inf, 0.0, 1.0)
    assert gradients_of(Target(wrapped(HardLabels(trained.model, size=7.0)), 64), x, y, ball, 0).hard
    for network in (trained.model, nn.Sequential(trained.model, nn.Softsign())):
        assert not gradients_of(Target(wrapped(network), 64), x, y, ball, 0).hard
    hard = Target(wrapped(HardLabels(trained.model)), 64)
    few = [np.flatnonzero(y == label)[0] for label in range(10)]
    assert not gradients_of(hard, x[few], y[few], ball, 0).hard, "no two images of one class"


def test_a_mask_by_predicted_class_is_found(trained, digits):
    class ByClass(HardLabels):
        def forward(self, x):
            kept = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.4
            return self.network(torch.where(kept[self.network(x).argmax(1)], x, x.detach()))

    x, y = digits.x_test[:60], digits.y_test[:60]
    ball = Ball(0.1, math.inf, 0.0, 1.0)
    found = gradients_of(Target(wrapped(ByClass(trained.model)), 64), x, y, ball, 0)
    assert found.masked
    assert found.hidden > 50
    assert gradients_of(Target(trained, 64), x, y, ball, 0).hidden == 0


def test_on_a_plateau_pgd_goes_on(trained, digits):
    x, y = digits.x_test[:10], digits.y_test[:10]
    options = {"loss": negative_margin, "ball": Ball(0.05, math.inf, 0.0, 1.0), "steps": 4, "seed": 0}
    found = ascend(Target(wrapped(HardLabels(trained.model)), 64), x, y, random_start=False, **options)
    assert (np.ptp(found.losses, axis=0)[~np.isnan(found.losses).any(axis=0)] == 0).all(), "labels say the same"
    assert (np.abs(found.highest - x).reshape(10, -1).max(axis=1) > 0.01).all()


def test_rays_finds_what_labels_alone_tell(trained, digits):
    x, y = digits.x_test[:20], digits.y_test[:20]
    target, ball = Target(wrapped(HardLabels(trained.model)), 64), Ball(0.2, math.inf, 0.0, 1.0)
    found = rays(target, x, y, ball, steps=200)
    broken = target.broken(found, y)
    assert broken.sum() > target.broken(rays(target, x, y, ball, steps=1), y).sum()
    assert broken.mean() > 0.5
    assert np.abs(found - x).max() <= 0.2 + 1e-6
    assert 0 <= found.min() <= found.max() <= 1
    goals = (y + 1) % 10
    turned = rays(Target(trained, 64, targeted=True), x, goals, Ball(0.4, math.inf, 0.0, 1.0), steps=200)
    assert (trained.predict(turned).argmax(1) == goals).any()


def test_constant_logits_are_no_probabilities_and_one_hot_rows_are_hard_labels(trained, digits):
    class Constant(nn.Module):
        def forward(self, x):
            return 0 * x.flatten(1)[:, :10] + 0.1

    x = digits.x_test[:8]
    for network in (Constant(), HardLabels(trained.model)):
        Target(wrapped(network), 64).check_logits(x)
    with pytest.raises(InvalidInputError, match="probabilities"):
        Target(wrapped(Constant()), 64).check_logits(x[:1])


class One(nn.Module):
    """Takes one image."""

    def __init__(self, network, silent):
        super().__init__()
        self.network, self.silent = network, silent

    def forward(self, x):
        return self.network(x[:1] if self.silent else x.view(1, 1, 8, 8))


@pytest.mark.parametrize("silent", [False, True])
def test_a_network_that_takes_one_image_at_a_time_is_told_what_to_do(silent, trained, digits, audited):
    one = One(trained.model, silent)
    with pytest.raises(InvalidInputError, match=r"takes one image, and not 9 at once.*torch.cat\(\[network\(image\)"):
        audited(0.1, nb_samples=9, classifier=wrapped(one))

    class Singly(nn.Module):
        def forward(self, x):
            return torch.cat([one(image) for image in x.split(1)])

    Target(wrapped(Singly()), 64).check_logits(digits.x_test[:9])


class Meddles:
    """A plugin's check that writes where it should not."""

    name = "meddles"
    rule = "never"

    def examine(self, case):
        gain = int(case.attack("turned round", lambda x, y: 1 - x, case.fresh).sum())
        case.x[:], case.y[:], case.clean[:], case.fresh[:] = 0, 0, False, False
        case.direct[:], case.search[0][:], case.survivors[:] = True, True, True
        case.target.draws, case.eps, case.seed = 7, 0.9, 99
        return Finding.of(True, f"{gain}")


def test_a_plugins_check_can_not_change_what_others_look_at(trained, digits):
    x, y = digits.x_test[:12], digits.y_test[:12]
    case = AuditCase(Target(trained, 64), x.copy(), y.copy(), eps=1.0, settings=FEW_STEPS)
    direct, search = case.direct.copy(), case.search[0].copy()
    entry = Entry("qadv-meddles", AuditCheck(name="m", target=f"{__name__}:Meddles", summary="a rule"))
    result = NumberedCheck(13, entry).run(case)
    assert result.verdict == "passed", result.figure
    assert np.array_equal(case.x, x)
    assert np.array_equal(case.y, y)
    assert case.clean.all() == case.fresh.all() == (trained.predict(x).argmax(1) == y).all()
    assert np.array_equal(case.direct, direct)
    assert np.array_equal(case.search[0], search)
    assert (case.target.draws, case.eps, case.seed) == (1, 1.0, 0)
    assert case.attacks[-1].name == "turned round", "its attacks count"


def test_the_export_of_a_network_that_branches_on_data_prints_nothing(trained, digits, monkeypatch, capsys, caplog):
    from qadv.diagnostics.audit.checks import exported

    def prints(*args, **options):
        import logging

        print("def forward(self)")
        logging.getLogger("torch.fx").warning("a graph")
        raise RuntimeError("data-dependent")

    monkeypatch.setattr(exported, "import_onnxruntime", lambda: None)
    monkeypatch.setattr(exported, "export", prints)
    case = AuditCase(Target(trained, 64), digits.x_test[:4], digits.y_test[:4], eps=0.1, settings=FEW_STEPS)
    finding = exported.ExportedModel().examine(case)
    assert "RuntimeError: data-dependent" in finding.figure
    assert capsys.readouterr().out == ""
    assert not caplog.records


class Dropped(nn.Module):
    """Loses, at each backward pass, the gradient of other pixels; values repeat."""

    def __init__(self, network, by_pixels=False):
        super().__init__()
        self.network, self.by_pixels = network, by_pixels
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x):
        if self.by_pixels:
            self.generator.manual_seed(int(1e6 * float(x.detach().double().sum())) % 2**31)
        kept = torch.rand(x.shape, generator=self.generator) > 0.9
        return self.network(torch.where(kept, x, x.detach()))


@pytest.mark.parametrize("by_pixels", [False, True])
def test_gradients_that_do_not_repeat_are_seen_where_answers_do(by_pixels, audited, trained, only_checks):
    only_checks(lambda number: number == 2)
    result = audited(0.1, classifier=wrapped(Dropped(trained.model, by_pixels)))
    check = result.checks[0]
    assert check.verdict == "failed"
    assert check.values["spread"] == 0
    assert check.values["alike"] < 0.9
    assert result.draws == (1 if by_pixels else 8), "what is random is averaged"
    honest = audited(0.1).checks[0]
    assert honest.verdict == "passed"
    assert honest.values["alike"] > 0.95


def test_an_audit_says_whose_gradients_it_follows(trained, digits):
    class Silent(nn.Module):
        def forward(self, x):
            with torch.no_grad():
                return trained.model(x)

    def gradients_of(classifier):
        target = Target(classifier, 64)
        x, y = torch.from_numpy(digits.x_test[:4]), torch.from_numpy(digits.y_test[:4])
        target.gradient(x, y, negative_margin)
        return run._gradient(target)

    assert gradients_of(trained).startswith("straight-through in the activations")
    assert gradients_of(wrapped(Silent())).startswith("none, the network gives none")
    surrogate = qadv.QuantizedClassifier(Silent(), nn.CrossEntropyLoss(), (1, 8, 8), 10, surrogate=trained.network)
    said = "the surrogate's, with the network's values to the bit on 20 images"
    assert gradients_of(surrogate) == said
    assert gradients_of(qadv.EnsembleClassifier.of([surrogate, trained])) == said
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.warns(UserWarning, match="gradients are the surrogate's"):
        far = gradients_of(qadv.QuantizedClassifier(Silent(), nn.CrossEntropyLoss(), (1, 8, 8), 10, surrogate=other))
    assert "the surrogate's, with the network's class on" in far


def test_adaptive_attacks_go_where_the_labels_say(trained, digits):
    x, y = digits.x_test[:150], digits.y_test[:150]
    attack = art.attacks.evasion.FastGradientMethod(trained, eps=0.1)
    for targeted, pair in ((False, (3, 9)), (True, None)):
        attack.set_params(targeted=targeted)
        with pytest.raises(InvalidInputError, match=f"expected an attack with targeted={not targeted}"):
            qadv.audit(trained, x, y, eps=0.1, pair=pair, adaptive=attack, verbose=False)


def test_what_is_no_image_is_refused_by_the_attacks_name(trained, digits):
    case = AuditCase(Target(trained, 64), digits.x_test[:4], digits.y_test[:4], eps=0.1, settings=FEW_STEPS)
    with pytest.raises(InvalidInputError, match=r"adaptive X: expected finite images of shape .* returned NaN"):
        case.attack("adaptive X", lambda x, y: x * np.nan, case.y >= 0)
    with pytest.raises(InvalidInputError, match=r"returned shape \(1, 1, 8, 8\)"):
        case.attack("adaptive X", lambda x, y: x[:1], case.y >= 0)


def test_no_pass_is_of_more_images_than_asked_for(audited, trained):
    class Few(nn.Module):
        def forward(self, x):
            assert len(x) <= 32
            return trained.model(x)

    audited(0.02, nb_samples=40, classifier=wrapped(Few()), batch_size=32)


def test_what_is_classified_correctly_is_the_same_at_all_radii(trained, digits):
    x, y = digits.x_test[:6], digits.y_test[:6]
    smaller = AuditCase(Target(trained, 64), x, y, eps=0.1, settings=FEW_STEPS).worst_case()
    smaller = replace(smaller, broken_by=("clean", "", "PGD", "", "", "clean"))
    case = AuditCase(Target(trained, 64), x, y, eps=0.2, settings=FEW_STEPS, smaller=smaller)
    assert case.clean.tolist() == [False, True, True, True, True, False]
    assert case.fresh.tolist() == [False, True, False, True, True, False]
