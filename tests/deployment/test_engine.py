"""An engine answers queries, the network gradients; what is found so counts once the network has confirmed it."""

import copy

import numpy as np
import pytest
import torch
from art.attacks import EvasionAttack
from art.estimators.classification import PyTorchClassifier
from torch import nn

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
if not hasattr(torch.onnx, "ops"):
    pytest.skip("exporting needs torch 2.8", allow_module_level=True)

import qadv
from qadv.deployment import accelerate as accelerating
from qadv.deployment.engine import EngineForm
from qadv.diagnostics.audit import run
from qadv.diagnostics.audit.case import AuditCase
from qadv.diagnostics.audit.settings import FEW_STEPS
from qadv.diagnostics.audit.target import Target
from qadv.errors import InvalidInputError, UnsupportedModelError
from qadv.evaluation import Outcome
from qadv.frontends.onnx.runtime import Runtime

OPTIONS = {"fold_batch_norm": False, "channels_last": False}


@pytest.fixture(scope="module")
def classifier(trained):
    """Of pixels from 0 to 255, which its standardisation brings to those of the training."""
    of_bytes = {"clip_values": (0, 255), "preprocessing": (0.0, 255.0)}
    return qadv.QuantizedClassifier(trained.network, trained.loss, (1, 8, 8), 10, **of_bytes)


@pytest.fixture(scope="module")
def x(digits):
    return 255 * digits.x_test[:128]


@pytest.fixture(scope="module")
def y(digits):
    return digits.y_test[:128]


@pytest.fixture(scope="module")
def exported(classifier, x):
    """Exporting takes seconds: the runtime of the trained network is made once."""
    made = accelerating.runtime_of(copy.deepcopy(classifier.network), classifier, x[:64] / np.float32(255))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accelerating, "runtime_of", lambda *_: made)
        yield made


@pytest.fixture(scope="module")
def accelerated(exported, classifier, x):
    return qadv.accelerate(classifier, x, engine="onnxruntime", **OPTIONS)


@pytest.fixture
def another(exported, monkeypatch):
    """The engine answers as another network does: logits in another order."""
    monkeypatch.setattr(Runtime, "__call__", lambda self, x: np.roll(_asked(self, x), 1, axis=1))


_asked = Runtime.__call__


def test_queries_are_the_engines_and_gradients_the_networks(accelerated, exported, classifier, x, y):
    x, y = x[:32], y[:32]
    np.testing.assert_array_equal(accelerated.predict(x), exported(x / np.float32(255)))
    assert not np.array_equal(accelerated.predict(x), classifier.predict(x))
    itself = accelerated.simulation
    np.testing.assert_array_equal(accelerated.loss_gradient(x, y), itself.loss_gradient(x, y))
    np.testing.assert_array_equal(accelerated.class_gradient(x), itself.class_gradient(x))
    check = accelerated.checks[-1]
    assert (check.option, check.images, check.kept) == ("onnxruntime", 128, True)
    assert check.equal == 128 - check.changed > 120
    assert 0 < check.logits_error < 0.5
    assert "onnxruntime" in str(accelerated)
    plain = PyTorchClassifier(accelerated.model, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0, 1))
    np.testing.assert_array_equal(plain.predict(x / 255), accelerated.predict(x))
    attack = qadv.QueryCoalescer(qadv.Square(accelerated, max_iter=3, verbose=False), seed=0, verbose=False)
    assert attack.generate(x[:4]).shape == (4, 1, 8, 8)


def test_a_network_that_changes_is_refused(exported, classifier, x):
    for change in (
        lambda network: network[0].weight.data.mul_(1.5),
        lambda network: network[-1].bias.detach().numpy().fill(3),
        lambda network: network.__setitem__(0, copy.deepcopy(network[0])),
    ):
        fast = qadv.accelerate(classifier, x[:4], engine="onnxruntime", share=0.1, **OPTIONS)
        fast.model.train()
        fast.predict(x[:4])
        change(fast.network)
        with pytest.raises(UnsupportedModelError, match="has changed since it was exported"):
            fast.predict(x[:4])
    fast = qadv.accelerate(classifier, x[:4], engine="onnxruntime", share=0.1, **OPTIONS)
    fast.network[2] = nn.ReLU()  # a layer of another kind: the network answers itself
    itself = qadv.QuantizedClassifier(fast.network, fast.loss, (1, 8, 8), 10, clip_values=(0, 1), preprocessing=(0, 1))
    np.testing.assert_allclose(fast.predict(x[:4]), itself.predict(x[:4] / 255), atol=1e-4)


def test_who_looks_inside_sees_the_network(accelerated, x):
    x = x[:4]
    seen = accelerated.get_activations(x, 0, batch_size=4)
    np.testing.assert_array_equal(seen, accelerated.simulation.get_activations(x, 0, batch_size=4))
    handle = accelerated.network.register_forward_hook(lambda *_: None)
    try:
        np.testing.assert_array_equal(accelerated.predict(x), accelerated.simulation.predict(x))
    finally:
        handle.remove()
    np.testing.assert_array_equal(copy.deepcopy(accelerated).predict(x), accelerated.simulation.predict(x))


