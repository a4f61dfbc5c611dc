"""Ensembles that abstain: what "no prediction" counts as."""

import numpy as np
import pytest
import torch
from networks import digits
from qadv_autoattack.abstention import AbstentionHolds
from qadv_autoattack.auto_attack import AutoAttack

import qadv
from qadv.errors import InvalidInputError
from qadv.testing import digits_classifier

QUICK = {
    "attacks_to_run": ["apgd-ce", "square"],
    "max_iter": 5,
    "nb_queries": 30,
    "seed": 0,
    "verbose": False,
}


@pytest.fixture(scope="module")
def ensemble():
    members = [digits_classifier(), digits_classifier("int:2"), digits_classifier("float", "float")]
    return qadv.EnsembleClassifier.of(members, "vote", abstain_below=3)


@pytest.fixture(scope="module")
def images(ensemble):
    x, y = digits(40)
    answered = ensemble.predict(x).argmax(1) != 10
    return x[answered], y[answered]


def test_the_network_for_one_class_is_wrong_where_the_ensemble_answers_wrongly(ensemble):
    votes = torch.tensor([[3, 0, 0], [0, 3, 0], [2, 1, 0], [1, 2, 0], [1, 1, 1], [0, 0, 3]])
    logits = torch.cat([votes, torch.full((6, 1), 2.5)], dim=1)
    answers = logits.argmax(1)
    for label in range(3):
        held = AbstentionHolds(lambda x: x, label)(logits)
        assert held.shape == (6, 3)
        np.testing.assert_array_equal(held.argmax(1) != label, (answers != label) & (answers != 3))


def test_an_abstention_breaks_by_default(ensemble, images):
    x, y = (each[:12] for each in images)
    attack = AutoAttack(ensemble, eps=0.1, **QUICK)
    answers = ensemble.predict(attack.generate(x, y)).argmax(1)
    np.testing.assert_array_equal(attack.robust, answers == y)
    assert (answers == 10).any()


def test_or_wrong_answers_only_are_gone_for_and_counted(ensemble, images):
    x, y = images
    whole, wrong = (AutoAttack(ensemble, eps=0.2, abstention_breaks=breaks, **QUICK) for breaks in (True, False))
    by_default = ensemble.predict(whole.generate(x, y)).argmax(1)
    answers = ensemble.predict(wrong.generate(x, y)).argmax(1)
    np.testing.assert_array_equal(wrong.robust, (answers == y) | (answers == 10))
    assert whole.robust.mean() <= wrong.robust.mean()
    # an attack that stops at "no prediction" finds fewer wrong answers
    assert ((by_default != y) & (by_default != 10)).sum() < (~wrong.robust).sum()


def test_all_parts_go_for_wrong_answers(ensemble, images):
    x, y = images
    attack = AutoAttack(ensemble, eps=0.1, abstention_breaks=False, **{**QUICK, "attacks_to_run": None, "max_iter": 2})
    answers = ensemble.predict(attack.generate(x[:3], y[:3])).argmax(1)
    np.testing.assert_array_equal(attack.robust, (answers == y[:3]) | (answers == 10))


def test_an_ensemble_that_always_answers_is_a_network_like_any_other(ensemble, images):
    x, y = images
    answering = ensemble.combined_by("logits")
    results = []
    for breaks in (True, False):
        attack = AutoAttack(answering, eps=0.2, abstention_breaks=breaks, **QUICK)
        results.append(attack.generate(x, y))
        np.testing.assert_array_equal(attack.robust, answering.predict(results[-1]).argmax(1) == y)
    np.testing.assert_array_equal(*results)


def test_no_prediction_is_no_true_class(ensemble, images):
    x, y = images
    attack = AutoAttack(ensemble, eps=0.05, abstention_breaks=False, **QUICK)
    with pytest.raises(InvalidInputError, match="no prediction"):
        attack.generate(x[:2], np.array([y[0], 10]))
