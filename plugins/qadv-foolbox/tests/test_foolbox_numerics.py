"""Foolbox's attacks against ART's own, in the units of `clip_values`, through preprocessing, on ensembles."""

import inspect
import pickle

import foolbox
import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
from foolbox_catalogue import images
from qadv_foolbox import (
    PGD,
    BoundaryAttack,
    DDNAttack,
    FoolboxAttack,
    GaussianBlurAttack,
    GenAttack,
    HopSkipJumpAttack,
    L0FMNAttack,
    L2CarliniWagnerAttack,
    L2DeepFoolAttack,
    LinfFastGradientAttack,
    LinfPGD,
    as_foolbox,
    attack_class,
    attack_names,
)
from torch import nn

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
    x, y = images(12)
    y = (y + targeted) % 10
    shared = {"eps": 0.1, "targeted": targeted, "verbose": False}
    arts = ProjectedGradientDescent(classifier(), eps_step=0.02, max_iter=7, **shared).generate(x, y)
    theirs = LinfPGD(classifier(), abs_stepsize=0.02, steps=7, random_start=False, **shared).generate(x, y)
    np.testing.assert_allclose(theirs, arts, atol=1e-6)
    if not targeted:
        arts = FastGradientMethod(classifier(), eps=0.1).generate(x, y)
        np.testing.assert_allclose(LinfFastGradientAttack(classifier(), **shared).generate(x, y), arts, atol=1e-6)


def test_eps_and_steps_are_in_the_units_of_clip_values():
    x, y = images(12)
    wide = (255 * x).astype(np.float32)
    options = {"random_start": False, "steps": 5, "verbose": False}
    classifier = digits_classifier(clip_values=(0.0, 255.0), preprocessing=(0.0, 255.0))
    found = LinfPGD(classifier, eps=25.5, abs_stepsize=7.65, **options).generate(wide, y)
    assert np.abs(found - wide).max() == pytest.approx(25.5, rel=1e-5)
    arts = ProjectedGradientDescent(classifier, eps=25.5, eps_step=7.65, max_iter=5, verbose=False)
    np.testing.assert_allclose(found, arts.generate(wide, y), atol=1e-4)
    in_one = LinfPGD(digits_classifier(), eps=0.1, abs_stepsize=0.03, **options).generate(x, y)
    np.testing.assert_allclose(found / 255, in_one, atol=1e-6)


def test_the_defaults_of_lengths_are_shares_of_the_range():
    x, y = images(12)
    classifier = digits_classifier(clip_values=(0.0, 255.0), preprocessing=(0.0, 255.0))
    found = DDNAttack(classifier, steps=10, verbose=False).generate((255 * x).astype(np.float32), y)
    in_one = DDNAttack(digits_classifier(), steps=10, verbose=False).generate(x, y)
    np.testing.assert_allclose(found / 255, in_one, atol=1e-5)
    for each in map(attack_class, attack_names()):
        for name in {"abs_stepsize", "init_epsilon"} & set(each.signature_options):
            share = inspect.signature(each.theirs).parameters[name].default
            assert each.signature_options[name].default == (None if share is None else qadv.Share(share))


def test_a_targeted_attack_reaches_its_target():
    x, y = images(12)
    target = (y + 1) % 10
    classifier = digits_classifier()
    found = LinfPGD(classifier, eps=0.5, steps=40, targeted=True, seed=0, verbose=False).generate(x, target)
    assert (classifier.predict(found).argmax(1) == target).mean() > 0.5
    with pytest.raises(InvalidInputError, match="needs the target classes"):
        LinfPGD(classifier, eps=0.5, targeted=True, verbose=False).generate(x)


def test_what_has_no_targeted_form_or_no_other_says_so():
    x, y = images()
    with pytest.raises(InvalidInputError, match="LinfFastGradientAttack can't be used with targeted=True"):
        LinfFastGradientAttack(digits_classifier(), eps=0.1, targeted=True, verbose=False).generate(x, y)
    with pytest.raises(InvalidInputError, match="GenAttack can't be used with targeted=False"):
        GenAttack(digits_classifier(), eps=0.1, steps=2, verbose=False).generate(x, y)


