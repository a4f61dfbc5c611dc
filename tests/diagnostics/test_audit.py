"""The audit catches networks that only hide their gradients, and lets honest ones pass."""

import copy
import json
import math
import random
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod, HopSkipJump, ProjectedGradientDescent
from art.defences.preprocessor.preprocessor import PreprocessorPyTorch
from torch import nn

import qadv
from qadv.commands import audit as command
from qadv.commands.audit import made_preprocessor
from qadv.components import AuditCheck
from qadv.diagnostics import Finding
from qadv.diagnostics.audit import run
from qadv.diagnostics.audit.ascent import ascend
from qadv.diagnostics.audit.ball import Ball
from qadv.diagnostics.audit.cost import Cost
from qadv.diagnostics.audit.losses import cross_entropy, margin_towards, typical_margin
from qadv.diagnostics.audit.repair import lost_steps, mended
from qadv.diagnostics.audit.result import Grade, Verdict, interval
from qadv.diagnostics.audit.settings import FEW_STEPS, QUICK
from qadv.diagnostics.audit.target import Target
from qadv.errors import AttackError, InvalidInputError, QadvError
from qadv.plugins import PluginInfo
from qadv.registry import default_registry
from qadv.units import to_range

# a third of the quick setting's work
MODERATE = replace(QUICK, steps=20, long_steps=40, blocks=2, square_steps=100, square_runs=2)


class Rounded(nn.Module):
    """Rounds the image to a few levels, without a gradient."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(torch.round(8 * x) / 8)


class Backward(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor for each pixel."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.save_for_backward(factor)
        return x.view_as(x)

    @staticmethod
    def backward(ctx, slope):
        return slope * ctx.saved_tensors[0], None


class Spoilt(nn.Module):
    """Leaves images as they are, and spoils the gradient pixel by pixel."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return Backward.apply(x, self.factor)


class Opaque(nn.Module):
    """Loses the gradient inside, where no module begins or ends."""

    def __init__(self, network):
        super().__init__()
        self.networks = [network]

    def forward(self, x):
        with torch.no_grad():
            logits = self.networks[0](x)
        return logits + 0 * x.flatten(1).sum(dim=1, keepdim=True)


class Hashed(nn.Module):
    """Adds noise that the pixels themselves decide."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        seeds = (1e6 * x.detach().double().flatten(1) @ torch.arange(1.0, 65.0, dtype=torch.float64)).long() % 2**31
        drawn = [torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
        return self.network(x + 0.1 * torch.stack(drawn))


class Scaled(nn.Module):
    """Multiplies the logits, which saturates the softmax."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return 1e4 * self.network(x)


