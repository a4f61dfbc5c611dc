"""One rule for arguments: what is a number, a whole number, a flag or a strength is one wherever it is given."""

import inspect
import math
from functools import cache

import numpy as np
import pytest
from torch import nn

import qadv
from qadv.checks import check_choice, check_flag, check_number, check_whole
from qadv.errors import InvalidInputError
from qadv.strengths import check_eps
from qadv.testing import digits_classifier
from qadv.trainers import LoopTrainer
from qadv.trainers.options import LoopOptions
from qadv.units import Length

NAN, INF = float("nan"), float("inf")
REFUSED = {
    "number": [True, np.True_, NAN, INF, np.float32("nan"), "0.1", "8/255", [1], np.ones(1), 1j, np.complex64(1)],
    "whole": [True, np.True_, NAN, INF, 3.0, np.float32(3), "3", "8/255", [3], -1],
    "flag": [0, 1, np.int64(1), 1.0, "yes"],
    "strength": [True, np.True_, NAN, INF, np.float32("inf"), "8/0", "much", -0.1, [0.1], 1j],
}
KINDS = {
    float: "number", float | None: "number", int: "whole", int | None: "whole", bool: "flag",
    Length: "strength", Length | None: "strength",
}  # fmt: skip
GOOD = {"number": 0.25, "whole": 3, "strength": 0.25}
LABELS = np.zeros(4, dtype=int)
FITTING = {"m": 2, "nb_classes": 2}


def images():
    return np.full((4, 1, 8, 8), 0.5, np.float32)


@cache
def digits():
    return qadv.create("dataset", "digits")


@cache
def trained():
    return digits_classifier()


def on_classifier(made):
    return lambda **options: made(trained(), **options)


def classifier(**options):
    return qadv.QuantizedClassifier(nn.Flatten(), nn.CrossEntropyLoss(), (1, 1, 2), **{"nb_classes": 2, **options})


CONSTRUCTORS = {
    **{made: on_classifier(made) for made in (
        qadv.SPSA, qadv.NAttack, qadv.Square, qadv.DDN, qadv.UniformNoise, qadv.GaussianNoise,
        qadv.DefensiveQuantTrainer, qadv.AdversarialQuantTrainer, qadv.ErrorSilencedTrainer, qadv.FeedbackTrainer,
        LoopTrainer, qadv.MuLawWeightMapping, qadv.PostTrainingQuantization,
    )},
    **{made: made for made in (
        qadv.Adversary, qadv.BitDepthReduction, qadv.EarlyStop, qadv.MedianSmoothing, qadv.MuLawCompanding,
        LoopOptions,
    )},
    qadv.Calibration: lambda **options: qadv.Calibration(images(), **options),
    qadv.EnsembleAgreementDetector: lambda m: qadv.EnsembleAgreementDetector(
        qadv.EnsembleClassifier.of([trained(), trained()]), m
    ),
    qadv.QuantizedClassifier: classifier,
    qadv.RandomFGSM: lambda **options: qadv.RandomFGSM(trained(), **{"eps": 0.5, **options}),
    qadv.QueryCoalescer: lambda **options: qadv.QueryCoalescer(qadv.SPSA(trained()), **options),
    qadv.Share: qadv.Share,
}  # fmt: skip
NOT_CHECKED = {
    (qadv.ErrorSilencedTrainer, "norm"), (qadv.NAttack, "norm"), (qadv.Square, "norm"),  # one of two numbers
}  # fmt: skip


def arguments():
    for made in CONSTRUCTORS:
        for name, parameter in inspect.signature(made).parameters.items():
            if (made, name) not in NOT_CHECKED and (kind := KINDS.get(parameter.annotation)):
                yield made, name, kind, parameter.default


ARGUMENTS = list(arguments())


def named(argument):
    return argument.__name__ if isinstance(argument, type) else None


def test_every_public_class_is_in_the_table():
    classes = {thing for name in qadv.__all__ if isinstance(thing := getattr(qadv, name), type)}
    assert classes - set(CONSTRUCTORS) == {
        qadv.EnsembleClassifier, qadv.FunctionAttack, qadv.SignatureAttack, qadv.ToolkitAttack
    }  # fmt: skip
    assert len(ARGUMENTS) > 80


@pytest.mark.parametrize(("made", "name", "kind", "default"), ARGUMENTS, ids=named)
def test_numpys_values_are_taken_as_pythons_and_nothing_else_is(made, name, kind, default):
    make = CONSTRUCTORS[made]
    plain = default if type(default) in (int, float) and default > 0 else FITTING.get(name, GOOD.get(kind))
    same = {
        "number": [(np.float32(plain or 0), float(np.float32(plain or 0))), (np.float64(plain or 0), plain)],
        "whole": [(np.int64(plain or 0), plain), (np.uint16(plain or 0), plain)],
        "flag": [(np.False_, False)],
        "strength": [(np.float32(plain or 0), float(np.float32(plain or 0))), ("1/4", 0.25)],
    }[kind]
    for given, meant in same:
        assert shown(make(**{name: given})) == shown(make(**{name: meant}))
    for value in REFUSED[kind]:
        with pytest.raises(InvalidInputError, match=f"(?s){name}.*expected"):
            make(**{name: value})


