"""`AutoAttack`: bounds, bookkeeping, interruption, and robust radii that are known."""

import logging

import numpy as np
import pytest
import torch
from networks import digits, linear, plain
from qadv_autoattack.apgd import APGDT
from qadv_autoattack.auto_attack import AutoAttack
from torch import nn

import qadv
from qadv.errors import InvalidInputError, MaskedGradientWarning
from qadv.testing import digits_classifier

QUICK = {"max_iter": 5, "nb_queries": 40, "seed": 0, "verbose": False}
DUAL = {np.inf: 1, 2: 2, 1: np.inf}


@pytest.mark.parametrize("nb_classes", [2, 10])
def test_a_linear_network_breaks_at_its_robust_radius_and_not_before(nb_classes):
    network, weights, bias = linear(nb_classes)
    x = np.random.default_rng(0).uniform(0.4, 0.6, (3, 1, 8, 8)).astype(np.float32)
    logits = x.reshape(3, -1).astype(np.float64) @ weights.T + bias
    y = logits.argmax(1)
    for i in range(3):
        margins = logits[i, y[i]] - np.delete(logits[i], y[i])
        slopes = np.abs(weights[y[i]] - np.delete(weights, y[i], axis=0)).sum(axis=1)
        radius = (margins / slopes).min()
        assert 1e-4 < radius < 0.1  # within [0, 1] from these grey images
        for factor, holds in ((0.995, True), (1.001, False)):
            attack = AutoAttack(plain(network, nb_classes), eps=factor * radius, **{**QUICK, "max_iter": 20})
            with_warnings_of_few_classes(attack, x[i : i + 1], y[i : i + 1])
            assert attack.robust.tolist() == [holds], (i, factor)


@pytest.mark.parametrize("norm", [2, 1])
def test_the_other_norms_do_too_with_a_little_more(norm):
    network, weights, bias = linear(4)
    x = np.random.default_rng(1).uniform(0.45, 0.55, (1, 1, 8, 8)).astype(np.float32)
    logits = x.reshape(-1).astype(np.float64) @ weights.T + bias
    label = logits.argmax()
    differences = weights[label] - np.delete(weights, label, axis=0)
    radius = ((logits[label] - np.delete(logits, label)) / np.linalg.norm(differences, DUAL[norm], axis=1)).min()
    for factor, holds in ((0.995, True), (1.02, False)):
        attack = AutoAttack(plain(network, 4), norm, factor * radius, **{**QUICK, "max_iter": 30})
        attack.generate(x, np.array([label]))
        assert attack.robust.tolist() == [holds], factor


def with_warnings_of_few_classes(attack, x, y):
    if attack.estimator.nb_classes < 4:
        with pytest.warns(UserWarning, match="left out"):
            return attack.generate(x, y)
    return attack.generate(x, y)


@pytest.mark.parametrize(("norm", "eps"), [(np.inf, 0.06), (2, 0.25), (1, 1.0)])
def test_what_is_broken_is_misclassified_within_eps_and_the_rest_is_as_given(norm, eps):
    x, y = digits(10)
    classifier = digits_classifier()
    attack = AutoAttack(classifier, norm, eps, batch_size=4, **QUICK)
    adversarial = attack.generate(x, y)
    broken = ~attack.robust & (attack.broken_by != "clean")
    assert broken.any()
    assert attack.robust.any()
    np.testing.assert_array_equal(adversarial[~broken], x[~broken])
    assert (classifier.predict(adversarial[broken]).argmax(1) != y[broken]).all()
    distance = np.linalg.norm((adversarial - x).reshape(10, -1).astype(np.float64), norm, axis=1)
    assert distance.max() <= eps * (1 + 1e-5)
    assert distance[broken].min() > 0
    assert attack.broken_by[2] == "clean"
    share = 1.0
    for name, left in attack.robust_accuracy.items():
        share -= (attack.broken_by == name).mean()
        assert left == pytest.approx(share)
    assert list(attack.robust_accuracy) == ["clean", "apgd-ce", "apgd-t", "fab-t", "square"]


def test_the_whole_is_its_parts_each_on_what_the_ones_before_left():
    x, y = digits(9)
    classifier = digits_classifier()
    attack = AutoAttack(classifier, eps=0.05, **QUICK)
    attack.generate(x, y)
    left = np.flatnonzero(classifier.predict(x).argmax(1) == y)
    for name in ("apgd-ce", "apgd-t", "fab-t", "square"):
        options = {**QUICK, "max_iter": QUICK["nb_queries"] if name == "square" else QUICK["max_iter"]}
        options.pop("nb_queries")
        part = qadv.create("attack", f"aa-{name}", classifier, eps=0.05, batch_size=250, **options)
        made = part.generate(x[left], y[left])
        broken = classifier.predict(made).argmax(1) != y[left]
        np.testing.assert_array_equal(np.flatnonzero(attack.broken_by == name), left[broken])
        np.testing.assert_array_equal(attack.partial[left[broken]], made[broken])
        left = left[~broken]