class Noisy(nn.Module):
    """Adds noise to the image."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x + 0.1 * torch.randn_like(x))


def wrapped(network):
    return qadv.QuantizedClassifier(network, nn.CrossEntropyLoss(), (1, 8, 8), 10)


def audited(classifier, digits, eps, nb_samples=40, **options):
    x, y = digits.x_test[:nb_samples], digits.y_test[:nb_samples]
    return qadv.audit(classifier, x, y, eps=eps, verbose=False, **options)


def ball(eps, norm=math.inf):
    return Ball(eps, norm, 0.0, 1.0)


def verdicts(result):
    return {check.number: check.verdict.value for check in result.checks}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(run, "QUICK", FEW_STEPS)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # exporting takes longer than all the rest


@pytest.fixture
def onnx_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)


@pytest.fixture
def moderate(monkeypatch):
    monkeypatch.setattr(run, "QUICK", MODERATE)


@pytest.fixture(scope="module")
def float_parent(digits):
    torch.manual_seed(0)
    classifier = qadv.QuantizedClassifier.from_backbone(
        "mnist-cnn", weights="float", activations="float", input_shape=(1, 8, 8), image_size=8, width=8
    )
    trainer = qadv.DefensiveQuantTrainer(classifier, beta=0.0, lr=0.1, verbose=False)
    trainer.fit(digits.x_train, digits.y_train, nb_epochs=6, batch_size=64)
    return classifier


def test_an_undefended_network_passes(trained, float_parent, digits):
    result = audited(trained, digits, eps=0.3, float_parent=float_parent)
    assert result.passed, result
    assert result.grade == "nothing against it"
    assert result.worst_case.accuracy == 0
    assert verdicts(result)[7] == "passed"
    assert verdicts(result)[10] == "not evaluated"
    assert result.checks[0].values["agreement"] > 0.2, "a sound gradient agrees with finite differences"


@pytest.mark.slow
def test_a_network_trained_with_pgd_passes(make_classifier, digits, moderate):
    classifier = make_classifier()
    trainer = qadv.AdversarialQuantTrainer(classifier, "pgd", eps=0.1, max_iter=3, lr=0.1, verbose=False)
    trainer.fit(digits.x_train, digits.y_train, nb_epochs=4, batch_size=64)
    result = audited(classifier, digits, eps=0.03, nb_samples=25)
    assert result.passed, result
    assert verdicts(result)[11] == "passed" or re.search("pip install|torch 2.8", result.checks[10].figure)
    assert result.worst_case.accuracy > 0.6


def test_rounding_without_a_gradient_is_caught(trained, digits, moderate, onnx_missing):
    result = audited(wrapped(Rounded(trained.model)), digits, eps=0.15, nb_samples=12)
    found = result.checks[0].values
    assert 1 in result.failed, result
    assert found["counts"]["cross-entropy"]["zero"] == found["images"] == found["flat"]
    assert result.repaired == ("between the input of Rounded and the input of AttackedNetwork",)
    assert f"gradient repaired: {result.repaired[0]}" in result.headline
    assert result.grade == "not converged", "attacks had a gradient all the same"
    assert result.worst_case.accuracy == 0
    assert result.attacks[0].cost.backward > 0


def hidden(share):
    """Returns factors of which a share is zero."""
    return (torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0)) >= share).float()


def test_a_mask_on_some_of_the_pixels_is_found_and_taken_off(trained, digits, moderate, onnx_missing):
    factor = hidden(0.6)
    result = audited(wrapped(nn.Sequential(Spoilt(factor), trained.model)), digits, eps=0.15, nb_samples=12)
    assert result.failed[0] == 1, result
    assert result.checks[0].values["hidden"] == result.checks[0].values["images"]
    assert result.checks[0].values["repaired"] == ["Spoilt"]
    assert result.worst_case.accuracy == 0


def test_a_preprocessor_without_a_gradient_is_repaired(trained, digits, moderate, onnx_missing):
    class Coarse(PreprocessorPyTorch):
        def __init__(self):
            super().__init__(is_fitted=True, apply_fit=False, apply_predict=True)

        def forward(self, x, y=None):
            return (8 * x).round() / 8, y

    classifier = qadv.QuantizedClassifier(
        trained.model, nn.CrossEntropyLoss(), (1, 8, 8), 10, preprocessing_defences=[Coarse()]
    )
    result = audited(classifier, digits, eps=0.15, nb_samples=12)
    assert result.repaired == ("Coarse",)
    assert result.worst_case.accuracy == 0
    (step,) = classifier.preprocessing_defences
    assert "forward" not in vars(step)


def test_where_no_gradient_leads_square_has_the_work(trained, digits, moderate, onnx_missing):
    network = trained.model
    result = audited(wrapped(Opaque(network)), digits, eps=0.1, nb_samples=12)
    assert result.grade == "gradients unusable"
    assert "gradients unusable, the figure means nothing (check" in result.headline
    assert {number for number, verdict in verdicts(result).items() if verdict == "not evaluated"} >= {4, 5, 6, 8}
    names = [attack.name for attack in result.attacks if attack.cost.backward]
    assert names == [], "none that follows a gradient"
    first = next(attack for attack in result.attacks if attack.name.startswith("Square"))
    assert first.name == f"Square, {5 * MODERATE.square_steps} queries, run 1"
    assert result.worst_case.accuracy < result.worst_case.clean_accuracy


def test_a_gradient_that_points_the_wrong_way_is_unusable(trained, digits, moderate, onnx_missing):
    signs = 2 * hidden(0.5) - 1
    result = audited(wrapped(nn.Sequential(Spoilt(signs), trained.model)), digits, eps=0.15, nb_samples=20)
    assert result.grade == "gradients unusable", result
    assert result.repaired == ()
    runs = [attack for attack in result.attacks if attack.name.startswith("Square")]
    lengths = [int(attack.name.split()[1]) for attack in runs]
    pays = [attack.first > attack.samples / 10 for attack in runs]
    assert pays[0]
    assert lengths[0] == 100
    assert lengths[1:] == [length * (1 + more) for length, more in zip(lengths[:-1], pays, strict=False)]
    assert not runs[-1].first or pays.count(False) == 2, "it goes on while it breaks images"


def test_repairs_leave_values_and_network_as_they_are(trained, digits):
    network = nn.Sequential(Spoilt(hidden(0.6)), trained.model)
    classifier = wrapped(network)
    x, y = digits.x_test[:31], digits.y_test[:31]
    images, labels = torch.from_numpy(x), torch.from_numpy(y)
    target, before = Target(classifier, 64), classifier.predict(x)
    steps = lost_steps(target, images, labels, lambda: True)
    assert [str(step) for step in steps] == ["Spoilt"]
    assert [str(step) for step in lost_steps(target, images, labels, lambda: False)] == ["Spoilt"]
    fewer = Target(wrapped(nn.Sequential(Spoilt(hidden(0.2)), trained.model)), 64)
    assert lost_steps(fewer, images, labels, lambda: False) == [], "honest steps lose as much"
    with mended(steps):
        assert np.array_equal(classifier.predict(x), before)
        slope = target.gradient(images, labels, cross_entropy)[2]
    honest = Target(trained, 64).gradient(images, labels, cross_entropy)[2]
    torch.testing.assert_close(slope, honest)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in classifier.model.modules())
    assert torch.equal(
        target.gradient(images, labels, cross_entropy)[2] == 0, (honest == 0) | (hidden(0.6) == 0).expand_as(honest)
    )


def test_pixels_that_do_not_matter_or_matter_only_when_moved_are_no_mask(trained, digits, only_checks):
    class Dark(nn.Module):
        """A ReLU that only dark pixels moved by all of ε switch on, and one column that is not looked at."""

        def forward(self, x):
            lit = torch.where(x <= 0.1, 100 * torch.relu(x - 0.0995), x)
            return torch.cat([lit[..., :-1], torch.zeros_like(lit[..., -1:])], dim=-1)

    only_checks(lambda number: number == 1)
    classifier = wrapped(nn.Sequential(Dark(), trained.model))
    result = audited(classifier, digits, eps=0.1)
    assert result.passed, result
    assert result.checks[0].values["hidden"] == 0


def test_a_pixel_that_moves_all_logits_alike_is_no_mask(only_checks):
    only_checks(lambda number: number == 1)
    linear = nn.Linear(4, 2)
    linear.weight.data = torch.tensor([[1.0, 1, -1, 1], [1, -1, 1, -1]])
    linear.bias.data.zero_()
    network = nn.Sequential(nn.Flatten(), linear)
    classifier = qadv.QuantizedClassifier(network, nn.CrossEntropyLoss(), (1, 2, 2), 2)
    x = np.random.default_rng(0).random((40, 1, 2, 2), dtype=np.float32)
    result = qadv.audit(classifier, x, classifier.predict(x).argmax(1), eps=0.1, verbose=False)
    assert result.passed, result
    assert result.checks[0].values["hidden"] == 0


def test_a_mask_in_front_of_the_classes_behind_the_runner_up_is_found(trained, digits, only_checks):
    class BehindTheFirst(nn.Module):
        """Rows that are dark move the classes of third rank and lower, without a gradient."""

        def forward(self, x):
            dark = torch.zeros_like(x)
            dark[..., :3, :] = 1
            live, full = trained.model(x * (1 - dark)), trained.model(x * (1 - dark) + (x * dark).detach())
            first = torch.zeros_like(live).scatter(1, live.detach().topk(2).indices, 1)
            return torch.where(first == 1, live, full)

    only_checks(lambda number: number == 1)
    found = audited(wrapped(BehindTheFirst()), digits, eps=0.1).checks[0]
    assert found.verdict == Verdict.FAILED
    assert found.values["hidden"] > 20


def test_noise_in_the_target_alone_is_caught(trained, digits, only_checks):
    class NoisyBehind(nn.Module):
        """A class that is in the lower half is drawn."""

        def forward(self, x):
            logits = trained.model(x)
            behind = logits.detach().argsort(1).argsort(1) < 5
            return torch.where(behind, logits.detach() + 2 * torch.randn_like(logits), logits)

    only_checks(lambda number: number == 2)
    logits = trained.predict(digits.x_test[:100])
    chosen = np.argsort(np.argsort(logits, axis=1), axis=1)[:, 1] < 5
    x = digits.x_test[:100][chosen & (digits.y_test[:100] == 0)]
    assert len(x) >= 3
    result = qadv.audit(wrapped(NoisyBehind()), x, np.zeros(len(x), int), eps=0.1, pair=(0, 1), verbose=False)
    assert 2 in result.failed


@pytest.mark.parametrize("more", [-1e4, -1e9, -math.inf])
def test_a_class_that_is_masked_out_hides_nothing(more, trained, digits, only_checks):
    class Masked(nn.Module):
        """Has one class more, which never wins; with `alike` the same number is added to all others."""

        def __init__(self, network, alike=0.0):
            super().__init__()
            self.network, self.alike = network, alike

        def forward(self, x):
            return nn.functional.pad(self.network(x) + self.alike, (0, 1), value=more)

    def checked(network):
        classifier = qadv.QuantizedClassifier(network, nn.CrossEntropyLoss(), (1, 8, 8), 11)
        return audited(classifier, digits, eps=0.1)

    only_checks(lambda number: number in (1, 2))
    assert checked(Masked(trained.model)).passed
    assert checked(Masked(trained.model, alike=1e4)).passed
    assert 2 in checked(Masked(Noisy(trained.model))).failed
    hard = Hard(trained.model)
    assert "hard labels" in checked(Masked(hard)).checks[0].figure
    assert "hard labels" in audited(wrapped(hard), digits, eps=0.1).checks[0].figure


class Hard(nn.Module):
    """The predicted class alone, with the gradient of its probabilities."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        logits = self.network(x)
        shares = logits.softmax(1)
        return nn.functional.one_hot(logits.argmax(1), 10) + shares - shares.detach()


