"""`FunctionAttack`: one function with a typed signature is an ART attack, and gets what its parameters name."""

import copy
import inspect
import pickle
import re
from typing import Annotated, Literal

import numpy as np
import pytest
import torch
from art.attacks import EvasionAttack
from art.estimators.classification import SklearnClassifier
from art.exceptions import EstimatorError
from pydantic import AfterValidator, Field
from sklearn.tree import DecisionTreeClassifier

import qadv
from qadv.attacks import Count, Eps, Found, FunctionAttack, Length, OneOf, Part, Positive, Radius, signs, wins
from qadv.errors import AttackError, InvalidInputError
from qadv.testing import conformance, digits_classifier
from tests.attacks.networks import SHAPE, linear_case, plain, smooth_network


def sign_noise(
    logits, x, y, limits, generators, eps: Eps = qadv.Share(0.1), nb_draws: "Count" = 3, targeted: bool = False
):
    """Random signs, until they do.

    Args:
        eps: radius.
    """
    found, queries = x.clone(), torch.zeros(len(x), dtype=torch.int64)
    for _ in range(nb_draws):
        left = ~wins(logits(found), y, targeted)
        queries += 1
        moved = (x + eps * signs(generators, x.shape[1:])).clamp(*limits)
        found = torch.where(left.view(-1, 1, 1, 1), moved, found)
        yield Found(found, queries)


class SignNoise(FunctionAttack):
    run = sign_noise
    batch_size = 5


test_conformance = conformance("attack", SignNoise, eps=0.2)


@pytest.fixture(scope="module")
def digits():
    data = qadv.create("dataset", "digits")
    return data.x_test[:12], data.y_test[:12]


def made(run, classifier=None, **options):
    """An attack of a function, on trained digits."""
    kind = type("Made", (FunctionAttack,), {"run": run})
    return kind(digits_classifier() if classifier is None else classifier, **{"verbose": False, **options})


def test_the_class_has_the_functions_options_in_order_then_those_of_every_attack():
    names = ["estimator", "eps", "nb_draws", "targeted", "batch_size", "seed", "verbose"]
    assert list(inspect.signature(SignNoise).parameters) == names
    attack = SignNoise(digits_classifier(), 0.2, 4, True, 7, 0, False)
    assert isinstance(attack, EvasionAttack)
    assert [getattr(attack, name) for name in names[1:]] == [0.2, 4, True, 7, 0, False]
    assert attack.attack_params == [*EvasionAttack.attack_params, *names[1:]]
    assert attack.given() == {"eps": 0.2, "nb_draws": 4}
    assert repr(attack).startswith("SignNoise(eps=0.2, nb_draws=4, targeted=True, batch_size=7, seed=0, verbose=False")
    assert SignNoise(digits_classifier()).batch_size == 5


def test_help_is_readable():
    assert SignNoise.__doc__ == inspect.getdoc(sign_noise)
    assert "eps: float | qadv.units.Share = Share(of_range=0.1), nb_draws: int = 3" in str(inspect.signature(SignNoise))
    assert "seed: int | None = None, verbose: bool = True" in str(inspect.signature(SignNoise))


def test_results_are_those_of_the_function(digits):
    x, y = digits
    classifier = digits_classifier()
    attack = SignNoise(classifier, 0.3, seed=3, verbose=False)
    found = attack.generate(x, y)
    classifier.model.eval()
    expected = []
    for start in range(0, 12, 5):
        rows = slice(start, start + 5)
        tensors = torch.from_numpy(x[rows]), torch.from_numpy(y[rows])
        generators = qadv.attacks.image_generators(3, range(start, min(start + 5, 12)), torch.device("cpu"))
        *_, last = sign_noise(classifier.model, *tensors, (0.0, 1.0), generators, 0.3, 3)
        expected.append(last.adversarial.detach().numpy())
    np.testing.assert_array_equal(found, np.concatenate(expected))
    np.testing.assert_array_equal(attack.queries, 3)
    np.testing.assert_array_equal(
        SignNoise(classifier, 0.3, seed=3, batch_size=100, verbose=False).generate(x, y), found
    )


