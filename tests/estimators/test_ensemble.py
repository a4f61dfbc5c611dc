"""Ensembles behind one estimator: outputs and gradients against their definitions, whatever the members are."""

import copy
import pickle

import numpy as np
import pytest
import torch
from art.attacks.evasion import HopSkipJump, ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from torch import nn

import qadv
from qadv.errors import InvalidInputError
from qadv.estimators.ensemble_network import EnsembleNetwork, Votes
from tests.blur import Blur

SCHEMES = [("float", "float"), ("binary-net", "binary-net"), ("dorefa:2", "dorefa:2"), ("int:4", "relu6:4")]
STANDARDISATIONS = [(0.0, 1.0), (0.3, 0.4), ([0.2], [0.5]), (0.0, 2.0)]


@pytest.fixture
def members(make_classifier):
    """Four classifiers of different bit widths, each with a preprocessing of its own."""
    pairs = zip(SCHEMES, STANDARDISATIONS, strict=True)
    made = [make_classifier(*schemes, seed=seed, preprocessing=pair) for seed, (schemes, pair) in enumerate(pairs)]
    for module in (module for each in made for module in each.model.modules()):
        if isinstance(module, nn.modules.batchnorm._BatchNorm):  # as a training would: no activation is exactly 0
            nn.init.normal_(module.bias, std=0.05)
    return made


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def one_hot(classes, nb_classes=10):
    return np.eye(nb_classes)[classes]


def by_definition(logits, combine, m=None):
    """(members, N, classes) → (N, outputs), in NumPy."""
    if combine == "logits":
        return logits.mean(0)
    if combine == "probabilities":
        return np.log(softmax(logits.astype(np.float64)).mean(0))
    votes = one_hot(logits.argmax(-1)).sum(0)
    return votes if m is None else np.concatenate([votes, np.full((len(votes), 1), m - 0.5)], axis=1)


CASES = [("logits", None), ("probabilities", None), ("vote", None), ("vote", 3)]