def test_noise_that_the_pixels_decide_is_caught(trained, digits, only_checks):
    only_checks(lambda number: number == 2)
    result = audited(wrapped(Hashed(trained.model)), digits, eps=0.1)
    assert result.failed == (2,)
    assert result.checks[0].values["spread"] == 0
    assert audited(trained, digits, eps=0.1).passed


def test_work_goes_on_while_it_finds_something_and_is_judged_by_its_last_part(
    trained, digits, monkeypatch, only_checks
):
    only_checks(lambda number: number == 9)
    monkeypatch.setattr(run, "QUICK", replace(FEW_STEPS, steps=2, long_steps=2, blocks=3))
    result = audited(trained, digits, eps=0.04, nb_samples=100)
    found = result.checks[0].values
    blocks = [attack for attack in result.attacks if attack.name.startswith("PGD, block")]
    assert found["by_block"] == [attack.first for attack in blocks]
    assert all(found["by_block"][1:-1]), "it ends with the first that finds nothing"
    assert len(blocks) == 3 or found["by_block"][-1] == 0
    assert found["last"] >= found["by_block"][-1]
    assert result.passed == (max(found["last"], found["noise"]) <= 1)
    assert 0 <= found["expected"] <= found["gain"]
    nowhere = audited(trained, digits, eps=1e-4, nb_samples=20).checks[0].values
    assert nowhere["by_block"] == [0, 0]


def test_intervals_are_those_of_clopper_and_pearson():
    # sums of the binomial distribution at the ends are 2.5 %
    for count, samples in ((0, 25), (3, 100), (97, 100), (50, 50)):
        low, high = interval(count, samples)
        tails = [
            sum(math.comb(samples, k) * p**k * (1 - p) ** (samples - k) for k in numbers)
            for p, numbers in ((low, range(count, samples + 1)), (high, range(count + 1)))
        ]
        assert (low, high) != (0.0, 1.0)
        assert tails[0] == pytest.approx(0.025, abs=1e-6) or (count == 0 and low == 0)
        assert tails[1] == pytest.approx(0.025, abs=1e-6) or (count == samples and high == 1)
    assert interval(0, 0) == (0.0, 1.0)


