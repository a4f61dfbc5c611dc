"""`QuantizedClassifier` is a `PyTorchClassifier` for ART, and says early what is wrong."""

import copy
import warnings

import numpy as np
import pytest
import torch
from art.attacks.evasion import (
    AutoProjectedGradientDescent,
    BoundaryAttack,
    CarliniL2Method,
    DeepFool,
    FastGradientMethod,
    HopSkipJump,
    ProjectedGradientDescent,
    SquareAttack,
    ZooAttack,
)
from art.defences.trainer import AdversarialTrainer
from art.estimators.classification import PyTorchClassifier
from torch import nn

import qadv
from qadv.errors import InvalidInputError, PixelRangeWarning
from tests.blur import Blur

ATTACKS = {
    "FGSM": (FastGradientMethod, {"eps": 0.2}),
    "PGD": (ProjectedGradientDescent, {"eps": 0.2, "eps_step": 0.05, "max_iter": 10}),
    "APGD": (
        AutoProjectedGradientDescent,
        {"eps": 0.2, "eps_step": 0.05, "max_iter": 10, "nb_random_init": 1, "loss_type": "cross_entropy"},
    ),
    "DeepFool": (DeepFool, {"max_iter": 20}),
    "C&W": (
        CarliniL2Method,
        {"max_iter": 10, "learning_rate": 0.1, "binary_search_steps": 3, "initial_const": 1.0},
    ),
    "Square": (SquareAttack, {"eps": 0.3, "max_iter": 50}),
    "ZOO": (
        ZooAttack,
        {
            "max_iter": 20,
            "nb_parallel": 64,
            "use_resize": False,
            "use_importance": False,
            "binary_search_steps": 2,
            "learning_rate": 0.1,
            "initial_const": 1.0,
            "variable_h": 0.05,
        },
    ),
    "Boundary": (BoundaryAttack, {"targeted": False, "max_iter": 20, "delta": 0.1, "epsilon": 0.1}),
    "HopSkipJump": (HopSkipJump, {"max_iter": 2, "max_eval": 100, "init_eval": 10}),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_arts_attacks_run_unmodified_and_break_images(name, trained, digits):
    x, y = digits.x_test[:5], digits.y_test[:5]
    attack_type, options = ATTACKS[name]
    if "verbose" in attack_type.attack_params:
        options = {**options, "verbose": False}
    adversarial = attack_type(trained, **options).generate(x, np.eye(10, dtype=np.float32)[y])
    assert adversarial.shape == x.shape
    assert np.abs(adversarial - x).max() > 0
    assert (trained.predict(adversarial).argmax(1) != y).any()


def test_it_is_a_pytorch_classifier_with_the_same_gradients_as_a_plain_one(trained, digits):
    assert isinstance(trained, PyTorchClassifier)
    plain = PyTorchClassifier(trained.model, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0, 1))
    x, y = digits.x_test[:8], digits.y_test[:8]
    one_hot = np.eye(10, dtype=np.float32)[y]
    np.testing.assert_array_equal(trained.predict(x), plain.predict(x))
    np.testing.assert_array_equal(trained.loss_gradient(x, one_hot), plain.loss_gradient(x, one_hot))
    np.testing.assert_array_equal(trained.loss_gradient(x, y), plain.loss_gradient(x, one_hot))
    np.testing.assert_array_equal(trained.class_gradient(x, 3), plain.class_gradient(x, 3))


@pytest.mark.parametrize("sequential", [True, False])
def test_float64_queries_work_also_in_a_classifier_rebuilt_from_the_model(sequential, trained, digits):
    model = copy.deepcopy(trained.model)
    if not sequential:
        model = Wrapped(model)
    mine = qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10)
    rebuilt = PyTorchClassifier(mine.model, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0, 1))
    x = digits.x_test[:4]
    for classifier in (mine, rebuilt):
        np.testing.assert_array_equal(classifier.predict(x.astype(np.float64)), classifier.predict(x))


class Wrapped(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)


def test_rows_give_the_same_in_any_batch_size(trained, digits):
    x = digits.x_test[:50]
    np.testing.assert_allclose(trained.predict(x, batch_size=1), trained.predict(x, batch_size=64), atol=1e-5)
    np.testing.assert_allclose(np.concatenate([trained.predict(row[None]) for row in x]), trained.predict(x), atol=1e-5)