@pytest.mark.parametrize(("combine", "m"), CASES)
def test_outputs_are_those_of_the_definition(combine, m, members, digits):
    ensemble = qadv.EnsembleClassifier.of(members, combine, abstain_below=m)
    x = digits.x_test[:40]
    logits = np.stack([member.predict(x) for member in members])
    np.testing.assert_allclose(ensemble.predict(x), by_definition(logits, combine, m), rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(ensemble.member_logits(x), logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(ensemble.member_predictions(x), logits.argmax(-1))
    assert ensemble.nb_classes == (10 if m is None else 11)


@pytest.mark.parametrize(("combine", "m"), CASES)
def test_gradients_go_through_all_members_by_the_chain_rule(combine, m, members, digits):
    """Each member's own class gradients, put together in NumPy."""
    ensemble = qadv.EnsembleClassifier.of(members, combine, abstain_below=m)
    x = digits.x_test[:5]
    jacobians = np.stack([member.class_gradient(x) for member in members]).astype(np.float64)  # (M, N, C, 1, 8, 8)
    p = softmax(np.stack([member.predict(x) for member in members]).astype(np.float64))
    weighted = np.einsum("mnc,mncijk->mnijk", p, jacobians)
    of_softmax = p[..., None, None, None] * (jacobians - weighted[:, :, None])
    if combine == "logits":
        expected = jacobians.mean(0)
    elif combine == "probabilities":
        expected = of_softmax.sum(0) / p.sum(0)[..., None, None, None]
    else:
        expected = of_softmax.sum(0)
        if m is not None:
            expected = np.concatenate([expected, np.zeros_like(expected[:, :1])], axis=1)
    found = ensemble.class_gradient(x)
    scale = np.abs(expected).max()
    assert scale > 1e-3
    np.testing.assert_allclose(found, expected, atol=1e-4 * scale)


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_it_abstains_where_fewer_than_m_members_agree(m, members, digits):
    ensemble = qadv.EnsembleClassifier.of(members, "vote", abstain_below=m)
    x = digits.x_test
    found = ensemble.predict(x).argmax(1)
    classes = np.stack([member.predict(x).argmax(1) for member in members])
    agreeing = np.array([np.bincount(column, minlength=10).max() for column in classes.T])
    first = np.array([np.bincount(column, minlength=10).argmax() for column in classes.T])
    np.testing.assert_array_equal(found, np.where(agreeing >= m, first, 10))
    if m in (2, 3):
        assert 0 < (found == 10).mean() < 1  # untrained members agree on some and not on others


def test_votes_are_whole_numbers_even_where_members_are_sure():
    logits = torch.tensor([[[30.0, -30.0, 0.1]], [[0.0, 0.2, 0.1]], [[0.3, 0.2, 0.1]]], requires_grad=True)
    votes = Votes()(logits)
    assert votes.tolist() == [[2.0, 1.0, 0.0]]
    (gradient,) = torch.autograd.grad(votes[0, 0], logits)
    assert gradient[0].abs().max() < 1e-9  # the masking that the docstring warns of
    assert gradient[1].abs().max() > 0.1


@pytest.mark.parametrize(("combine", "m"), CASES)
def test_a_plain_classifier_rebuilt_from_the_model_attacks_the_same_function(combine, m, members, digits):
    ensemble = qadv.EnsembleClassifier.of(members, combine, abstain_below=m)
    plain = PyTorchClassifier(
        ensemble.model, nn.CrossEntropyLoss(), (1, 8, 8), ensemble.nb_classes, clip_values=(0.0, 1.0)
    )
    x, y = digits.x_test[:8], digits.y_test[:8]
    np.testing.assert_array_equal(plain.predict(x.astype(np.float64)), ensemble.predict(x))
    attacks = [
        ProjectedGradientDescent(c, eps=0.1, eps_step=0.05, max_iter=3, verbose=False) for c in (plain, ensemble)
    ]
    first, second = (attack.generate(x, one_hot(y, ensemble.nb_classes)) for attack in attacks)
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - x).max() > 0.09


def test_the_members_come_back_on_the_same_networks(members, digits):
    ensemble = qadv.EnsembleClassifier.of(members, preprocessing_defences=Blur())
    x = digits.x_test[:8]
    for member, logits in zip(ensemble.members, ensemble.member_logits(x), strict=True):
        np.testing.assert_allclose(member.predict(x), logits, rtol=1e-4, atol=1e-5)
    assert [member.network for member in ensemble.members] == [member.network for member in members]
    with torch.no_grad():
        next(members[0].model.parameters()).zero_()
    changed = ensemble.member_logits(x)
    assert np.abs(changed[0] - logits[0]).max() > 1e-3


def test_combining_otherwise_shares_the_networks(members, digits):
    abstaining = qadv.EnsembleClassifier.of(members, "vote", abstain_below=3)
    mean = abstaining.combined_by("logits")
    assert mean.nb_classes == 10
    assert mean.model.members == abstaining.model.members
    expected = qadv.EnsembleClassifier.of(members, "logits")
    np.testing.assert_array_equal(mean.predict(digits.x_test[:8]), expected.predict(digits.x_test[:8]))


def test_it_can_be_trained_and_cloned_for_refitting(members, digits):
    ensemble = qadv.EnsembleClassifier.of(members, "probabilities")
    optimizer = torch.optim.SGD(ensemble.model.parameters(), lr=0.1)
    ensemble = qadv.EnsembleClassifier(ensemble.model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=optimizer)
    clone = ensemble.clone_for_refitting()
    assert isinstance(clone, qadv.EnsembleClassifier)
    before = [np.abs(weights).sum() for weights in first_weights(ensemble)]
    ensemble.fit(digits.x_train[:64], digits.y_train[:64], nb_epochs=1, batch_size=32)
    after = [np.abs(weights).sum() for weights in first_weights(ensemble)]
    assert all(a != b for a, b in zip(before, after, strict=True))
    assert clone.predict(digits.x_test[:4]).shape == (4, 10)


def first_weights(ensemble):
    return [next(network.parameters()).detach().numpy().copy() for network in ensemble.model.members]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda ensemble: pickle.loads(pickle.dumps(ensemble))])
def test_copies_and_pickles_are_the_same(copied, members, digits):
    ensemble = qadv.EnsembleClassifier.of(members, "vote", abstain_below=3)
    again = copied(ensemble)
    x, y = digits.x_test[:8], digits.y_test[:8]
    np.testing.assert_array_equal(again.member_logits(x), ensemble.member_logits(x))
    np.testing.assert_array_equal(again.loss_gradient(x, y), ensemble.loss_gradient(x, y))
    assert repr(again) == repr(ensemble)


def test_layers_are_the_members_and_their_layers(members, digits):
    ensemble = qadv.EnsembleClassifier.of(members)
    x = digits.x_test[:6]
    assert ensemble.layer_names == ["member0", "member1", "member2", "member3", "combination"]
    np.testing.assert_array_equal(ensemble.get_activations(x, "member2"), ensemble.member_logits(x)[2])
    np.testing.assert_array_equal(ensemble.get_activations(x, 4), ensemble.predict(x))
    assert ensemble.get_activations(x, "member1.network.0", framework=True).shape == (6, 8, 8, 8)


def test_probabilities(members, digits):
    x = digits.x_test[:6]
    ensemble = qadv.EnsembleClassifier.of(members, "probabilities", probabilities=True)
    expected = np.mean([softmax(member.predict(x)) for member in members], axis=0)
    np.testing.assert_allclose(ensemble.predict(x), expected, rtol=1e-4, atol=1e-6)


