"""Membership inference, extraction, inversion and backdoors, on networks of which it is known what comes out."""

import numpy as np
import pytest
import torch
from art.attacks.extraction import CopycatCNN, FunctionallyEquivalentExtraction
from art.attacks.inference.membership_inference import (
    LabelOnlyDecisionBoundary,
    MembershipInferenceBlackBox,
    MembershipInferenceBlackBoxRuleBased,
)
from torch import nn

import qadv
from qadv.errors import InvalidInputError, MaskedGradientWarning
from qadv.testing.compare import difference
from qadv.testing.global_state import random_states
from qadv.testing.materials import data, digits_classifier, state, untrained


class Sure(nn.Module):
    """Says class 0, and is the surer the brighter the image."""

    def forward(self, x):
        bright = 20 * x.flatten(1).mean(1)
        return torch.stack([bright, -bright], dim=1)


@pytest.fixture
def sure():
    return qadv.QuantizedClassifier(Sure(), nn.CrossEntropyLoss(), (1, 4, 4), 2)


def images(brightness, seed, count=40):
    rng = np.random.default_rng(seed)
    return (brightness + 0.2 * rng.uniform(-1, 1, (count, 1, 4, 4))).astype(np.float32), rng.integers(0, 2, count)


def test_members_that_are_answered_differently_are_found_and_others_are_not(sure):
    attacks = {"lr": lambda c: MembershipInferenceBlackBox(c, attack_model_type="lr")}
    found = qadv.membership_inference(sure, *images(0.3, 0), *images(0.7, 1), attacks)
    assert found.auc == [1]
    assert found.advantage == [1]
    assert found.samples == 20
    none = qadv.membership_inference(sure, *images(0.3, 0), *images(0.3, 1), attacks)
    assert 0.2 < none.auc[0] < 0.8


def test_the_rules_advantage_is_the_gap_between_the_accuracies(sure):
    x, y = images(0.5, 2)
    _, others = images(0.5, 3)
    found = qadv.membership_inference(sure, x, others, x, y, {"rule": MembershipInferenceBlackBoxRuleBased})
    assert found.members == (y[20:] == 0).mean()
    assert found.others == (others[20:] == 0).mean()
    np.testing.assert_allclose(found.advantage, found.members - found.others)
    np.testing.assert_allclose(found.auc, (1 + found.advantage) / 2)
    assert type(found).from_dict(found.to_dict()).to_dict() == found.to_dict()
    assert "Membership inference, 20 images" in str(found).replace("\n", " ")


def test_an_attack_on_labels_ranks_by_distance_and_gets_its_arguments():
    data_, classifier = data(), digits_classifier()
    parts = (data_.x_test[:8], data_.y_test[:8], data_.x_train[:8], data_.y_train[:8])
    short = {"max_iter": 1, "max_eval": 10, "init_eval": 4, "init_size": 20, "verbose": False}
    before = random_states()
    found = qadv.membership_inference(classifier, *parts, {"labels": LabelOnlyDecisionBoundary}, short)
    assert difference(before, random_states()) is None
    assert len({0.0, 0.5, 1.0} | {found.auc[0]}) == 4  # distances are ranked one by one


def test_an_attack_of_another_family_is_refused(sure):
    with pytest.raises(InvalidInputError, match=r"MembershipInferenceAttack, got DDN.*--family inference"):
        qadv.membership_inference(sure, *images(0.5, 0), *images(0.5, 1), {"ddn": qadv.DDN})
    with pytest.raises(InvalidInputError, match="4 members and 4 other images at least, got 40 and 3"):
        qadv.membership_inference(sure, *images(0.5, 0, 3), *images(0.5, 1))


class Returns(CopycatCNN):
    """Gives the victim itself, or the thief as it was, and notes what it was asked with."""

    asked = ()
    itself = True

    def extract(self, x, y=None, **kwargs):
        type(self).asked = (*type(self).asked, len(x))
        return self.estimator if self.itself else kwargs["thieved_classifier"]