def test_arts_own_training_works_and_keeps_coefficients_on_the_simplex(digits):
    from qadv.backbones.aggregation import ConvexSum

    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), Residual(), nn.Flatten(), nn.Linear(4 * 64, 10))
    quantized = qadv.quantize(model)
    optimizer = torch.optim.SGD(quantized.parameters(), lr=0.5)
    classifier = qadv.QuantizedClassifier(quantized, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=optimizer)
    trainer = AdversarialTrainer(classifier, FastGradientMethod(classifier, eps=0.1), ratio=0.5)
    trainer.fit(digits.x_train[:256], np.eye(10, dtype=np.float32)[digits.y_train[:256]], nb_epochs=2, batch_size=64)
    (aggregation,) = (m for m in quantized.modules() if isinstance(m, ConvexSum))
    a, b = aggregation.coefficients.tolist()
    assert a != 0.5
    assert min(a, b) >= 0
    assert a + b == pytest.approx(1, abs=1e-6)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        from qadv.backbones.aggregation import ConvexSum

        self.conv, self.relu, self.add = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), ConvexSum()

    def forward(self, x):
        return self.add(x, self.relu(self.conv(x)))


def test_preprocessing_defences_are_part_of_it(digits, make_classifier):
    plain = make_classifier()
    smoothed = make_classifier(preprocessing_defences=Blur(), preprocessing=(0.5, 0.25))
    x = digits.x_test[:4]
    assert not np.allclose(plain.predict(x), smoothed.predict(x))
    assert np.abs(smoothed.loss_gradient(x, digits.y_test[:4])).max() > 0


def test_clone_for_refitting_keeps_the_type(trained):
    optimizer = torch.optim.SGD(trained.model.parameters(), lr=0.1)
    original = qadv.QuantizedClassifier(trained.model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=optimizer)
    clone = original.clone_for_refitting()
    assert type(clone) is qadv.QuantizedClassifier
    assert clone.model is not original.model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_shape": (3, 8, 8)}, r"the model fails on one image of input_shape \(3, 8, 8\): RuntimeError"),
        ({"nb_classes": 7}, r"logits of shape \(1, 7\).*got \(1, 10\)"),
        ({"nb_classes": 1}, "nb_classes: expected a whole number of at least 2"),
        ({"clip_values": (1, 0)}, "clip_values: expected two numbers"),
        ({"clip_values": 255}, "clip_values: expected two numbers"),
        ({"input_shape": ()}, "input_shape: expected positive sizes"),
        ({"preprocessing": ([0.5, 0.5], [1.0, 1.0])}, "preprocessing: mean has 2 values for 1 channels"),
        ({"preprocessing": (0.5, 0.0)}, "std > 0"),
        ({"preprocessing": (float("nan"), 1.0)}, "std > 0"),
        ({"preprocessing": ("a", "b")}, "as numbers"),
        ({"input_shape": 5}, "input_shape: expected positive sizes"),
        ({"model": "resnet18"}, "model: expected a torch.nn.Module, got str"),
        ({"model": torch.jit.trace(nn.Flatten(), torch.zeros(1, 1, 8, 8))}, "model: TorchScript hides .* made from"),
    ],
)
def test_wrong_arguments_show_at_once(change, message, trained):
    arguments = {"model": trained.model, "loss": nn.CrossEntropyLoss(), "input_shape": (1, 8, 8), "nb_classes": 10}
    with pytest.raises(InvalidInputError, match=message):
        qadv.QuantizedClassifier(**{**arguments, **change})