def test_the_grade_is_that_of_the_worst_check_that_failed(trained, digits, small):
    result = audited(trained, digits, eps=0.1, nb_samples=12)
    found = [Finding.of(True, ""), Finding.of(False, ""), Finding.of(False, "", grade=Grade.UNUSABLE)]
    for count, grade in ((1, "nothing against it"), (2, "not converged"), (3, "gradients unusable")):
        checks = tuple(
            replace(check, verdict=finding.verdict, grade=finding.grade)
            for check, finding in zip(result.checks, found[:count], strict=False)
        )
        assert replace(result, checks=checks).grade == grade
        assert replace(result, checks=checks).to_dict()["grade"] == grade
        assert grade in replace(result, checks=checks).headline


def test_an_attack_towards_a_class_arrives_there(trained, digits):
    x, y = digits.x_test[:30], digits.y_test[:30]
    goals = (y + 3) % 10
    found = ascend(
        Target(trained, 16), x, y, loss=cross_entropy, goals=goals, ball=ball(0.4), steps=20, seed=0, leave=False
    ).highest
    assert (trained.predict(found).argmax(1) == goals).mean() > 0.8
    logits = torch.tensor([[1.0, 5.0, 2.0], [4.0, 0.0, 9.0]])
    assert margin_towards(torch.tensor([2, 0]))(logits, torch.tensor([1, 2])).tolist() == [-3.0, -5.0]


def test_scaled_logits_are_caught(trained, digits, moderate, onnx_missing):
    result = audited(wrapped(Scaled(trained.model)), digits, eps=0.15, nb_samples=20)
    assert 1 in result.failed, result
    counts = result.checks[0].values["counts"]
    assert counts["cross-entropy"]["zero"] > 0.9 * result.checks[0].values["images"], "the softmax is saturated"
    assert counts["margin"]["zero"] == 0, "which does not depend on the scale"
    assert result.grade == "not converged", "attacks go by the margin"
    assert result.worst_case.accuracy == 0
    assert result.attacks[1].name == "PGD"
    assert result.attacks[1].broken > 0.9 * result.attacks[1].samples, "the first of them too"


def test_a_random_network_is_caught(trained, digits, small):
    result = audited(wrapped(Noisy(trained.model)), digits, eps=0.15, nb_samples=16)
    assert 2 in result.failed, result
    assert result.draws == FEW_STEPS.draws
    assert f"means of {FEW_STEPS.draws} passes" in str(result)
    assert verdicts(result)[11] == "not evaluated"


def test_the_tanh_quantizer_is_caught(make_classifier, digits, moderate, onnx_missing):
    classifier = make_classifier(activations="tanh:1")
    trainer = qadv.DefensiveQuantTrainer(classifier, beta=0.0, lr=0.1, verbose=False)
    trainer.fit(digits.x_train, digits.y_train, nb_epochs=8, batch_size=64)
    result = audited(classifier, digits, eps=0.04, nb_samples=100)  # 7 to 12 images, where check 3 allows one
    assert 3 in result.failed, result
    assert result.checks[0].values["agreement"] < 0.2, "a gradient that has little to do with the logits"


def test_fgsm_training_is_caught(make_classifier, digits, moderate, onnx_missing):
    classifier = make_classifier(width=16)
    trainer = qadv.AdversarialQuantTrainer(classifier, "fgsm", eps=0.5, lr=0.05, verbose=False)
    trainer.fit(digits.x_train, digits.y_train, nb_epochs=12, batch_size=64)
    result = audited(classifier, digits, eps=0.5, nb_samples=200)
    assert 5 in result.failed, result
    fgsm = dict(result.checks[4].values["accuracy_by_eps"]["FGSM"])
    assert fgsm[1.0] > fgsm[0.5], "a longer step along the gradient does less harm"
    assert result.worst_case.accuracy < 0.05, "which the worst case does not believe"


def test_worst_case_is_what_its_images_say(trained, digits, moderate, onnx_missing):
    result = audited(trained, digits, eps=0.1)
    worst, x, y = result.worst_case, digits.x_test[:40], digits.y_test[:40]
    right = trained.predict(worst.adversarial).argmax(1) == y
    assert np.array_equal(right, worst.robust)
    assert worst.accuracy == worst.robust.mean()
    assert np.abs(worst.adversarial - x).max() <= 0.1 + 1e-6
    assert worst.adversarial.min() >= 0
    assert worst.adversarial.max() <= 1
    assert [by == "" for by in worst.broken_by] == worst.robust.tolist()
    attack = ProjectedGradientDescent(trained, eps=0.1, eps_step=0.02, max_iter=20, verbose=False)
    assert worst.accuracy <= (trained.predict(attack.generate(x, y)).argmax(1) == y).mean()
    assert sum(a.first for a in result.attacks) + sum(by == "clean" for by in worst.broken_by) == (~worst.robust).sum()


def test_audits_repeat_and_leave_no_trace(trained, digits, small):
    np.random.seed(3)
    torch.manual_seed(3)
    modes = [module.training for module in trained.model.modules()]
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    first, again = (audited(trained, digits, eps=0.1, nb_samples=12).to_dict() for _ in range(2))
    other = audited(trained, digits, eps=0.1, nb_samples=12, seed=1).to_dict()
    for each in (first, again, other):
        del each["seconds"]
        for attack in each["attacks"]:
            del attack["seconds"]
    assert first == again
    assert first != other
    assert np.array_equal(before[0], np.random.get_state()[1])
    assert torch.equal(before[1], torch.get_rng_state())
    assert modes == [module.training for module in trained.model.modules()]
    assert not any(module._forward_hooks for name, module in trained.model.named_modules() if name and "." in name)