def test_it_is_given_what_its_parameters_name(digits):
    x, y = digits
    seen = {}

    def looks(x, y, limits, clip_values, gradient, logits, generators, length: Length = qadv.Share(0.5)):
        seen.update(locals(), answers=logits(x), gradients=gradient(x, y)[1])
        return x

    classifier = digits_classifier(clip_values=(-1.0, 3.0), preprocessing=(-1.0, 4.0))
    shifted = (4 * x - 1).astype(np.float32)
    attack = made(looks, classifier, batch_size=20)
    np.testing.assert_array_equal(attack.generate(shifted, y), shifted)
    np.testing.assert_array_equal(seen["x"], shifted)
    np.testing.assert_array_equal(seen["y"], y)
    assert seen["limits"] == seen["clip_values"] == (-1.0, 3.0)
    assert seen["length"] == attack.length == 2.0
    assert len(seen["generators"]) == 12
    np.testing.assert_allclose(seen["answers"], classifier.predict(shifted), atol=1e-5)
    np.testing.assert_allclose(seen["gradients"] / 12, classifier.loss_gradient(shifted, y), atol=1e-5)
    assert not hasattr(attack, "queries")  # nobody counts them


def test_with_the_model_all_is_in_the_unit_range(digits):
    x, y = digits
    seen = {}

    def looks(model, x, y, clip_values, eps: Eps = qadv.Share(0.5), far: Length | None = None, part: Part = 0.5):
        seen.update(locals(), answers=model(x).detach())
        return x + eps

    classifier = digits_classifier(clip_values=(-1.0, 3.0), preprocessing=(-1.0, 4.0))
    shifted = (4 * x - 1).astype(np.float32)
    attack = made(looks, classifier, eps=1.0, batch_size=20)
    found = attack.generate(shifted, y)
    np.testing.assert_allclose(seen["x"], x, atol=1e-6)
    assert (seen["clip_values"], seen["eps"], seen["far"], seen["part"]) == ((0.0, 1.0), 0.25, None, 0.5)
    np.testing.assert_allclose(found, np.minimum(shifted + 1, 3), atol=1e-5)
    np.testing.assert_allclose(seen["answers"], classifier.predict(shifted), rtol=1e-4, atol=1e-4)
    assert attack.given() == {"eps": 1.0, "far": None, "part": 0.5}
    assert attack.given(unit_range=True) == {"eps": 0.25, "far": None, "part": 0.5}


def test_predictions_take_the_place_of_labels_only_where_they_are_asked_for(digits):
    x, _ = digits
    seen = []

    def needs(x, y):
        seen.append(y)
        return Found(x, torch.zeros(len(x), dtype=torch.int64))

    def takes_none(x, y: torch.Tensor | None):
        return needs(x, y)

    def without(x):
        return needs(x, "none asked for")

    attacks = [made(run, batch_size=20) for run in (needs, takes_none, without)]
    for attack in attacks:
        attack.generate(x)
    np.testing.assert_array_equal(seen[0], attacks[0].estimator.predict(x).argmax(1))
    assert seen[1:] == [None, "none asked for"]
    assert [attack.queries.max() for attack in attacks] == [1, 0, 0]


