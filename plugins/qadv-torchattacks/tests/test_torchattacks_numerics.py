"""torchattacks' attacks against ART's own, in the units of `clip_values`, through preprocessing, on ensembles."""

import inspect
import pickle

import numpy as np
import pytest
import torch
import torchattacks
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
from qadv_torchattacks import (
    APGD,
    APGDT,
    BIM,
    CW,
    FAB,
    FGSM,
    PGD,
    RFGSM,
    SPSA,
    AutoAttack,
    DeepFool,
    Pixle,
    TorchattacksAttack,
    as_torchattacks,
    attack_class,
    attack_names,
)
from torch import nn
from torchattacks_catalogue import images

import qadv
from qadv.errors import InvalidInputError
from qadv.testing import digits_classifier


def defended(clip_values=(0.0, 1.0)):
    plain = digits_classifier()
    return qadv.QuantizedClassifier(
        plain.model,
        nn.CrossEntropyLoss(),
        plain.input_shape,
        10,
        clip_values=clip_values,
        preprocessing=(0.1, 0.9),
        preprocessing_defences=[qadv.BitDepthReduction(4, clip_values)],
    )


def ensemble():
    return qadv.EnsembleClassifier.of([digits_classifier(), digits_classifier("int:2")], combine="logits")


@pytest.mark.parametrize("classifier", [digits_classifier, defended, ensemble], ids=["plain", "defended", "ensemble"])
@pytest.mark.parametrize("targeted", [False, True])
def test_pgd_and_fgsm_are_arts(classifier, targeted):
    x, y = images(number=12)
    y = (y + targeted) % 10
    shared = {"eps": 0.1, "targeted": targeted, "verbose": False}
    arts = ProjectedGradientDescent(classifier(), eps_step=0.02, max_iter=7, **shared).generate(x, y)
    theirs = PGD(classifier(), alpha=0.02, steps=7, random_start=False, **shared).generate(x, y)
    np.testing.assert_allclose(theirs, arts, atol=1e-6)
    arts = FastGradientMethod(classifier(), eps=0.1, targeted=targeted).generate(x, y)
    np.testing.assert_allclose(FGSM(classifier(), **shared).generate(x, y), arts, atol=1e-6)


def test_eps_and_steps_are_in_the_units_of_clip_values():
    x, y = images(number=12)
    wide = (255 * x).astype(np.float32)
    classifier = digits_classifier(clip_values=(0.0, 255.0), preprocessing=(0.0, 255.0))
    found = BIM(classifier, eps=25.5, alpha=7.65, steps=5, verbose=False).generate(wide, y)
    assert np.abs(found - wide).max() == pytest.approx(25.5, rel=1e-5)
    arts = ProjectedGradientDescent(classifier, eps=25.5, eps_step=7.65, max_iter=5, verbose=False)
    np.testing.assert_allclose(found, arts.generate(wide, y), atol=1e-4)
    in_one = BIM(digits_classifier(), eps=0.1, alpha=0.03, steps=5, verbose=False).generate(x, y)
    np.testing.assert_allclose(found / 255, in_one, atol=1e-6)


def test_the_defaults_of_lengths_are_shares_of_the_range():
    x, y = images(number=12)
    classifier = digits_classifier(clip_values=(0.0, 255.0), preprocessing=(0.0, 255.0))
    found = BIM(classifier, verbose=False).generate((255 * x).astype(np.float32), y)
    in_one = BIM(digits_classifier(), verbose=False).generate(x, y)
    np.testing.assert_allclose(found / 255, in_one, atol=1e-6)
    for each in map(attack_class, attack_names()):
        for name in {"eps", "max_epsilon", "alpha"} & set(each.signature_options):
            share = inspect.signature(each.theirs).parameters[name].default
            assert each.signature_options[name].default == qadv.Share(share)


def test_a_targeted_attack_reaches_its_target_or_is_refused():
    x, y = images(number=12)
    target = (y + 1) % 10
    classifier = digits_classifier()
    found = PGD(classifier, eps=0.5, alpha=0.05, steps=40, targeted=True, seed=0, verbose=False).generate(x, target)
    assert (classifier.predict(found).argmax(1) == target).mean() > 0.5
    with pytest.raises(InvalidInputError, match="needs the target classes"):
        PGD(classifier, targeted=True, verbose=False).generate(x)
    with pytest.raises(InvalidInputError, match="APGD has no targeted mode"):
        APGD(classifier, targeted=True)
    with pytest.raises(InvalidInputError, match="DeepFool has no targeted mode"):
        DeepFool(classifier).set_params(targeted=True)


def test_seeds_reach_the_attacks_that_seed_themselves():
    x, y = images(number=8)
    runs = [APGD(digits_classifier(), eps=0.1, steps=3, seed=seed, verbose=False).generate(x, y) for seed in (1, 1, 2)]
    assert (runs[0] == runs[1]).all()
    assert (runs[0] != runs[2]).any()