def test_result_is_plain_data_and_one_table(trained, digits, small):
    result = audited(trained, digits, eps=0.1, nb_samples=12)
    assert json.loads(json.dumps(result.to_dict())) == result.to_dict()
    text = str(result)
    assert max(map(len, text.splitlines())) <= 120
    assert "\x1b" not in text
    assert result.headline.split(" within")[0] in " ".join(text.split())
    assert [check.number for check in result.checks] == list(range(1, 13))
    assert all(check.figure and check.rule for check in result.checks)
    assert result.cost.forward > result.cost.backward > 0
    assert sum(attack.cost.backward for attack in result.attacks) < result.cost.backward


class Brighter:
    """A plugin's check."""

    name = "brighter images"
    rule = "break nothing new"

    def examine(self, case):
        gain = int(case.attack("brighter", lambda x, y: x + np.float32(case.eps), case.survivors).sum())
        return Finding.of(gain == 0, f"{gain} more", gain=gain)


class Raises(Brighter):
    def examine(self, case):
        raise ZeroDivisionError("no image")


class SaysYes(Brighter):
    def examine(self, case):
        return True


class Graded(Brighter):
    def examine(self, case):
        return Finding("failed", "by a grade that there is not", {}, "bogus")


class NoData(Brighter):
    def examine(self, case):
        return Finding("passed", "values that JSON does not have", {"gain": np.float32(1)})


class Draws(Brighter):
    def examine(self, case):
        return Finding("passed", "numbers", {"drawn": [np.random.rand(), torch.rand(1).item()]})


def test_a_plugins_checks_stand_beside_qadvs_own_and_can_not_take_the_audit_down(trained, digits, small):
    checks = [
        AuditCheck(name=name, target=f"{__name__}:{target}", summary="a rule")
        for name, target in (
            ("brighter", "Brighter"),
            ("gone", "NotThere"),
            ("raises", "Raises"),
            ("yes", "SaysYes"),
            ("a-grade", "Graded"),
            ("a-value", "NoData"),
            ("draws", "Draws"),
            ("draws-again", "Draws"),
        )
    ]
    plugin = PluginInfo("qadv-brighter", "brighter", "1.0", components=checks)
    default_registry().plugins.append(plugin)
    try:
        result = audited(trained, digits, eps=0.1, nb_samples=12)
    finally:
        default_registry().plugins.remove(plugin)
    own, graded, valued, found, draws, again, gone, raised, yes = result.checks[11:]
    assert (own.number, found.number, found.name, found.rule) == (12, 15, "brighter images", "break nothing new")
    assert found.verdict == ("passed" if found.values["gain"] == 0 else "failed")
    assert "brighter" in [attack.name for attack in result.attacks]
    assert {each.verdict.value for each in (gone, raised, yes, graded, valued)} == {"not evaluated"}
    assert "bogus" in graded.figure
    assert "float32" in valued.figure
    assert draws.values == again.values, "the seed decides, whatever was drawn before"
    assert "qadv-brighter/gone failed: PluginError" in gone.figure
    assert raised.figure == "qadv-brighter/raises failed: ZeroDivisionError: no image"
    assert "expected a Finding, got bool" in yes.figure
    assert "15" in str(result)
    assert result.to_dict()["checks"][14]["name"] == "brighter images"


def test_adaptive_attack_joins_the_worst_case(trained, digits, small):
    class Known(FastGradientMethod):
        """Breaks the first image, and leaves the ball for it."""

        def generate(self, x, y=None, **kwargs):
            return np.where(x < 0.5, x + 3 * self.eps, x - 3 * self.eps).astype(np.float32)

    for given in (Known(trained, eps=0.2), lambda classifier: Known(classifier, eps=0.2)):
        result = audited(trained, digits, eps=0.2, nb_samples=12, adaptive=given)
        assert verdicts(result)[10] == "passed"
        assert "adaptive Known" in [attack.name for attack in result.attacks]
        assert np.abs(result.worst_case.adversarial - digits.x_test[:12]).max() <= 0.2 + 1e-6


def test_an_attack_that_no_check_looks_at_is_refused(trained, digits):
    attack = FastGradientMethod(trained, eps=0.2)
    for scope in ({"checks": [1]}, {"without": ["adaptive-attack"]}):
        with pytest.raises(InvalidInputError, match="adaptive: only the check adaptive-attack looks at it"):
            audited(trained, digits, eps=0.2, nb_samples=12, adaptive=attack, **scope)


def test_exported_model_needs_a_quantized_network_and_onnxruntime(trained, float_parent, digits, small):
    assert "not quantized" in audited(float_parent, digits, eps=0.1, nb_samples=12).checks[10].figure
    check = audited(trained, digits, eps=0.1, nb_samples=12).checks[10]
    assert check.verdict.value == "not evaluated"
    assert "pip install" in check.figure


def test_exported_model_agrees(trained, digits, monkeypatch):
    monkeypatch.setattr(run, "QUICK", FEW_STEPS)
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    if not hasattr(torch.onnx, "ops"):
        pytest.skip("exporting needs torch 2.8")
    check = audited(trained, digits, eps=0.1, nb_samples=12).checks[10]
    assert check.verdict.value == "passed"
    assert [row["same_class"] for row in check.values["agreement"]] == [1.0, 1.0]


def test_an_ensemble_that_abstains_is_not_broken_by_it(trained, float_parent, digits, small):
    members = [trained, float_parent]
    ensemble = qadv.EnsembleClassifier.of(members, "vote", abstain_below=2)
    result = audited(ensemble, digits, eps=0.3, nb_samples=30)
    predicted = ensemble.predict(result.worst_case.adversarial).argmax(1)
    broken = np.array([by not in ("", "clean") for by in result.worst_case.broken_by])
    assert (predicted[broken] != 10).all()
    assert (predicted[broken] != digits.y_test[:30][broken]).all()
    right = ensemble.predict(digits.x_test[:30]).argmax(1) == digits.y_test[:30]
    assert np.array_equal(np.array(result.worst_case.broken_by) != "clean", right)
    assert not right[ensemble.predict(digits.x_test[:30]).argmax(1) == 10].any()