class _Noisy(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        logits = self.network(x)
        return logits + 20 * torch.randn_like(logits)


def test_a_seed_decides_what_a_random_network_draws_and_leaves_the_global_states(digits):
    def where_wrong(logits, x, y):
        return x * (logits(x).argmax(1) == y).view(-1, 1, 1, 1)

    classifier = plain(_Noisy(digits_classifier().network))
    attack, other = (made(where_wrong, classifier, seed=seed) for seed in (1, 2))
    torch.manual_seed(0)
    np.random.seed(0)
    found = attack.generate(*digits)
    drawn = torch.rand(1), np.random.rand()
    assert np.array_equal(attack.generate(*digits), found)
    assert not np.array_equal(other.generate(*digits), found)
    torch.manual_seed(0)
    np.random.seed(0)
    assert (torch.rand(1), np.random.rand()) == drawn


def test_a_function_may_write_into_its_images(digits):
    x, y = digits
    for run in (lambda x: x.add_(0.25).clamp_(0, 1), lambda model, x: x.add_(0.25).clamp_(0, 1)):
        found = made(run).generate(x, y)
        np.testing.assert_allclose(found, np.minimum(x + 0.25, 1), atol=1e-6)


def test_it_may_be_a_method(digits):
    class Kept(FunctionAttack):
        def run(self, x, eps: Eps = 0.1):
            self.seen = type(self.estimator)
            return x + eps

    x, y = digits
    attack = Kept(digits_classifier(), verbose=False)
    attack.generate(x * 0.5, y)
    assert attack.seen is qadv.QuantizedClassifier
    assert (attack.partial > x * 0.5).all()


def test_what_it_asks_for_is_required_of_the_estimator():
    unlimited = plain(smooth_network(), 4, SHAPE, clip_values=None)
    with pytest.raises(InvalidInputError, match="Made works in the range of the pixels; give the classifier clip_val"):
        made(lambda x, clip_values: x, unlimited)
    with pytest.raises(InvalidInputError, match="pixels of a known range are attacked"):
        made(lambda x, model: x, unlimited)
    assert made(lambda x, limits: x.clamp(*limits), unlimited).generate(np.ones((1, *SHAPE), np.float32)).min() == 1
    tree = SklearnClassifier(DecisionTreeClassifier().fit(np.eye(4), [0, 1, 2, 3]), clip_values=(0.0, 1.0))
    for run in (lambda x, gradient: x, lambda x, model: x):
        with pytest.raises(EstimatorError):
            made(run, tree)
    assert made(lambda x, logits, y: x, tree).generate(np.eye(4, dtype=np.float32)).shape == (4, 4)


def options(
    x,
    flag: bool = False,
    many: int = 1,
    few: Annotated[int, Field(gt=1, lt=5)] = 2,
    number: float = 0.0,
    positive: Positive = 1.0,
    part: Part = 0.5,
    up_to: Annotated[float, Field(ge=0, le=1)] = 1.0,
    eps: Annotated[Length, Field(gt=0), Radius("norm")] = 0.1,
    norm: Annotated[float | str, OneOf(np.inf, "inf", 2)] = np.inf,
    maybe: Count | None = None,
    law: Literal["a", "b"] = "a",
    loss: torch.nn.Module | None = None,
    even: Annotated[int, Field(multiple_of=2)] = 2,
    odd: Annotated[int, AfterValidator(lambda value: value if value % 2 else 1 / 0)] = 1,
    anything=None,
):
    return x


class Options(FunctionAttack):
    run = options


@pytest.mark.parametrize(
    ("name", "good", "bad", "message"),
    [
        ("flag", np.True_, 1, "True or False"),
        ("many", np.int64(-3), 3.0, "a whole number, got 3.0"),
        ("few", 4, 5, "a whole number from 2 to 4"),
        ("number", np.float32(-0.5), True, "a finite number, got True"),
        ("positive", 1, 0, "a finite number above 0"),
        ("part", 0.9, 1, "a finite number above 0 and below 1"),
        ("up_to", 0, 1.5, "a finite number of at least 0 and at most 1"),
        ("eps", "8/255", 1.5, "at most 1, the range of the pixels"),
        ("eps", qadv.Share(0.5), 0, "a finite number above 0, or a fraction such as 8/255"),
        ("norm", "inf", True, "one of inf, 2, got True"),
        ("norm", 2.0, 1, "one of inf, 2, got 1"),
        ("maybe", np.uint8(3), 0, "a whole number of at least 1"),
        ("law", "b", "c", "'a' or 'b', got 'c'"),
        ("loss", torch.nn.CrossEntropyLoss(), "ce", "an instance of Module"),
        ("even", np.int32(4), 3, "a multiple of 2"),
        ("seed", np.int64(3), -1, "a whole number of at least 0"),
        ("anything", "text", None, None),
    ],
)
def test_annotations_are_what_options_are_checked_by_when_made_and_when_set(name, good, bad, message):
    attack = Options(digits_classifier(), **{name: good})
    assert not isinstance(getattr(attack, name), np.generic | qadv.Share)
    attack.set_params(**{name: good})
    if message is None:
        return
    with pytest.raises(InvalidInputError, match=f"^{name}: expected {re.escape(message)}"):
        Options(digits_classifier(), **{name: bad})
    with pytest.raises(InvalidInputError, match=f"^{name}: expected {re.escape(message)}"):
        attack.set_params(**{name: bad})


def test_what_pydantic_adds_is_checked_too():
    with pytest.raises(ZeroDivisionError):
        Options(digits_classifier(), odd=2)
    assert Options(digits_classifier(), odd=3, maybe=None).maybe is None


def test_a_radius_is_bounded_in_its_norm():
    assert Options(digits_classifier(), norm=2, eps=7.9).eps == 7.9
    with pytest.raises(InvalidInputError, match="at most 8, the largest L2 distance"):
        Options(digits_classifier(), norm=2, eps=8.1)


def test_what_can_not_be_an_attack_is_refused_when_the_class_is_made():
    for run, message in (
        (lambda x, *options: x, r"Made.run: \*options can't be an option"),
        (lambda x, queries=3: x, "queries=3 can't be an option of an attack; give it another name"),
        (lambda x, model, logits: x, "the model gives logits and gradients itself"),
    ):
        with pytest.raises(TypeError, match=message):
            made(run)
    with pytest.raises(TypeError, match="'steps'"):
        SignNoise(digits_classifier(), steps=3)
    with pytest.raises(TypeError, match="'eps'"):
        made(lambda x, eps: x)


def test_annotations_may_be_texts_of_what_is_there_at_run_time():
    def texts(x, many: "Count" = 2):
        return x

    def unknown(x, many: "Nowhere" = 2):  # noqa: F821
        return x

    with pytest.raises(InvalidInputError, match="many: expected a whole number of at least 1"):
        made(texts, many=0)
    with pytest.raises(TypeError, match="annotations are read at run time, and name 'Nowhere' is not defined"):
        made(unknown)


def test_options_by_name_only_stay_so():
    def run(x, *, eps: Eps = 0.1):
        return x

    kinds = {each.kind for each in list(inspect.signature(type(made(run))).parameters.values())[1:]}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}