def test_pixels_of_another_range_and_preprocessing_change_nothing():
    x, y = digits(10)
    network = digits_classifier().model
    found = []
    # (v + 1) / 2 undoes the range, (v - 0.5) / 0.5 the standardisation before it
    for low, high, mean, std in ((0.0, 1.0, 0.0, 1.0), (-1.0, 1.0, -1.0, 2.0)):
        classifier = plain(network, clip_values=(low, high), preprocessing=(mean, std))
        attack = AutoAttack(classifier, eps=0.05 * (high - low), **QUICK)
        assert AutoAttack(classifier).eps == pytest.approx(8 / 255 * (high - low))
        assert APGDT(classifier).eps == pytest.approx(8 / 255 * (high - low))
        made = attack.generate((low + (high - low) * x).astype(np.float32), y)
        assert made.min() >= low
        assert made.max() <= high
        found.append((made - low) / (high - low))
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    assert (found[0] != x).any()


def test_a_defense_before_the_network_is_attacked_with_it():
    x, y = digits(8)
    plain_one = digits_classifier()
    classifier = digits_classifier(preprocessing_defences=[qadv.BitDepthReduction(3)])
    assert np.abs(classifier.predict(x) - plain_one.predict(x)).max() > 0.01
    attack = AutoAttack(classifier, eps=0.2, **QUICK)
    adversarial = attack.generate(x, y)
    assert attack.robust_accuracy["clean"] > 0.5
    assert (classifier.predict(adversarial).argmax(1) == y).mean() == attack.robust.mean() < 0.5


def test_without_labels_every_image_counts_as_right():
    x, _ = digits(5)
    attack = AutoAttack(digits_classifier(), eps=0.05, **QUICK)
    attack.generate(x)
    assert attack.robust_accuracy["clean"] == 1


@pytest.mark.parametrize(
    ("nb_classes", "parts"),
    [
        (2, ["apgd-ce", "fab-t", "square"]),
        (3, ["apgd-ce", "apgd-dlr", "fab-t", "square"]),
        (5, ["apgd-ce", "apgd-t", "fab-t", "square"]),
    ],
)
def test_networks_of_few_classes_get_the_parts_that_exist_for_them(nb_classes, parts):
    network, weights, bias = linear(nb_classes, seed=1)
    x = np.random.default_rng(0).random((6, 1, 8, 8), dtype=np.float32)
    y = (x.reshape(6, -1) @ weights.T + bias).argmax(1)
    attack = AutoAttack(plain(network, nb_classes), eps=1e-4, **QUICK)
    with_warnings_of_few_classes(attack, x, y)
    assert list(attack.robust_accuracy) == ["clean", *parts]
    assert bool(attack.flags) == (nb_classes < 4)
    with pytest.raises(InvalidInputError, match="4 logits"):
        AutoAttack(plain(linear(3)[0], 3), attacks_to_run=["apgd-t"])