def test_one_setting_of_threads(exported, x, monkeypatch):
    x, expected = x[:4] / np.float32(255), exported(x[:4] / np.float32(255))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    np.testing.assert_array_equal(exported(x), expected)
    assert exported.session.get_session_options().intra_op_num_threads == 3


def test_an_engine_that_answers_otherwise_is_left_off(another, classifier, x):
    with pytest.warns(UserWarning, match=r"onnxruntime is left off: \d+ of 32 images have the same class, and so the"):
        result = qadv.accelerate(classifier, x[:32], engine="onnxruntime", **OPTIONS)
    assert result.simulation is None
    assert not result.checks[-1].kept
    assert not isinstance(result.model._form, EngineForm)
    with pytest.raises(InvalidInputError, match="engine: expected one of onnxruntime, got 'onnxruntim'"):
        qadv.accelerate(classifier, x[:2], engine="onnxruntim")


def test_outcomes_are_what_the_network_itself_says(accelerated, another, x, y, monkeypatch):
    assert (accelerated.predict(x).argmax(1) != y).mean() > 0.9
    assert Outcome.of(accelerated, x, y, x).right.mean() > 0.9
    monkeypatch.setattr(run, "numbered_checks", list)
    assert qadv.audit(accelerated, x, y, verbose=False).worst_case.clean_accuracy > 0.9


def test_what_ends_at_the_engines_boundary_is_taken_to_the_networks(accelerated, monkeypatch):
    limits = np.array([1.0, 1.1, 1.3])  # how far along its way the network calls each image adversarial
    start = np.zeros((3, 1, 8, 8), np.float32)
    start[:, 0, 0, 0] = range(3)
    found = start.copy()
    found[:, 0, 1, 1] = 10

    def predict(images):
        limit = limits[images[:, 0, 0, 0].astype(int)]
        return np.eye(10)[(images[:, 0, 1, 1] / 10 > limit - 1e-3).astype(int)]

    monkeypatch.setattr(accelerated.simulation, "predict", predict)
    ends = accelerated.confirmed(start, found, np.zeros(3, int))[:, 0, 1, 1]
    np.testing.assert_allclose(ends, [10, 11, 10], atol=1e-3)
    np.testing.assert_allclose(accelerated.confirmed(start, found, [0] * 3, most=1.4)[2, 0, 1, 1], 13, atol=1e-3)
    with pytest.raises(InvalidInputError, match=r"x_adv: expected images of shape \(3, 1, 8, 8\), got \(1, 1, 8, 8\)"):
        accelerated.confirmed(start, found[:1], [0] * 3)


@pytest.mark.parametrize("targeted", [False, True])
def test_an_attack_in_a_ball_is_run_again_where_the_network_denies_it(targeted, accelerated, x, monkeypatch):
    x, labels = x[:4], np.array([1, 1, 0, 0] if targeted else [0, 0, 1, 1])
    runs = []

    class Marking(EvasionAttack):
        _estimator_requirements = ()

        def generate(self, x, y=None):
            runs.append((self.estimator is accelerated, len(x)))
            found = x.copy()
            found[:, 0, 7, 7] = 100 if self.estimator is accelerated else 200
            return found

        def __init__(self, estimator):
            super().__init__(estimator=estimator)
            self._targeted = targeted

    def says(*classes):  # the images are told apart by their first pixels, which nobody changes
        known = {image[0, :7].tobytes(): each for image, each in zip(x, classes, strict=True)}
        return lambda images: np.eye(10)[[known[image[0, :7].tobytes()] for image in images]]

    monkeypatch.setattr(accelerated, "predict", says(1, 1, 1, 1))  # images 0 and 1 fell
    monkeypatch.setattr(accelerated.simulation, "predict", says(1, 0, 1, 1))  # of which it denies 1
    found = accelerated.confirmed_run(Marking, x, np.eye(10)[labels])
    assert found[:, 0, 7, 7].tolist() == [100, 200, 100, 100]
    assert runs == [(True, 4), (False, 1)]
    with pytest.raises(InvalidInputError, match=r"attack: expected a function that returns the attack .* got Marking"):
        accelerated.confirmed_run(Marking(accelerated), x, labels)


def test_an_audit_asks_the_engine_and_counts_what_the_network_confirms(accelerated, classifier, x, monkeypatch):
    x, y = x[:16], classifier.predict(x[:16]).argmax(1)
    target, queries = Target(classifier, 64), Target(accelerated, 64)
    case = AuditCase(target, x, y, eps=30.0, settings=FEW_STEPS, queries=queries)
    asked = []

    def made(of):
        asked.append(of)
        return lambda x, y: x.copy()

    assert not case.attack("nothing", case.queried(made), case.clean).any()
    assert asked == [queries]
    monkeypatch.setattr(queries, "broken", lambda x, y: np.arange(len(y)) < 3)  # the network denies these
    assert not case.attack("denied", case.queried(made), case.clean).any()
    assert asked == [queries, queries, target]
    monkeypatch.setattr(run, "numbered_checks", list)
    result = qadv.audit(classifier, x, y, queries="onnxruntime", verbose=False)
    assert result.to_dict()["queries"].startswith("onnxruntime, with the network's class on 1")
    assert "ask onnxruntime" in str(result).replace("\n", " ")
    assert qadv.audit(classifier, x, y, verbose=False).queries == ""