def shown(made):
    """What an object holds, as text, in which numpy's numbers differ from Python's."""
    held = {**vars(made), **vars(getattr(made, "settings", made)), **vars(getattr(made, "options", made))}
    return {key: repr(value) for key, value in held.items() if isinstance(value, int | float | np.generic | tuple)}


FUNCTIONS = {
    qadv.accuracy_by_distance: lambda f, **o: f(
        trained(), images(), LABELS, [0.1], lambda c: qadv.DDN(c, max_iter=1), **o
    ),
    qadv.accuracy_curve: lambda f, **o: f(trained(), images(), LABELS, [0.1], **o),
    qadv.amplification_by_eps: lambda f, **o: f(trained(), images(), LABELS, [0.1], **o),
    qadv.audit: lambda f, **o: f(trained(), images(), LABELS, **o),
    qadv.audit_in_shards: lambda f, **o: f(trained(), images(), LABELS, **o),
    qadv.backdoor: lambda f, **o: f(trained(), images(), LABELS, images(), LABELS, **{"share": 0.5, "target": 1, **o}),
    qadv.extraction: lambda f, **o: f(trained(), images(), LABELS, trained(), **o),
    qadv.inversion: lambda f, **o: f(trained(), images(), LABELS, **o),
    qadv.membership_inference: lambda f, **o: f(trained(), images(), LABELS, images(), LABELS, **o),
    qadv.error_amplification: lambda f, **o: f(trained(), images(), images(), **o),
    qadv.error_split: lambda f, **o: f(trained(), images(), images(), **o),
    qadv.gradient_similarity: lambda f, **o: f({"a": trained(), "b": trained()}, images(), LABELS, **o),
    qadv.noise_accuracy: lambda f, **o: f({"a": trained()}, digits(), **o),
    qadv.logit_statistics: lambda f, **o: f(trained(), images(), LABELS, **o),
    qadv.quantize: lambda f, **o: f(nn.Linear(2, 2), "int:4", "float", **o),
    qadv.transfer_matrix: lambda f, **o: f({"a": trained()}, images(), LABELS, {"noise": qadv.UniformNoise}, **o),
    qadv.value_shift: lambda f, **o: f(trained(), images(), images(), **o),
    qadv.weight_error_norms: lambda f, **o: f(trained(), **o),
}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_functions_refuse_what_classes_refuse(function):
    parameters = inspect.signature(function).parameters.values()
    checked = {each.name: KINDS[each.annotation] for each in parameters if each.annotation in (int, bool)}
    assert checked
    for name, kind in checked.items():
        for value in REFUSED[kind]:
            with pytest.raises(InvalidInputError, match=f"^{name}: expected"):
                FUNCTIONS[function](function, **{name: value})


def test_values_come_back_as_pythons_own():
    for given, back in ((np.float32(0.5), 0.5), (np.int64(2), 2), (3, 3), (np.float64(2), 2.0)):
        assert repr(check_number("name", given)) == repr(back)
    assert repr(check_whole("name", np.uint8(3))) == "3"
    assert check_flag("name", np.True_) is True
    assert repr(check_eps("eps", np.float32(0.5))) == "0.5"
    assert check_eps("eps", 10**400 - 10**400 + 1) == 1


@pytest.mark.parametrize(
    ("check", "value", "bounds", "expected"),
    [
        (check_number, 0, {}, "a finite number above 0"),
        (check_number, -1, {"zero": True}, "a finite number of at least 0"),
        (check_number, 1, {"below": 1}, "a finite number above 0 and below 1"),
        (check_number, 1.1, {"zero": True, "most": 1}, "a finite number of at least 0 and at most 1"),
        (check_number, 0.1, {"zero": True, "least": 0.5}, "a finite number of at least 0.5"),
        (check_whole, 0, {}, "a whole number of at least 1"),
        (check_whole, 10**400, {"most": 16}, "a whole number from 1 to 16"),
        (check_eps, 10**400, {}, "a finite number above 0, or a fraction such as 8/255"),
    ],
)
def test_bounds_are_named(check, value, bounds, expected):
    with pytest.raises(InvalidInputError, match=f"^name: expected {expected}, got {value!r}$"):
        check("name", value, **bounds)


def test_a_choice_is_one_of_the_choices_and_the_nearest_is_named():
    assert check_choice("name", "pgd", ["fgsm", "pgd"]) == "pgd"
    assert check_choice("name", np.float32(2), (2, INF)) == 2
    for value in ("pdg", True, None, ["pgd"], np.ones(2)):
        with pytest.raises(InvalidInputError, match=r"^name: expected one of fgsm, pgd, 1, got"):
            check_choice("name", value, ["fgsm", "pgd", 1])
    with pytest.raises(InvalidInputError, match="got 'pdg'; did you mean"):
        check_choice("name", "pdg", ("fgsm", "pgd"))


def test_ends_that_belong_to_it_are_taken():
    assert check_number("name", 0, zero=True) == 0
    assert check_number("name", 1, most=1) == 1
    assert check_number("name", 1e-5, zero=True, least=1e-5) == 1e-5
    assert check_whole("name", 16, most=16) == 16
    assert math.isclose(check_eps("eps", "8/255"), 8 / 255)