def test_minimal_attacks_are_clipped_to_eps_as_foolbox_does():
    x, y = images()
    free = DDNAttack(digits_classifier(), steps=20, seed=0, verbose=False).generate(x, y)
    clipped = DDNAttack(digits_classifier(), eps=0.2, steps=20, seed=0, verbose=False).generate(x, y)
    far = np.linalg.norm((free - x).reshape(len(x), -1), axis=1)
    assert far.max() > 0.2
    factor = np.minimum(1, 0.2 / far).reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(clipped, x + factor * (free - x), atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda c: LinfPGD(c, eps=-0.1), "eps: expected a finite number above 0"),
        (lambda c: LinfPGD(c, eps=0.1, steps=0), "steps: expected a whole number of at least 1"),
        (lambda c: LinfPGD(c, eps=0.1, random_start="no"), "random_start: expected True or False, got 'no'"),
        (lambda c: L2DeepFoolAttack(c, loss="hinge"), "loss: expected 'logits' or 'crossentropy'"),
        (lambda c: L0FMNAttack(c, eps=3.0), "L0FMNAttack has no distance to clip by; leave eps out"),
        (lambda c: GaussianBlurAttack(c, eps=1.0), "give `distance` too"),
        (lambda c: BoundaryAttack(c, init_attack="saltandpepper"), "init_attack: expected an instance"),
        (lambda c: HopSkipJumpAttack(c, constraint="l1"), "constraint: expected 'linf' or 'l2'"),
    ],
)
def test_options_off_are_refused_before_any_work(make, message):
    with pytest.raises(InvalidInputError, match=message):
        make(digits_classifier())


def test_missing_and_unknown_options_are_named():
    with pytest.raises(TypeError, match="'eps'"):
        LinfPGD(digits_classifier())
    with pytest.raises(TypeError, match="'max_iter'"):
        LinfPGD(digits_classifier(), eps=0.1, max_iter=3)


def test_the_norm_is_what_foolbox_measures_eps_in():
    classifier = digits_classifier()
    assert LinfPGD(classifier, eps=0.1).norm == np.inf
    assert DDNAttack(classifier).norm == 2
    assert HopSkipJumpAttack(classifier, constraint="linf").norm == np.inf
    assert GaussianBlurAttack(classifier, distance="l1").norm == 1
    assert GaussianBlurAttack(classifier).norm is None


def test_aliases_are_one_class_that_pickles_by_foolboxs_name():
    assert PGD is LinfPGD is attack_class("foolbox-pgd")
    assert issubclass(PGD, FoolboxAttack)
    assert pickle.loads(pickle.dumps(PGD)) is PGD


def test_as_foolbox_has_the_classifiers_bounds_logits_and_gradients():
    x, y = images()
    for classifier in (digits_classifier(), defended(), defended((-2.0, 3.0)), ensemble()):
        low, high = classifier.clip_values
        given = (low + (high - low) * x).astype(np.float32)
        model = as_foolbox(classifier)
        assert tuple(model.bounds) == (low, high)
        queries = torch.from_numpy(given).requires_grad_()
        logits = model(queries)
        np.testing.assert_allclose(logits.detach().numpy(), classifier.predict(given), atol=1e-4)
        nn.functional.cross_entropy(logits, torch.from_numpy(y)).backward()
        np.testing.assert_allclose(queries.grad.numpy(), classifier.loss_gradient(given, y), atol=1e-5)
        success = foolbox.attacks.LinfPGD(steps=10, rel_stepsize=0.3, random_start=False)(
            model, queries.detach(), torch.from_numpy(y), epsilons=0.3 * (high - low)
        )[2]
        assert success.any()


def test_what_foolbox_does_on_its_own_is_documented_and_so():
    """The README's list of what Foolbox does and this plugin leaves as it is."""
    x, y = images()
    classifier = digits_classifier()
    nothing = L2CarliniWagnerAttack(classifier, binary_search_steps=1, steps=1, verbose=False).generate(x, y)
    assert (nothing == 0).all()  # no image found: a black one

    target = (classifier.predict(x).argsort(axis=1)[:, 0]).astype(int)  # the least likely class
    free = L2DeepFoolAttack(classifier, steps=10, verbose=False).generate(x, y)
    first = L2DeepFoolAttack(classifier, steps=1, verbose=False).generate(x, y)
    wanted = L2DeepFoolAttack(classifier, steps=1, targeted=True, verbose=False).generate(x, target)
    assert (first == wanted).all()  # the target does not steer it
    assert (free != first).any()

    with pytest.warns(UserWarning, match="failed to draw"), pytest.raises(ValueError, match="init_attack failed"):
        BoundaryAttack(classifier, steps=2, targeted=True, seed=0, verbose=False).generate(x, target)
