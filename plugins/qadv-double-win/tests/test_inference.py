"""What is deployed: one precision as an ordinary network, or one drawn for each image."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from art.attacks.evasion import ProjectedGradientDescent
from qadv_double_win.inference import RandomMember, at_precision, precision_classifiers, random_precision
from qadv_double_win.precision import set_precision
from qadv_double_win.switchable_norm import switch_norms
from torch import nn

import qadv
from qadv.errors import InvalidInputError
from qadv.testing import digits_classifier

DATA = qadv.create("dataset", "digits")
X, Y = DATA.x_test[:40], DATA.y_test[:40]


@pytest.fixture(scope="module")
def trained() -> Any:
    torch.manual_seed(0)
    classifier = qadv.QuantizedClassifier.from_backbone(
        "switchable-norm", {"*": "switchable:12", "0": "int:8"}, "switchable:12", input_shape=(1, 8, 8),
        backbone="mnist-cnn", precisions=[3, 8, 12], image_size=8, width=4, device_type="cpu",
        preprocessing=(0.3, 0.5),
    )  # fmt: skip
    trainer = qadv.create("trainer", "double-win", classifier, (3, 8, 12), eps=0.05, max_iter=1, lr=0.05, verbose=False)
    trainer.fit(DATA.x_train[:400], DATA.y_train[:400], nb_epochs=4, batch_size=32)
    return classifier


def unfolded(classifier):
    """The same to the bit: of 4,096 levels one may lie on the other side of a rounding with BatchNorms folded."""
    return qadv.QuantizedClassifier(
        classifier.network, classifier.loss, (1, 8, 8), 10, device_type="cpu", preprocessing=(0.3, 0.5), fold=False
    )


@pytest.mark.parametrize("bits", [3, 8, 12])
def test_what_is_deployed_answers_as_the_switchable_network_does(trained, bits):
    set_precision(trained, bits)
    expected = trained.predict(X), trained.loss_gradient(X, Y)
    set_precision(trained, 12)
    deployed = unfolded(at_precision(trained, bits))
    np.testing.assert_array_equal(deployed.predict(X), expected[0])
    np.testing.assert_allclose(deployed.loss_gradient(X, Y), expected[1], atol=1e-6)
    assert not trained.model.training


def test_up_to_8_bits_the_plugin_is_not_needed_any_more(trained, tmp_path):
    deployed = at_precision(trained, 3)
    used = {type(module).__module__.partition(".")[0] for module in deployed.model.modules()}
    assert used <= {"torch", "brevitas", "qadv"}
    assert deployed.model.qadv_quantization["weights"] == {"*": "int:3", "0": "int:8"}
    assert deployed.model.qadv_backbone["name"] == "mnist-cnn"
    for write, file in ((deployed.save, "whole"), (lambda path: qadv.export(deployed, path), "packed")):
        write(tmp_path / file)
        loaded = qadv.QuantizedClassifier.load(tmp_path / file, device_type="cpu")
        np.testing.assert_array_equal(loaded.predict(X), deployed.predict(X))


def test_its_weights_are_a_copy(trained):
    deployed = at_precision(trained, 8)
    before = deployed.predict(X)
    with torch.no_grad():
        trained.model[0].weight.add_(1.0)
    try:
        np.testing.assert_array_equal(deployed.predict(X), before)
    finally:
        with torch.no_grad():
            trained.model[0].weight.sub_(1.0)


def test_a_network_of_ones_own_is_deployed_from_its_float_form():
    def net() -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))

    quantized = qadv.quantize(switch_norms(net(), (4, 8)), "switchable:8", "switchable:8", skip_first_last=False)
    classifier = qadv.QuantizedClassifier(quantized.eval(), nn.CrossEntropyLoss(), (1, 8, 8), 10, device_type="cpu")
    with pytest.raises(InvalidInputError, match="model=net"):
        at_precision(classifier, 4)
    deployed = at_precision(classifier, 4, model=net())
    set_precision(classifier, 4)
    np.testing.assert_array_equal(deployed.predict(X), classifier.predict(X))


def test_defences_loss_and_range_go_along():
    classifier = digits_classifier(
        "switchable:8",
        "switchable:8",
        clip_values=(0.0, 1.5),
        loss=nn.CrossEntropyLoss(label_smoothing=0.1),
        preprocessing_defences=[qadv.MedianSmoothing(2)],
        probabilities=True,
    )
    deployed, drawn = at_precision(classifier, 8), random_precision(classifier, (8,))
    for each in (deployed, drawn):
        np.testing.assert_allclose(each.predict(X), classifier.predict(X), atol=1e-6)
        assert each.clip_values == (0.0, 1.5)
        assert each.loss is classifier.loss


def test_precisions_that_it_does_not_have_are_refused(trained):
    for bits in (4, 2, "8"):
        with pytest.raises(InvalidInputError, match="bits, got"):
            at_precision(trained, bits)
    with pytest.raises(InvalidInputError, match="switchable"):
        at_precision(digits_classifier(), 4)


class Constant(nn.Module):
    """Logits that say which network they come from, and which image."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x.flatten(1).sum(1), torch.full((len(x),), float(self.number))], dim=1)