def test_there_may_be_two_classes_and_infinite_gradients(digits, small):
    class Root(nn.Module):
        """Has no finite slope where a pixel is 0."""

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(64, 2)

        def forward(self, x):
            return self.linear(x.flatten(1).abs().sqrt())

    torch.manual_seed(0)
    classifier = qadv.QuantizedClassifier(Root(), nn.CrossEntropyLoss(), (1, 8, 8), 2)
    x = digits.x_test[:12]
    result = qadv.audit(classifier, x, classifier.predict(x).argmax(1), eps=0.1, verbose=False)
    assert 1 in result.failed
    counts = result.checks[0].values["counts"]
    assert {name: count["non_finite"] for name, count in counts.items()} == {"cross-entropy": 12, "margin": 12}
    assert {"PGD, margin", "PGD, other class 1"} <= {attack.name for attack in result.attacks}
    assert "PGD, other class 2" not in [attack.name for attack in result.attacks]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": 0.0}, "eps: expected a finite number above 0"),
        ({"eps": "8/0"}, "eps: expected a finite number above 0, or a fraction such as 8/255, got '8/0'"),
        ({"eps": 4}, r"eps: expected at most 1, the range of the pixels \(0 to 1\), got 4; did you mean 4/255\?"),
        ({"seed": -1}, "seed"),
        ({"thorough": 1}, "thorough: expected True or False"),
        ({"adaptive": 3}, "adaptive: expected an ART evasion attack"),
        ({"others": 3}, "others: expected classifiers"),
        ({"float_parent": nn.Linear(1, 1)}, "float parent: expected an ART PyTorchClassifier"),
    ],
)
def test_arguments_are_checked(trained, digits, change, message):
    with pytest.raises(InvalidInputError, match=message):
        qadv.audit(trained, digits.x_test[:4], digits.y_test[:4], **{"eps": 0.1, "verbose": False, **change})


@pytest.mark.parametrize("place", ["float_parent", "others"])
def test_images_are_made_on_other_networks_for_the_same_images(trained, make_classifier, digits, place):
    def ask(other):
        given = [other] if place == "others" else other
        qadv.audit(trained, digits.x_test[:4], digits.y_test[:4], eps=0.1, verbose=False, **{place: given})

    with pytest.raises(InvalidInputError, match="it has the very weights of the audited network"):
        ask(copy.deepcopy(trained))
    with pytest.raises(InvalidInputError, match=r"expected one clip_values for all, got \(0.0, 1.0\) of 'the audited"):
        ask(make_classifier(clip_values=(0.0, 255.0)))


def test_classifiers_it_can_not_read_are_refused(make_classifier, digits):
    x, y = digits.x_test[:4], digits.y_test[:4]
    with pytest.raises(InvalidInputError, match="probabilities=False"):
        qadv.audit(make_classifier(probabilities=True), x, y)
    with pytest.raises(InvalidInputError, match="clip_values"):
        qadv.audit(make_classifier(clip_values=None), x, y)


def test_a_network_that_gives_probabilities_is_told_so_before_anything_is_attacked(trained, digits, only_checks):
    only_checks(lambda number: False)
    softmax = wrapped(nn.Sequential(copy.deepcopy(trained.model), nn.Softmax(dim=1)))
    with pytest.raises(InvalidInputError, match=r"classifier: the network gives probabilities.*take the softmax off"):
        audited(softmax, digits, eps=0.1)
    with pytest.raises(InvalidInputError, match="network 1: the network gives probabilities"):
        audited(trained, digits, eps=0.1, others=[softmax])
    audited(wrapped(nn.Sequential(copy.deepcopy(trained.model), nn.LogSoftmax(dim=1))), digits, eps=0.1)


def test_logits_that_are_nan_for_some_images_are_called_so(trained, digits):
    class Breaks(nn.Module):
        def forward(self, x):
            logits = trained.model(x)
            return torch.where(torch.arange(len(x))[:, None] == 7, torch.nan, logits)

    with pytest.raises(AttackError, match="NaN for 1 of 40 images"):
        audited(wrapped(Breaks()), digits, eps=0.1)


def test_weights_that_are_not_finite_are_named(trained, digits):
    broken = wrapped(copy.deepcopy(trained.model))
    name = next(name for name, parameter in broken.model.named_parameters() if parameter.ndim == 4)
    broken.model.get_parameter(name).data[0] = np.nan
    with pytest.raises(InvalidInputError, match=f"classifier: NaN or infinite values in {name}"):
        audited(broken, digits, eps=0.1)


def test_the_seed_decides_what_arts_attacks_draw_and_nothing_else_does(trained, digits, small, only_checks):
    class Kept(HopSkipJump):
        def generate(self, x, y=None, **kwargs):
            self.made = super().generate(x, y, **kwargs)
            return self.made

    def found(seed):
        random.seed()
        np.random.seed(None)
        audited(trained, digits, eps=0.1, nb_samples=3, seed=seed, adaptive=attack)
        return attack.made

    only_checks(lambda number: number == 10)
    attack = Kept(trained, max_iter=1, max_eval=20, init_eval=5, init_size=20, verbose=False)
    np.testing.assert_array_equal(found(0), found(0))
    assert not np.array_equal(found(0), found(1))


