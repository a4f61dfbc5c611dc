"""Gradients that are zero or not finite are reported, through ART's unmodified attacks too."""

import copy
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from art.attacks.evasion import CarliniL2Method, DeepFool, FastGradientMethod, ProjectedGradientDescent
from torch import nn

import qadv
from qadv.errors import AttackError, MaskedGradientWarning
from qadv.estimators.masked_gradients import report_masking


class Dark(nn.Module):
    """Two logits (wx, -wx), whose gradient is zero, or NaN, where an image is dark."""

    def __init__(self, gradient_of_dark):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.gradient_of_dark = gradient_of_dark

    def forward(self, x):
        x = x.flatten(1)
        bright = x.mean(dim=1, keepdim=True) > 0.5
        if self.gradient_of_dark == "zero":
            x = torch.where(bright, x, x.round())
        elif self.gradient_of_dark == "nan":
            x = x + 0 * (bright + 0 * x).sqrt()  # 0 times the slope of a root at 0
        s = (x * self.weight).sum(dim=1)
        return torch.stack([s, -s], dim=1)


def classifier_of(gradient_of_dark, loss=None, **options):
    return qadv.QuantizedClassifier(Dark(gradient_of_dark), loss or nn.CrossEntropyLoss(), (1, 2, 2), 2, **options)


X = np.array([0.9, 0.8, 0.3, 0.7], dtype=np.float32).reshape(4, 1, 1, 1) * np.ones((1, 1, 2, 2), np.float32)
Y = np.eye(2, dtype=np.float32)[[0, 0, 0, 0]]


def asked(name, classifier, x):
    if name == "loss_gradient of tensors":
        return classifier.loss_gradient(torch.from_numpy(x), torch.from_numpy(Y[: len(x)]))
    if name == "loss_gradient":
        return classifier.loss_gradient(x, Y[: len(x)])
    return classifier.class_gradient(x, label=0 if name == "class_gradient of one class" else None)


QUERIES = ["loss_gradient", "loss_gradient of tensors", "class_gradient", "class_gradient of one class"]


@pytest.mark.parametrize("query", QUERIES)
def test_a_zero_gradient_is_warned_of_once(query):
    classifier = classifier_of("zero")
    with pytest.warns(MaskedGradientWarning, match=r"zero for 1 of 4 images \(25%\)"):
        gradient = asked(query, classifier, X)
    assert torch.as_tensor(gradient).flatten(1).any(dim=1).tolist() == [True, True, False, True]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asked(query, classifier, X)
        asked(query, copy.deepcopy(classifier), X)
    with pytest.warns(MaskedGradientWarning):  # each classifier for itself
        asked(query, classifier_of("zero"), X)


@pytest.mark.parametrize("query", QUERIES)
def test_a_gradient_that_is_not_finite_is_refused_each_time(query):
    classifier = classifier_of("nan")
    for _ in range(2):
        with pytest.raises(AttackError, match="NaN or infinite for 1 of 4 images"):
            asked(query, classifier, X)
    asked(query, classifier, X[:2])


@pytest.mark.parametrize("query", QUERIES)
def test_nothing_is_said_of_other_gradients(query):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asked(query, classifier_of("plain"), X)
        asked(query, classifier_of("zero"), X[:2])


def test_a_saturated_softmax_is_reported_for_the_loss_and_not_for_the_logits():
    classifier = classifier_of("plain")
    nn.init.constant_(classifier.model.weight, 1e4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier.class_gradient(X)
    with pytest.warns(MaskedGradientWarning, match="4 of 4 images .100%.*DeepFool"):
        classifier.loss_gradient(X, Y)


ATTACKS = {
    "FGSM": lambda c: FastGradientMethod(c, eps=0.1),
    "PGD": lambda c: ProjectedGradientDescent(c, eps=0.1, eps_step=0.05, max_iter=2, verbose=False),
    "DeepFool": lambda c: DeepFool(c, max_iter=2, verbose=False),
    "C&W": lambda c: CarliniL2Method(c, max_iter=2, binary_search_steps=1, batch_size=4, verbose=False),
    "PGD, merged": lambda c: qadv.QueryCoalescer(
        ProjectedGradientDescent(c, eps=0.1, eps_step=0.05, max_iter=2, verbose=False), seed=0, verbose=False
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_arts_attacks_do_not_go_on_in_silence(attack):
    with pytest.warns(MaskedGradientWarning):
        ATTACKS[attack](classifier_of("zero")).generate(X, Y)
    with pytest.raises(AttackError, match="NaN or infinite"):
        ATTACKS[attack](classifier_of("nan")).generate(X, Y)


def test_preprocessing_that_rounds_without_a_gradient_is_reported():
    from art.defences.preprocessor.preprocessor import PreprocessorPyTorch

    class Rounds(PreprocessorPyTorch):
        def forward(self, x, y=None):
            return x.round(), y

    classifier = classifier_of("plain", preprocessing_defences=[Rounds()])
    with pytest.warns(MaskedGradientWarning, match="4 of 4"):
        classifier.loss_gradient(X, Y)


def test_qadvs_own_attacks_warn_of_the_same():
    with pytest.warns(MaskedGradientWarning, match="1 of 4"):
        qadv.DDN(classifier_of("zero"), max_iter=2, verbose=False).generate(X, Y)


@pytest.mark.parametrize(
    ("zero", "images", "masks"), [(1, 200, False), (1, 1, False), (99, 200, False), (150, 200, True)]
)
def test_masking_is_claimed_only_where_many_gradients_are_zero(zero, images, masks):
    gradient = np.ones((images, 4), np.float32)
    gradient[:zero] = 0
    with pytest.warns(MaskedGradientWarning, match=f"zero for {zero} of {images} images") as caught:
        report_masking(SimpleNamespace(), gradient)
    assert ("the network masks its gradients" in str(caught[0].message)) == masks