def test_coalesced_queries_are_answered_as_single_ones(members, digits):
    ensemble = qadv.EnsembleClassifier.of(members, "vote", abstain_below=2)
    predicted = ensemble.predict(digits.x_test).argmax(1)
    some, other = (digits.x_test[predicted == label][:4] for label in np.unique(predicted)[:2])
    options = {"max_iter": 1, "max_eval": 10, "init_eval": 5, "verbose": False}
    coalesced = qadv.QueryCoalescer(HopSkipJump(ensemble, **options), seed=0, verbose=False)
    adversarial = coalesced.generate(some, x_adv_init=other)
    assert (ensemble.predict(adversarial).argmax(1) != ensemble.predict(some).argmax(1)).all()
    assert np.abs(adversarial - some).sum() < np.abs(other - some).sum()
    assert coalesced.batches < coalesced.queries.sum()
    last = qadv.QueryCoalescer(HopSkipJump(ensemble, **options), concurrency=1, seed=0, verbose=False)
    np.testing.assert_allclose(last.generate(some, x_adv_init=other), adversarial, atol=1e-4)


@pytest.mark.parametrize(("combine", "m"), CASES)
def test_an_ensemble_comes_back_from_its_file(combine, m, members, digits, tmp_path):
    ensemble = qadv.EnsembleClassifier.of(members, combine, abstain_below=m, clip_values=(0.0, 1.0))
    ensemble.save(tmp_path / "ensemble.safetensors")
    again = qadv.EnsembleClassifier.load(tmp_path / "ensemble.safetensors")
    np.testing.assert_array_equal(again.predict(digits.x_test[:16]), ensemble.predict(digits.x_test[:16]))
    assert repr(again) == repr(ensemble)


def test_the_repr_makes_it_again(members):
    ensemble = qadv.EnsembleClassifier.of(members, "vote", abstain_below=3)
    names = {"EnsembleClassifier": qadv.EnsembleClassifier, "QuantizedClassifier": qadv.QuantizedClassifier}
    assert repr(eval(repr(ensemble), names)) == repr(ensemble)


def test_bare_networks_need_their_shape(members):
    networks = [member.model for member in members]
    with pytest.raises(InvalidInputError, match="input_shape: networks do not say it"):
        qadv.EnsembleClassifier.of(networks)
    ensemble = qadv.EnsembleClassifier.of(networks, input_shape=(1, 8, 8), nb_classes=10)
    assert ensemble.clip_values == (0.0, 1.0)
    assert ensemble.nb_members == 4


def test_what_does_not_fit_is_refused(members, make_classifier, tmp_path):
    of = qadv.EnsembleClassifier.of
    with pytest.raises(InvalidInputError, match="at least two networks"):
        of(members[:1])
    with pytest.raises(InvalidInputError, match="expected one of logits, probabilities, vote, got 'votes'; did you"):
        of(members, "votes")
    with pytest.raises(InvalidInputError, match="expected combine='vote', got 'logits'"):
        of(members, abstain_below=2)
    for m in (0, 5, 2.0, True):
        with pytest.raises(InvalidInputError, match="whole number from 1 to 4"):
            of(members, "vote", abstain_below=m)
    with pytest.raises(InvalidInputError, match=r"same clip_values for all, got \(0.0, 1.0\).*\(0.0, 2.0\)"):
        of([*members, make_classifier(clip_values=(0.0, 2.0))])
    with pytest.raises(InvalidInputError, match="same nb_classes"):
        of([*members, make_classifier(nb_classes=9)])
    with pytest.raises(InvalidInputError, match=r"member 1 has defences of its own \(Blur\)"):
        of([members[0], make_classifier(preprocessing_defences=Blur())])
    with pytest.raises(InvalidInputError, match="expected a list of classifiers, got QuantizedClassifier"):
        of(members[0])
    with pytest.raises(InvalidInputError, match="member 1 is a str"):
        of([members[0], "resnet20"])
    with pytest.raises(InvalidInputError, match=r"EnsembleClassifier.of\("):
        qadv.EnsembleClassifier.from_backbone("mnist-cnn", input_shape=(1, 8, 8), image_size=8)
    unnamed = EnsembleNetwork([members[0].model, nn.Sequential(nn.Flatten(), nn.Linear(64, 10))])
    ensemble = qadv.EnsembleClassifier(unnamed, nn.CrossEntropyLoss(), (1, 8, 8), 10)
    with pytest.raises(InvalidInputError, match="member 1 was not made from a backbone's name"):
        ensemble.save(tmp_path / "unnamed.safetensors")
    with pytest.raises(InvalidInputError, match="packed member by member"):
        qadv.export(of(members), tmp_path / "packed.safetensors")
    members[0].save(tmp_path / "single.safetensors")
    with pytest.raises(InvalidInputError, match="expected an EnsembleNetwork"):
        qadv.EnsembleClassifier.load(tmp_path / "single.safetensors")