class ChannelsLast(nn.Module):
    """A network whose images have their channels at the end."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 5, 4))

    def forward(self, x):
        return self.network(x.permute(0, 3, 1, 2))


def test_standardisation_goes_by_the_channels_wherever_they_are():
    network, (mean, std) = ChannelsLast(), ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    settings = {"loss": nn.CrossEntropyLoss(), "nb_classes": 4, "preprocessing": (mean, std)}
    classifier = qadv.QuantizedClassifier(network, input_shape=(4, 5, 3), channels_first=False, **settings)
    x = np.random.default_rng(0).random((6, 4, 5, 3), dtype=np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(((x - mean) / std).astype(np.float32))).numpy()
    np.testing.assert_allclose(classifier.predict(x), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(InvalidInputError, match="mean has 3 values for 4 channels"):
        qadv.QuantizedClassifier(network, input_shape=(4, 5, 3), **settings)


def test_wrong_data_are_refused_by_every_entry(trained, digits):
    bad = digits.x_test[:2] * 255
    for call in (
        lambda: trained.predict(bad),
        lambda: trained.loss_gradient(bad, digits.y_test[:2]),
        lambda: trained.class_gradient(bad),
    ):
        with pytest.raises(InvalidInputError, match="divide by 255"):
            call()
    with pytest.raises(InvalidInputError, match="empty array"):
        trained.predict(digits.x_test[:0])
    with pytest.raises(InvalidInputError, match="fit needs an optimizer"):
        trained.fit(digits.x_train, digits.y_train)
    with pytest.raises(InvalidInputError, match="got labels from"):
        trained.loss_gradient(digits.x_test[:2], [3, 12])
    with pytest.raises(InvalidInputError, match="got labels from"):
        trained.compute_loss(digits.x_test[:2], [3, 12])
    with pytest.raises(InvalidInputError, match="got labels from"):
        trained.class_gradient(digits.x_test[:2], 99)
    with pytest.raises(InvalidInputError, match="got 3"):
        trained.loss_gradient(digits.x_test[:2], np.eye(10)[:3])


def test_an_error_in_compute_loss_leaves_the_loss_as_it_was(trained, digits):
    x, y = digits.x_test[:2], digits.y_test[:2]
    before = trained.loss_gradient(x, y)
    refused = [lambda: trained.compute_loss(x, y, reduction="median"), lambda: trained.compute_loss(x, y[:1])]
    for call in refused:
        with pytest.raises(InvalidInputError, match=r"reduction: expected|got 1|labels"):
            call()
        assert trained.loss.reduction == "mean"
    np.testing.assert_array_equal(trained.loss_gradient(x, y), before)


def test_tensors_and_labels_that_are_no_data_are_refused(trained, digits):
    x, y = torch.from_numpy(digits.x_test[:2]), torch.from_numpy(digits.y_test[:2])
    for bad in (torch.full_like(x, torch.nan), torch.where(x > 0.9, torch.inf, x), x[:, :, :4], x.to(torch.uint8)):
        for call in (trained.loss_gradient, trained.compute_loss):
            with pytest.raises(InvalidInputError, match=r"^x: "):
                call(bad, y)
        with pytest.raises(InvalidInputError, match=r"^x: "):
            trained.class_gradient(bad, 0)
    for labels in (y + 9, y - 10, y + 0.5, torch.full((2, 10), -1.0), torch.full((2, 10), 1e30)):
        for given in (labels, labels.numpy()):
            with pytest.raises(InvalidInputError, match="expected 2 labels from 0 to 9"):
                trained.loss_gradient(x if given is labels else x.numpy(), given)
    model = copy.deepcopy(trained.model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    classifier = qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=optimizer)
    with pytest.raises(InvalidInputError, match="expected 2 labels from 0 to 9"):
        classifier.fit(x.numpy(), np.full((2, 10), 1e30), nb_epochs=1)


@pytest.mark.parametrize("query", ["predict", "loss_gradient", "class_gradient", "tensors"])
def test_standardised_images_are_warned_of_once(query, make_classifier, digits):
    classifier = make_classifier()

    def ask(x):
        if query == "predict":
            return classifier.predict(x)
        if query == "class_gradient":
            return classifier.class_gradient(x, 0)
        return classifier.loss_gradient(torch.from_numpy(x) if query == "tensors" else x, digits.y_test[:4])

    x = digits.x_test[:4]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ask(x + np.float32(0.009))
    standardised = (x - np.float32(0.13)) / np.float32(0.31)
    with pytest.warns(PixelRangeWarning, match=r"values from -0.4.*preprocessing=\(mean, std\)"):
        ask(standardised)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ask(standardised)


def test_half_precision_images_and_soft_labels_are_taken(digits, make_classifier):
    half = make_classifier().predict(digits.x_test[:3].astype(np.float16))
    assert half.shape == (3, 10)
    model = make_classifier().model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    classifier = qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=optimizer)
    soft = np.full((64, 10), 0.1, np.float32)
    classifier.fit(digits.x_train[:64], soft, nb_epochs=1)
    assert np.isfinite(classifier.compute_loss(digits.x_train[:4], digits.y_train[:4])).all()


def test_repr_can_be_pasted_back(make_classifier):
    classifier = make_classifier(preprocessing=(0.5, 0.25))
    again = eval(repr(classifier), {"QuantizedClassifier": qadv.QuantizedClassifier})
    assert repr(again) == repr(classifier)
    assert again.model.state_dict().keys() == classifier.model.state_dict().keys()
