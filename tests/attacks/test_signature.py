"""`SignatureAttack`: a class made from parameters is an ART attack like one written by hand."""

import copy
import inspect
import pickle
from inspect import Parameter
from typing import Annotated, Literal

import numpy as np
import pytest
import torch
from art.attacks import EvasionAttack
from pydantic import Field

import qadv
from qadv.errors import InvalidInputError
from qadv.testing import conformance, digits_classifier


def their_noise(model, x, y, eps, draws, law):
    """What a toolkit has: random steps, as long as the image is classified as y."""
    found = x
    for _ in range(draws):
        noise = torch.rand_like(x) * 2 - 1
        still = (model(found).argmax(1) == y).reshape(-1, 1, 1, 1)
        found = torch.where(still, x + eps * (noise.sign() if law == "sign" else noise), found)
    return found.detach()


class Theirs(qadv.SignatureAttack):
    def perturb(self, model, x, y):
        options = {**self.given(), "eps": self.in_unit_range(self.eps)}
        return self.theirs(model, x, y, **options)


def option(name, annotation, default):
    return Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, annotation=annotation, default=default)


OPTIONS = [
    option("eps", Annotated[float, Field(gt=0)], Parameter.empty),
    option("draws", Annotated[int, Field(ge=1)], 3),
    option("law", Literal["sign", "uniform"], "sign"),
]
OPTIONS_NAMES = [each.name for each in OPTIONS]
Noise = Theirs.of("Noise", OPTIONS, theirs=staticmethod(their_noise), __module__=__name__, __doc__="Random steps.")

test_conformance = conformance("attack", Noise, eps=0.2, draws=2, law="uniform")


def test_its_signature_is_theirs_and_that_of_every_toolkit_attack():
    shared = ["targeted", "batch_size", "seed", "verbose"]
    assert list(inspect.signature(Noise).parameters) == ["estimator", "eps", "draws", "law", *shared]
    assert issubclass(Noise, EvasionAttack)
    assert {*OPTIONS_NAMES, *shared} <= set(Noise.attack_params)
    made = Noise(digits_classifier(), eps=0.1)
    assert made.given() == {"eps": 0.1, "draws": 3, "law": "sign"}
    assert "Noise(eps=0.1, draws=3, law=sign" in repr(made)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": 0.0}, "eps: expected a finite number above 0, or a fraction such as 8/255, got 0.0"),
        ({"eps": "much"}, "eps: expected a finite number above 0, or a fraction such as 8/255, got 'much'"),
        ({"eps": float("inf")}, "eps: expected a finite number"),
        ({"draws": 2.0}, "draws: expected a whole number of at least 1, got 2.0"),
        ({"draws": True}, "draws: expected a whole number of at least 1, got True"),
        ({"law": "normal"}, "law: expected 'sign' or 'uniform', got 'normal'"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_options_are_checked_when_made_and_when_set(options, message):
    with pytest.raises(InvalidInputError, match=message):
        Noise(digits_classifier(), **{"eps": 0.1, **options})
    with pytest.raises(InvalidInputError, match=message):
        Noise(digits_classifier(), eps=0.1).set_params(**options)


def test_numpys_numbers_are_numbers():
    made = Noise(digits_classifier(), eps=np.float32(0.1), draws=np.int64(2))
    assert made.draws == 2


def test_what_is_missing_or_unknown_is_refused_by_name():
    with pytest.raises(TypeError, match="'eps'"):
        Noise(digits_classifier())
    with pytest.raises(TypeError, match="'steps'"):
        Noise(digits_classifier(), eps=0.1, steps=2)


def test_options_of_a_toolkit_attack_can_not_be_given_another_meaning():
    with pytest.raises(InvalidInputError, match="seed is an option of every ToolkitAttack"):
        Theirs.of("Seeded", [option("seed", int, 0)])


def test_it_pickles_and_copies_by_name():
    assert pickle.loads(pickle.dumps(Noise)) is Noise
    attack = Noise(digits_classifier(), eps=0.1)
    assert copy.copy(attack).given() == attack.given()


def test_an_option_may_be_of_a_class_or_of_anything():
    Other = Theirs.of("Other", [option("loss", torch.nn.Module, None), option("more", Parameter.empty, None)])
    loss = torch.nn.CrossEntropyLoss()
    assert Other(digits_classifier(), loss=loss, more="text").given() == {"loss": loss, "more": "text"}
    with pytest.raises(InvalidInputError, match="loss: expected an instance of Module, got 'ce'"):
        Other(digits_classifier(), loss="ce")


def test_options_are_given_by_name_in_any_order():
    Other = Theirs.of("Other", [option("first", int, 1), option("second", int, Parameter.empty)])
    assert Other(digits_classifier(), second=2).given() == {"first": 1, "second": 2}
    _, *options = inspect.signature(Other).parameters.values()
    assert {each.kind for each in options} == {Parameter.KEYWORD_ONLY}


def test_classes_do_not_share_their_options():
    Other = Theirs.of("Other", [option("width", int, 1)], theirs=None)
    assert list(Other.signature_options) == ["width"]
    assert list(Noise.signature_options) == OPTIONS_NAMES
    assert "width" not in Noise.attack_params
