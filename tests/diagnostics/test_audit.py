"""The audit catches networks that only hide their gradients, and lets honest ones pass."""

import copy
import json
import random
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod, HopSkipJump, ProjectedGradientDescent
from torch import nn

import qadv
from qadv.diagnostics.audit import command, run
from qadv.diagnostics.audit.ascent import ascend
from qadv.diagnostics.audit.checks import CHECKS
from qadv.diagnostics.audit.command import made_preprocessor
from qadv.diagnostics.audit.cost import Cost
from qadv.diagnostics.audit.losses import cross_entropy, dlr, typical_margin
from qadv.diagnostics.audit.settings import QUICK
from qadv.diagnostics.audit.target import Target
from qadv.errors import InvalidInputError, QadvError
from qadv.units import to_range
from tests.conftest import few_steps

SMALL = few_steps(QUICK)
# a third of the quick setting's work
MODERATE = replace(QUICK, steps=20, restarts=2, square_steps=100)


class Rounded(nn.Module):
    """Rounds the image to a few levels, without a gradient."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(torch.round(8 * x) / 8)


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


def verdicts(result):
    return {check.number: check.verdict.value for check in result.checks}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(run, "QUICK", SMALL)
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
    assert result.worst_case.accuracy == 0
    assert verdicts(result)[7] == "passed"
    assert verdicts(result)[10] == "not evaluated"
    assert "upper bound" not in str(result)


@pytest.mark.slow
def test_a_network_trained_with_pgd_passes(make_classifier, digits, moderate):
    classifier = make_classifier()
    trainer = qadv.AdversarialQuantTrainer(classifier, "pgd", eps=0.1, max_iter=3, lr=0.1, verbose=False)
    trainer.fit(digits.x_train, digits.y_train, nb_epochs=4, batch_size=64)
    result = audited(classifier, digits, eps=0.03, nb_samples=25)
    # one image more that further work breaks is as many as check 9 allows in 25; which it is, another processor decides
    assert set(result.failed) <= {9}, result
    assert verdicts(result)[11] == "passed" or re.search("pip install|torch 2.8", result.checks[10].figure)
    assert result.worst_case.accuracy > 0.6


def test_rounding_without_a_gradient_is_caught(trained, digits, moderate, onnx_missing):
    result = audited(wrapped(Rounded(trained.model)), digits, eps=0.15, nb_samples=12)
    assert {1, 3} <= set(result.failed), result
    assert result.checks[0].values["counts"]["cross-entropy"]["zero"] == result.checks[0].values["images"]
    assert "upper bound only" in str(result)


def test_scaled_logits_are_caught(trained, digits, moderate, onnx_missing):
    result = audited(wrapped(Scaled(trained.model)), digits, eps=0.15, nb_samples=20)
    assert 1 in result.failed, result
    counts = result.checks[0].values["counts"]
    assert counts["cross-entropy"]["zero"] > 0.9 * result.checks[0].values["images"], "the softmax is saturated"
    assert counts["DLR"]["zero"] == 0, "which does not depend on the scale"


def test_a_random_network_is_caught(trained, digits, small):
    result = audited(wrapped(Noisy(trained.model)), digits, eps=0.15, nb_samples=16)
    assert 2 in result.failed, result
    assert result.draws == SMALL.draws
    assert f"means of {SMALL.draws} passes" in str(result)
    assert verdicts(result)[11] == "not evaluated"


def test_the_tanh_quantizer_is_caught(make_classifier, digits, moderate, onnx_missing):
    classifier = make_classifier(activations="tanh:1")
    trainer = qadv.DefensiveQuantTrainer(classifier, beta=0.0, lr=0.1, verbose=False)
    trainer.fit(digits.x_train, digits.y_train, nb_epochs=8, batch_size=64)
    result = audited(classifier, digits, eps=0.04, nb_samples=100)
    assert {3, 8} <= set(result.failed), result


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
    assert [check.number for check in result.checks] == list(range(1, 12)) == [check.number for check in CHECKS]
    assert all(check.figure and check.rule for check in result.checks)
    assert result.cost.forward > result.cost.backward > 0
    assert sum(attack.cost.backward for attack in result.attacks) < result.cost.backward


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


def test_exported_model_needs_a_quantized_network_and_onnxruntime(trained, float_parent, digits, small):
    assert "not quantized" in audited(float_parent, digits, eps=0.1, nb_samples=12).checks[10].figure
    check = audited(trained, digits, eps=0.1, nb_samples=12).checks[10]
    assert check.verdict.value == "not evaluated"
    assert "pip install" in check.figure


def test_exported_model_agrees(trained, digits, monkeypatch):
    monkeypatch.setattr(run, "QUICK", SMALL)
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


def test_two_classes_have_no_dlr_and_gradients_may_be_infinite(digits, small):
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
    assert "PGD, margin" in [attack.name for attack in result.attacks]


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


def test_a_network_that_gives_probabilities_is_told_so_before_anything_is_attacked(trained, digits, monkeypatch):
    monkeypatch.setattr(run, "CHECKS", ())
    softmax = wrapped(nn.Sequential(copy.deepcopy(trained.model), nn.Softmax(dim=1)))
    with pytest.raises(InvalidInputError, match=r"classifier: the network gives probabilities.*take the softmax off"):
        audited(softmax, digits, eps=0.1)
    with pytest.raises(InvalidInputError, match="network 1: the network gives probabilities"):
        audited(trained, digits, eps=0.1, others=[softmax])
    audited(wrapped(nn.Sequential(copy.deepcopy(trained.model), nn.LogSoftmax(dim=1))), digits, eps=0.1)


def test_weights_that_are_not_finite_are_named(trained, digits):
    broken = wrapped(copy.deepcopy(trained.model))
    name = next(name for name, parameter in broken.model.named_parameters() if parameter.ndim == 4)
    broken.model.get_parameter(name).data[0] = np.nan
    with pytest.raises(InvalidInputError, match=f"classifier: NaN or infinite values in {name}"):
        audited(broken, digits, eps=0.1)


def test_the_seed_decides_what_arts_attacks_draw_and_nothing_else_does(trained, digits, small, monkeypatch):
    class Kept(HopSkipJump):
        def generate(self, x, y=None, **kwargs):
            self.made = super().generate(x, y, **kwargs)
            return self.made

    def found(seed):
        random.seed()
        np.random.seed(None)
        audited(trained, digits, eps=0.1, nb_samples=3, seed=seed, adaptive=attack)
        return attack.made

    monkeypatch.setattr(run, "CHECKS", [check for check in CHECKS if check.number == 10])
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
def test_one_image_with_a_zero_gradient_is_no_masking(flat, verdict, trained, digits, monkeypatch):
    monkeypatch.setattr(run, "CHECKS", CHECKS[:1])
    classifier = wrapped(SomeFlat(trained.model))
    x = digits.x_test[:40].copy()
    x[:flat, 0, 0, 0] = 1
    result = qadv.audit(classifier, x, classifier.predict(x).argmax(1), eps=0.1, verbose=False)
    assert result.checks[0].verdict == verdict
    assert f"cross-entropy: {flat} zero" in result.checks[0].figure


def test_the_headline_has_its_label_beside_it(trained, digits, small):
    result = audited(trained, digits, eps=0.1, nb_samples=12)
    unseen = sum(check.verdict == "not evaluated" for check in result.checks)
    passed = replace(result, checks=tuple(check for check in result.checks if check.verdict != "failed"))
    assert passed.headline.endswith(f": no check failed, {unseen} not evaluated")
    assert replace(result, checks=result.checks[:0]).headline.endswith(": no check failed")


def test_one_step_of_the_ascent_is_fgsm(trained, digits):
    x, y = digits.x_test[:20], digits.y_test[:20]
    options = {"loss": cross_entropy, "eps": 0.1, "steps": 1, "seed": 0, "random_start": False, "leave": False}
    ours = ascend(Target(trained, 7), x, y, **options)
    theirs = FastGradientMethod(trained, eps=0.1).generate(x, y)
    moved = np.abs(theirs - x).reshape(20, -1).max(1) > 0
    higher = ours.losses[1] > ours.losses[0]
    assert higher.sum() > 15
    np.testing.assert_allclose(ours.highest[moved & higher], theirs[moved & higher], atol=1e-6)


def test_ascent_keeps_to_the_ball_and_says_what_it_saw(trained, digits):
    x, y = digits.x_test[:30], digits.y_test[:30]
    target = Target(trained, 16)
    whole = ascend(target, x, y, loss=cross_entropy, eps=0.15, steps=10, seed=0, leave=False)
    early = ascend(target, x, y, loss=cross_entropy, eps=0.15, steps=10, seed=0)
    for found in (whole.images, whole.highest, early.images):
        assert np.abs(found - x).max() <= 0.15 + 1e-6
        assert 0 <= found.min() <= found.max() <= 1
    assert np.array_equal(target.broken(whole.images, y), target.broken(early.images, y)), "leaving early loses nothing"
    logits = torch.from_numpy(trained.predict(whole.highest))
    np.testing.assert_allclose(cross_entropy(logits, torch.from_numpy(y)), whole.losses.max(0), rtol=1e-3, atol=1e-5)
    assert np.array_equal(whole.missed, target.broken(whole.images, y) & ~target.broken(whole.highest, y))


def test_dlr_against_numpy(digits):
    logits = np.random.default_rng(0).normal(size=(50, 10)).astype(np.float32)
    y = digits.y_test[:50]
    for factor in (1, 1e4):
        found = dlr(torch.from_numpy(factor * logits), torch.from_numpy(y)).numpy()
        for row, label, value in zip(logits, y, found, strict=True):
            ordered = np.sort(row)[::-1]
            other = np.delete(row, label).max()
            assert value == pytest.approx(-(row[label] - other) / (ordered[0] - ordered[2]), rel=1e-4)
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
    arguments = ["audit", str(tmp_path / "net.safetensors"), "--dataset", "digits", "--nb-samples", "8", "--eps", "0.3"]
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
    arguments = ["audit", str(tmp_path / "net.safetensors"), "--dataset", "digits", "--nb-samples", "8", "--json"]
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

        monkeypatch.setattr(command, "audit", audit)
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
    more = ["--thorough", "--seed", 7, "--nb-samples", 5, "--json"]
    done, given = command_line(tmp_path / "net.safetensors", *options, *more)
    assert done.exit_code == 0
    assert (given["eps"], given["thorough"], given["seed"], given["verbose"]) == (0.3, True, 7, False)
    assert list(given["others"]) == ["net.safetensors"]
    x = given["x"]
    assert (x == digits.x_test[:5]).all()
    assert (given["y"] == digits.y_test[:5]).all()
    np.testing.assert_array_equal(given["classifier"].predict(x), trained.predict(x))
    np.testing.assert_array_equal(given["float_parent"].predict(x), float_parent.predict(x))


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
    _, given = command_line(tmp_path / "net.safetensors", "--preprocessor", "bit-depth", "--nb-samples", 20)
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
        (["net.safetensors", "--nb-samples", 0], "--nb-samples: expected a whole number of at least 1, got 0"),
        (["colour.safetensors"], r"--dataset digits has images of shape \(1, 8, 8\), the network takes \(3, 8, 8\)"),
        (["own.safetensors"], r"own\.safetensors holds a network of your own.*In Python"),
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
        ("bit-depth:bit_depth=many", "expected NAME or NAME:argument=value"),
        (f"bit-depth:bit_depth={'9' * 5000}", "expected NAME or NAME:argument=value"),
        (f"bit-depth:bit_depth={'[' * 5000}", "expected NAME or NAME:argument=value"),
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