def test_the_number_of_classes_is_the_estimators():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    classifier = qadv.QuantizedClassifier(network, nn.CrossEntropyLoss(), (1, 8, 8), 5, device_type="cpu")
    x = np.random.default_rng(0).random((4, 1, 8, 8), dtype=np.float32)
    y = classifier.predict(x).argmax(1)
    for made in (APGDT, AutoAttack):
        options = {} if made is AutoAttack else {"steps": 3}
        found = made(classifier, eps=0.3, verbose=False, **options).generate(x, y)
        assert (classifier.predict(found).argmax(1) != y).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda c: PGD(c, eps=-0.1), "eps: expected a finite number above 0"),
        (lambda c: PGD(c, steps=0), "steps: expected a whole number of at least 1"),
        (lambda c: PGD(c, random_start="no"), "random_start: expected True or False, got 'no'"),
        (lambda c: CW(c, c=float("nan")), "c: expected a finite number"),
        (lambda c: Pixle(c, pixel_mapping="none"), "torchattacks' Pixle refuses"),
        (lambda c: AutoAttack(c, version="best"), "Not valid version"),
    ],
)
def test_options_off_are_refused_before_any_work(make, message):
    with pytest.raises(InvalidInputError, match=message):
        make(digits_classifier())


def test_unknown_options_and_those_that_are_filled_in_are_named():
    for name in ("max_iter", "n_classes", "model"):
        with pytest.raises(TypeError, match=name):
            APGDT(digits_classifier(), **{name: 3})


def test_classes_pickle_by_torchattackss_name():
    assert PGD is attack_class("torchattacks-pgd") is attack_class("PGD")
    assert issubclass(PGD, TorchattacksAttack)
    assert pickle.loads(pickle.dumps(PGD)) is PGD


def test_as_torchattacks_has_the_classifiers_logits_and_gradients():
    x, y = images(number=6)
    for classifier in (digits_classifier(), defended(), defended((-2.0, 3.0)), ensemble()):
        low, high = classifier.clip_values
        given = (low + (high - low) * x).astype(np.float32)
        module = as_torchattacks(classifier)
        assert not module.training
        queries = torch.from_numpy(x).requires_grad_()
        logits = module(queries)
        np.testing.assert_allclose(logits.detach().numpy(), classifier.predict(given), atol=1e-4)
        nn.functional.cross_entropy(logits, torch.from_numpy(y)).backward()
        gradient = (high - low) * classifier.loss_gradient(given, y)
        np.testing.assert_allclose(queries.grad.numpy(), gradient, atol=1e-5)
        assert all(each.grad is None for each in classifier.model.parameters())
        theirs = torchattacks.PGD(module, eps=0.3, alpha=0.1, steps=10, random_start=False)
        assert theirs.device == next(classifier.model.parameters()).device
        found = theirs(torch.from_numpy(x), torch.from_numpy(y))
        assert (module(found).argmax(1).numpy() != y).any()


def test_only_images_of_channels_height_and_width_are_taken():
    network = nn.Linear(4, 3)
    flat = qadv.QuantizedClassifier(network, nn.CrossEntropyLoss(), (4,), 3, device_type="cpu")
    with pytest.raises(InvalidInputError, match=r"input_shape=\(4,\)"):
        as_torchattacks(flat)


def test_what_torchattacks_does_on_its_own_is_documented_and_so():
    """The README's list of what torchattacks does and this plugin leaves as it is."""
    x, y = images(number=6)
    classifier = digits_classifier()
    one_step = SPSA(classifier, eps=0.3, seed=0, verbose=False).generate(x, y)
    assert np.abs(one_step - x).max() == pytest.approx(0.01, abs=1e-4)  # one Adam step of lr=0.01, not eps

    short, long = (
        RFGSM(classifier, eps=0.3, alpha=0.05, steps=steps, seed=0, verbose=False).generate(x, y) for steps in (1, 5)
    )
    assert np.abs(short - x).max() <= 0.1 + 1e-6
    assert np.abs(long - x).max() > 0.2  # an iterated attack

    unmoved = CW(classifier, c=100.0, steps=30, lr=0.1, verbose=False).generate(x, y)
    extreme = (x == 0) | (x == 1)
    assert (unmoved[extreme] == x[extreme]).all()  # atanh of a black or white pixel is infinite
    assert (unmoved[~extreme] != x[~extreme]).any()

    targeted = FAB(classifier, eps=0.5, steps=5, targeted=True, verbose=False).generate(x, (y + 1) % 10)
    assert (targeted == x).all()  # it says it has a targeted mode, and does nothing in it