def test_each_image_meets_one_network_and_keeps_its_place():
    network = RandomMember([Constant(0), Constant(1), Constant(2)])
    x = torch.arange(3000.0).reshape(3000, 1, 1, 1)
    torch.manual_seed(0)
    out = network(x)
    assert torch.equal(out[:, 0], x.flatten())
    counts = np.bincount(out[:, 1].int().numpy(), minlength=3)
    assert ((counts - 1000) ** 2 / 1000).sum() < 13.8  # χ², 2 degrees of freedom, once in a thousand
    assert not torch.equal(network(x)[:, 1], out[:, 1])
    torch.manual_seed(0)
    assert torch.equal(network(x), out)


def test_random_precision_gives_the_logits_of_one_of_its_precisions_and_is_attacked(trained):
    members = precision_classifiers(trained, (3, 8, 12))
    assert list(members) == ["3 bit", "8 bit", "12 bit"]
    drawn = random_precision(trained, (3, 8, 12))
    own = np.stack([unfolded(member).predict(X) for member in members.values()])
    answers = np.stack([drawn.predict(X) for _ in range(6)])
    apart = np.abs(answers[:, None] - own).max(-1)  # (passes, members, images)
    assert apart.min(1).max() < 1e-5
    assert len(np.unique(apart.argmin(1))) == 3
    attack = ProjectedGradientDescent(drawn, eps=0.1, eps_step=0.03, max_iter=5, verbose=False)
    adversarial = attack.generate(X, np.eye(10, dtype=np.float32)[Y])
    assert (drawn.predict(adversarial).argmax(1) == Y).mean() < (drawn.predict(X).argmax(1) == Y).mean()


def test_qadv_takes_the_precisions_for_a_transfer_matrix_and_an_ensemble(trained):
    members = precision_classifiers(trained, (3, 8))
    matrix = qadv.transfer_matrix(members, X, Y, {"FGSM": lambda c: qadv.RandomFGSM(c, eps=0.1)})
    assert matrix.accuracy.shape == (1, 2, 2)
    ensemble = qadv.EnsembleClassifier.of(list(members.values()))
    np.testing.assert_allclose(
        ensemble.predict(X), np.mean([m.predict(X) for m in members.values()], axis=0), atol=1e-5
    )


def test_a_network_that_was_changed_since_it_was_made_is_not_made_again_by_name(trained):
    changed = copy.deepcopy(trained)
    changed.model.append(nn.Softsign())
    with pytest.raises(InvalidInputError, match=r"changed since.*model=net"):
        at_precision(changed, 8)