def test_it_pickles_and_copies():
    classifier, x, f, *_ = linear_case()
    attack = SignNoise(classifier, 0.2, seed=2, verbose=False)
    expected = attack.generate(x, (f < 0).astype(int))
    for again in (copy.deepcopy(attack), copy.copy(attack)):
        np.testing.assert_array_equal(again.generate(x, (f < 0).astype(int)), expected)
    assert pickle.loads(pickle.dumps(SignNoise)) is SignNoise
    again = pickle.loads(pickle.dumps(SignNoise(digits_classifier(), 0.2)))
    assert again.given() == {"eps": 0.2, "nb_draws": 3}


@pytest.mark.parametrize(
    ("result", "got"),
    [
        (lambda x: None, "NoneType"),
        (lambda x: x.numpy(), "ndarray"),
        (lambda x: x[:, :, 1:], "a tensor of shape"),
        (lambda x: iter([]), "no step"),
        (lambda x: iter([x]), "Tensor"),
    ],
)
def test_what_is_no_result_is_refused(result, got, digits):
    with pytest.raises(InvalidInputError, match=f"Made.run: expected adversarial images of shape .*{got}"):
        made(result).generate(*digits)


def test_results_are_clipped_to_the_range_of_pixels_and_nan_is_refused(digits):
    found = made(lambda x: 3 * x - 1).generate(*digits)
    np.testing.assert_array_equal(found, np.clip(3 * digits[0] - 1, 0, 1))
    with pytest.raises(AttackError, match="NaN"):
        made(lambda x: x * torch.nan).generate(*digits)


def test_of_values_that_are_set_all_are_taken_or_none():
    attack = SignNoise(digits_classifier(), 0.2, verbose=False)
    with pytest.raises(InvalidInputError, match="nb_draws"):
        attack.set_params(eps=0.1, nb_draws=True)
    assert attack.given() == {"eps": 0.2, "nb_draws": 3}
    attack.set_params(eps="1/4")
    assert attack.given() == {"eps": 0.25, "nb_draws": 3}


def test_what_an_attack_has_can_not_be_an_option():
    for name in ("estimator", "partial", "in_pixels", "set_params", "summary_writer"):
        with pytest.raises(TypeError, match=f"{name}.* can't be an option"):
            exec(f"def run(x, {name}=1): return x\nmade(run)", {"made": made})