def test_an_interruption_loses_no_finished_batch(monkeypatch):
    x, y = digits(11)
    classifier = digits_classifier()
    options = {**QUICK, "batch_size": 3, "eps": 0.05, "attacks_to_run": ["apgd-ce", "apgd-t"]}
    whole = AutoAttack(classifier, **options)
    expected = whole.generate(x, y)
    perturb, calls = APGDT.perturb, []

    def stopped(self, *arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return perturb(self, *arguments)

    monkeypatch.setattr(APGDT, "perturb", stopped)
    attack = AutoAttack(classifier, **options)
    with pytest.raises(KeyboardInterrupt):
        attack.generate(x, y)
    first = np.flatnonzero(~np.isin(whole.broken_by, ["clean", "apgd-ce"]))[:3]  # APGD-T's first batch
    kept = np.isin(whole.broken_by, ["clean", "apgd-ce"])
    kept[first] = True
    np.testing.assert_array_equal(attack.partial[kept], expected[kept])
    np.testing.assert_array_equal(attack.broken_by[kept], whole.broken_by[kept])
    np.testing.assert_array_equal(attack.partial[~kept], x[~kept])
    assert list(attack.robust_accuracy) == ["clean", "apgd-ce"]
    assert (whole.broken_by == "apgd-ce").any()


class Loud(nn.Module):
    """Logits so large that the softmax is 1 and 0 in float32."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return 1e4 * self.network(x)


def test_a_saturated_softmax_is_no_defense():
    x, y = digits(8)
    classifier = plain(Loud(digits_classifier().model))
    fooled = qadv.create("attack", "ProjectedGradientDescent", classifier, eps=0.2, eps_step=0.02, verbose=False)
    by_pgd = (classifier.predict(fooled.generate(x, y)).argmax(1) == y).mean()
    attack = AutoAttack(classifier, eps=0.2, **QUICK)
    attack.generate(x, y)
    assert attack.robust_accuracy["apgd-t"] < 0.3 < by_pgd


class Rounded(nn.Module):
    """Rounds its images, without a straight-through estimator."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network((4 * x).round() / 4)


def test_masked_gradients_show_in_the_flags_and_as_warnings():
    x, y = digits(16)
    attack = AutoAttack(plain(Rounded(digits_classifier().model)), eps=0.2, **{**QUICK, "nb_queries": 300})
    with pytest.warns(MaskedGradientWarning) as told:
        attack.generate(x, y)
    assert {"zero gradient" in str(each.message) for each in told} == {True, False}  # the other is Square's
    assert attack.robust_accuracy["fab-t"] > 0.6  # a random start breaks a few
    assert attack.robust_accuracy["square"] < 0.2
    assert any("square" in flag for flag in attack.flags)


class Noisy(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x + 0.1 * torch.randn_like(x))


def test_random_networks_and_probabilities_are_told():
    x, y = digits(4)
    network = digits_classifier().model
    with pytest.warns(UserWarning, match="randomized defense"):
        AutoAttack(plain(Noisy(network)), eps=0.2, attacks_to_run=["apgd-ce"], **QUICK).generate(x, y)
    probabilities = plain(nn.Sequential(network, nn.Softmax(1)))
    with pytest.warns(UserWarning, match="probability distribution"):
        AutoAttack(probabilities, eps=0.2, attacks_to_run=["apgd-ce"], **QUICK).generate(x, y)


def test_nothing_is_printed_logged_or_written(capfd, caplog, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, y = digits(4)
    network = digits_classifier("float", "float").model
    with caplog.at_level(logging.DEBUG, logger="auto-attack"):
        AutoAttack(plain(network), eps=0.05, **QUICK).generate(x, y)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert not list(tmp_path.iterdir())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_progress_goes_where_arts_goes(capfd):
    x, y = digits(3)
    AutoAttack(digits_classifier(), eps=0.05, **{**QUICK, "verbose": True}).generate(x, y)
    out, err = capfd.readouterr()
    assert out == ""
    assert "APGDCE" in err


@pytest.mark.parametrize(
    "options",
    [
        {"version": "custom"},
        {"attacks_to_run": ["apgd"]},
        {"attacks_to_run": []},
        {"attacks_to_run": "square"},
        {"norm": 3},
        {"norm": "L5"},
        {"eps": 0},
        {"eps": True},
        {"max_iter": 0},
        {"nb_queries": 1.5},
        {"seed": -1},
        {"abstention_breaks": 1},
    ],
)
def test_options_without_meaning_are_refused(options):
    with pytest.raises(InvalidInputError, match=next(iter(options))):
        AutoAttack(digits_classifier(), **options)


def test_what_square_can_not_attack_is_refused_before_anything_runs():
    small = plain(linear(4, (1, 4, 4))[0], 4, (1, 4, 4))
    with pytest.raises(InvalidInputError, match=r"5 × 5.*attacks_to_run"):
        AutoAttack(small, norm=2)
    AutoAttack(small)
    with pytest.raises(InvalidInputError, match=r"input_shape \(7,\)"):
        AutoAttack(plain(linear(4, (7,))[0], 4, (7,)))
    attack = AutoAttack(plain(linear(4, (7,))[0], 4, (7,)), attacks_to_run=("apgd-ce", "apgd-t", "fab-t"), **QUICK)
    x = np.random.default_rng(0).random((3, 7), dtype=np.float32)
    assert attack.generate(x).shape == (3, 7)
    assert not attack.robust.all()


def test_generate_takes_images_and_labels_only():
    x, y = digits(3)
    attack = AutoAttack(digits_classifier(), **QUICK)
    with pytest.raises(InvalidInputError, match="mask"):
        attack.generate(x, y, mask=x)