class Idle(Returns):
    itself = False


def test_fidelity_is_agreement_with_the_victim_on_images_that_were_not_asked():
    victim, thief, x, y = digits_classifier(), untrained("float", "float"), data().x_test[:60], data().y_test[:60]
    found = qadv.extraction(victim, x, y, thief, {"all": Returns, "nothing": Idle}, [10, 20])
    own, idle = (each.predict(x[20:]).argmax(1) for each in (victim, thief))
    right = (own == y[20:]).mean()
    np.testing.assert_allclose(found.fidelity, [[1, 1], 2 * [(own == idle).mean()]])
    np.testing.assert_allclose(found.accuracy, [[right, right], 2 * [(idle == y[20:]).mean()]])
    assert (found.own_accuracy, found.samples, found.nb_queries, Returns.asked) == (right, 40, (10, 20), (10, 20))
    assert type(found).from_dict(found.to_dict()).to_dict() == found.to_dict()


def test_copycat_learns_more_from_more_queries_and_leaves_both_networks_alone():
    victim, thief, images_ = digits_classifier(), untrained("float", "float"), data()
    before = state(victim), state(thief)
    attacks = {"copycat": lambda c: CopycatCNN(c, 32, 128, nb_epochs=12)}
    found = qadv.extraction(victim, images_.x_train[:500], images_.y_train[:500], thief, attacks, [20, 400], lr=0.01)
    assert found.fidelity[0, 1] > max(0.5, found.fidelity[0, 0])
    assert difference(before, (state(victim), state(thief))) is None


def test_extraction_refuses_what_it_can_not_count_or_judge():
    victim, x, y = digits_classifier(), data().x_test[:10], data().y_test[:10]
    arguments = victim, x, y, untrained("float", "float")
    with pytest.raises(InvalidInputError, match="nb_queries: expected a whole number from 1 to 9, got 10"):
        qadv.extraction(*arguments, nb_queries=10)
    with pytest.raises(InvalidInputError, match="counts no queries"):
        qadv.extraction(*arguments, {"whole": lambda c: FunctionallyEquivalentExtraction(c, num_neurons=4)})


def test_classes_are_drawn_from_a_network_that_holds_their_means():
    x, y = data().x_train[:200], data().y_train[:200]
    means = np.stack([x[y == each].mean(0).ravel() for each in range(10)])
    holds, knows_nothing = (
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
    )
    with torch.no_grad():
        holds[1].weight.copy_(torch.from_numpy(means - means.mean(0)))
        holds[1].bias.fill_(-10)
        knows_nothing[1].weight.zero_()
    with pytest.warns(MaskedGradientWarning):
        found, none = (
            qadv.inversion(qadv.QuantizedClassifier(each, nn.CrossEntropyLoss(), (1, 8, 8), 10), x, y)
            for each in (holds, knows_nothing)
        )
    assert found.recognised == 1
    assert found.correlation.min() > 0.5
    assert (none.recognised, none.correlation.tolist()) == (0, [0] * 10)
    assert "100.0% of 10 classes" in str(found).replace("\n", " ")


def test_a_copy_learns_the_trigger_and_the_network_stays_as_it_is():
    classifier, images_ = digits_classifier(), data()
    before, test = state(classifier), (images_.x_test[:200], images_.y_test[:200])
    train = images_.x_train[:500], images_.y_train[:500]
    found = qadv.backdoor(classifier, *test, *train, target=3, share=0.2, nb_epochs=4, batch_size=32, lr=0.01)
    assert difference(before, state(classifier)) is None
    assert found.success[0] < 0.3 < 0.6 < found.success[1]
    assert found.accuracy[0] == (classifier.predict(test[0]).argmax(1) == test[1]).mean()
    assert (found.poisoned, found.samples) == (100, (test[1] != 3).sum())
    with pytest.raises(InvalidInputError, match=r"1 to \d+ training images to poison; got \d+ and 0"):
        qadv.backdoor(classifier, *test, *train, share=1e-4)