class SomeFlat(nn.Module):
    """The gradient of images whose first pixel is lit is zero."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(torch.where(x[:, :1, :1, :1] > 0.5, x.detach(), x))


@pytest.mark.parametrize(("flat", "verdict"), [(1, "passed"), (12, "failed")])
def test_one_image_with_a_zero_gradient_is_no_masking(flat, verdict, trained, digits, only_checks):
    only_checks(lambda number: number == 1)
    classifier = wrapped(SomeFlat(trained.model))
    x = digits.x_test[:40].copy()
    x[:flat, 0, 0, 0] = 1
    result = qadv.audit(classifier, x, classifier.predict(x).argmax(1), eps=0.1, verbose=False)
    assert result.checks[0].verdict == verdict
    assert f"cross-entropy: {flat} zero" in result.checks[0].figure


def test_the_headline_has_its_label_beside_it(trained, digits, small):
    result = audited(trained, digits, eps=0.1, nb_samples=12)
    low, high = result.interval
    assert f"(95 %: {100 * low:.1f} to {100 * high:.1f}) of 12 images" in result.headline
    sound = replace(result, checks=result.checks[:0])
    assert ": nothing against it; no adaptive attack was given; 12 " in sound.headline
    unnamed = wrapped(nn.Sequential(nn.Identity(), trained.model))
    assert "; no transfer source was given; 12 " in audited(unnamed, digits, 0.1, 12).headline
    assert sound.headline.endswith("12 images can't show what befalls less than 26 %")
    assert replace(sound, samples=100, not_given=()).headline.endswith(": nothing against it")
    failed = replace(result.checks[0], verdict=Verdict.FAILED, grade=Grade.NOT_CONVERGED)
    assert ": not converged (check 1 failed)" in replace(sound, checks=(failed,)).headline


def test_one_step_of_the_ascent_is_fgsm(trained, digits):
    x, y = digits.x_test[:20], digits.y_test[:20]
    options = {"loss": cross_entropy, "ball": ball(0.1), "steps": 1, "seed": 0, "random_start": False, "leave": False}
    ours = ascend(Target(trained, 7), x, y, **options)
    theirs = FastGradientMethod(trained, eps=0.1).generate(x, y)
    moved = np.abs(theirs - x).reshape(20, -1).max(1) > 0
    higher = ours.losses[1] > ours.losses[0]
    assert higher.sum() > 15
    np.testing.assert_allclose(ours.highest[moved & higher], theirs[moved & higher], atol=1e-6)


def test_ascent_keeps_to_the_ball_and_says_what_it_saw(trained, digits):
    x, y = digits.x_test[:30], digits.y_test[:30]
    target = Target(trained, 16)
    whole = ascend(target, x, y, loss=cross_entropy, ball=ball(0.15), steps=10, seed=0, leave=False)
    early = ascend(target, x, y, loss=cross_entropy, ball=ball(0.15), steps=10, seed=0)
    for found in (whole.images, whole.highest, early.images):
        assert np.abs(found - x).max() <= 0.15 + 1e-6
        assert 0 <= found.min() <= found.max() <= 1
    assert np.array_equal(target.broken(whole.images, y), target.broken(early.images, y)), "leaving early loses nothing"
    logits = torch.from_numpy(trained.predict(whole.highest))
    np.testing.assert_allclose(cross_entropy(logits, torch.from_numpy(y)), whole.losses.max(0), rtol=1e-3, atol=1e-5)
    assert np.array_equal(whole.missed, target.broken(whole.images, y) & ~target.broken(whole.highest, y))


def test_a_typical_margin_is_never_zero():
    assert typical_margin(torch.zeros(3, 4), torch.zeros(3, dtype=torch.long)) == 1.0


def test_passes_are_counted(trained, digits):
    x, y = digits.x_test[:10], digits.y_test[:10]
    plain = copy.deepcopy(trained)
    cost = Cost()
    with cost.counted(plain.model):
        plain.predict(x)
        assert (cost.forward, cost.backward) == (10, 0)
        plain.loss_gradient(x, y)
        assert (cost.forward, cost.backward) == (20, 10)
    plain.predict(x)
    assert cost.forward == 20


def test_command_line(trained, float_parent, tmp_path, small, capsys):
    from typer.testing import CliRunner

    from qadv.cli import app

    trained.save(tmp_path / "net.safetensors")
    arguments = ["audit", str(tmp_path / "net.safetensors"), "--dataset", "digits", "--nb-test", "8", "--eps", "0.3"]
    float_parent.save(tmp_path / "other.safetensors")
    done = CliRunner().invoke(app, [*arguments, "--json", "--other", str(tmp_path / "other.safetensors")])
    report = json.loads(done.stdout)
    assert done.exit_code == (0 if report["passed"] else 2)
    assert report["samples"] == 8
    assert report["checks"][6]["values"]["by_source"] is not None


def test_command_line_puts_preprocessors_in_front(trained, tmp_path, small, capsys):
    from typer.testing import CliRunner

    from qadv.cli import app

    trained.save(tmp_path / "net.safetensors")
    arguments = ["audit", str(tmp_path / "net.safetensors"), "--dataset", "digits", "--nb-test", "8", "--json"]
    plain, coarse = (
        json.loads(CliRunner().invoke(app, [*arguments, *more]).stdout)
        for more in ([], ["--preprocessor", "mu-law-companding", "--preprocessor", "bit-depth:bit_depth = 1"])
    )
    assert "through" not in plain["gradient"].replace("straight-through", "")
    assert coarse["gradient"].endswith("through MuLawCompanding, through BitDepthReduction")


@pytest.fixture
def command_line(monkeypatch):
    """Runs `qadv audit` without the attacks: returns what the command did, and what `audit` was given."""
    from typer.testing import CliRunner

    from qadv.cli import app

    def invoke(*arguments, passed=True):
        given = {}

        def audit(classifier, x, y, **options):
            given.update(options, classifier=classifier, x=x, y=y)
            return SimpleNamespace(passed=passed, to_dict=lambda: {"passed": passed})

        monkeypatch.setattr(command, "audit_in_shards", audit)
        return CliRunner().invoke(app, ["audit", *map(str, arguments), "--dataset", "digits"]), given

    return invoke


def test_the_command_line_gives_all_options_to_the_audit(command_line, trained, float_parent, digits, tmp_path):
    trained.save(tmp_path / "net.safetensors")
    float_parent.save(tmp_path / "float.safetensors")
    options = [
        "--eps",
        "30/100",
        "--float-parent",
        tmp_path / "float.safetensors",
        "--other",
        tmp_path / "net.safetensors",
    ]
    more = [
        "--thorough",
        "--seed",
        7,
        "--nb-test",
        5,
        "--json",
        "--norm",
        2,
        "--to-zero",
        "--pair",
        3,
        5,
        "--pixels",
        "uint8",
        "--simulation",
        tmp_path / "float.safetensors",
        *("--without", "SPSA", "--without", "more-work"),
    ]
    done, given = command_line(tmp_path / "net.safetensors", *options, *more)
    assert done.exit_code == 0
    assert (given["eps"], given["thorough"], given["seed"], given["verbose"]) == (["30/100"], True, 7, False)
    assert (given["norm"], given["to_zero"], given["pair"], given["pixels"]) == ("2", True, (3, 5), "uint8")
    assert given["without"] == ["SPSA", "more-work"]
    assert list(given["others"]) == [str(tmp_path / "net.safetensors")]
    x = given["x"]
    assert (x == digits.x_test[:5]).all()
    assert (given["y"] == digits.y_test[:5]).all()
    np.testing.assert_array_equal(given["classifier"].predict(x), trained.predict(x))
    for name in ("float_parent", "simulation"):
        np.testing.assert_array_equal(given[name].predict(x), float_parent.predict(x))


def test_the_status_of_the_command_line_is_the_verdict(command_line, trained, tmp_path):
    trained.save(tmp_path / "net.safetensors")
    for passed in (True, False):
        done, given = command_line(tmp_path / "net.safetensors", passed=passed)
        assert done.exit_code == (0 if passed else 2)
        assert f"passed={passed}" in done.stdout
        assert given["verbose"]
        assert (given["float_parent"], given["others"], given["thorough"], given["seed"]) == (None, {}, False, 0)


@pytest.mark.parametrize("clip_values", [(0.0, 255.0), (-1.0, 1.0)])
def test_the_command_line_brings_everything_into_the_range_of_the_pixels(
    command_line, make_classifier, digits, tmp_path, clip_values
):
    make_classifier(clip_values=clip_values).save(tmp_path / "net.safetensors")
    _, given = command_line(tmp_path / "net.safetensors", "--preprocessor", "bit-depth", "--nb-test", 20)
    assert given["eps"] == qadv.Share(8 / 255)
    np.testing.assert_allclose(given["x"], to_range(digits.x_test[:20], clip_values))
    assert given["x"].max() == clip_values[1]
    (made,) = given["classifier"].preprocessing_defences
    assert made.clip_values == clip_values


def test_the_command_line_refuses_what_does_not_fit(command_line, trained, make_classifier, tmp_path):
    trained.save(tmp_path / "net.safetensors")
    make_classifier(input_shape=(3, 8, 8)).save(tmp_path / "colour.safetensors")
    wrapped(nn.Sequential(nn.Flatten(), nn.Linear(64, 10))).save(tmp_path / "own.safetensors")
    for arguments, said in (
        (["net.safetensors", "--nb-test", 0], "--nb-test: expected a whole number of at least 1, got 0"),
        (["colour.safetensors"], r"data set 'digits' has images of shape \(1, 8, 8\), the network takes \(3, 8, 8\)"),
        (["own.safetensors"], r"own\.safetensors: the file holds a network that was not made by name.*MODULE:FUNCTION"),
    ):
        done, given = command_line(tmp_path / arguments[0], *arguments[1:])
        assert not given
        with pytest.raises(InvalidInputError, match=said):
            raise done.exception


def test_the_command_line_looks_for_the_images_in_its_folder(trained, tmp_path):
    from typer.testing import CliRunner

    from qadv.cli import app

    trained.save(tmp_path / "net.safetensors")
    arguments = ["audit", str(tmp_path / "net.safetensors"), "--dataset", "mnist", "--data-dir", str(tmp_path)]
    assert str(tmp_path / "mnist.npz") in str(CliRunner().invoke(app, arguments).exception)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bit-depth:bits=3", "bits"),
        ("bit-depth:bit_depth=many", "bit_depth: expected a whole number"),
        (f"bit-depth:bit_depth={'9' * 5000}", "expected NAME or NAME:option=value"),
        (f"bit-depth:bit_depth={'[' * 5000}", "expected NAME or NAME:option=value"),
        ("bit-dept", "did you mean bit-depth"),
        ("bit-depth:bit_depth=40", "from 1 to 16"),
    ],
)
def test_a_preprocessor_that_can_not_be_made(text, said):
    with pytest.raises(QadvError, match=said):
        made_preprocessor(text)


def test_arguments_of_a_preprocessor_are_toml():
    made = made_preprocessor("bit-depth:bit_depth = 3, clip_values = [0.0, 255.0]")
    assert (made.bit_depth, *made.clip_values) == (3, 0.0, 255.0)
