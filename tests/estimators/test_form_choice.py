"""A quantized network is folded where it stays the same function; the decision is kept wherever the classifier goes."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import qadv
from qadv.estimators.attacked import AttackedNetwork
from qadv.quantization.batch_norm_folding import FoldedNorm
from qadv.quantization.form import FormOptions

FOLDED = FormOptions(fold_batch_norm=True, channels_last=True)


class Network(nn.Module):
    """A convolution with a BatchNorm, and what comes behind it, given as a function."""

    def __init__(self, end=lambda y: y.mean((2, 3)), channels=1):
        super().__init__()
        self.convolution, self.norm, self.relu = nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
        self.last = nn.Linear(4, 10)
        self.end = end
        nn.init.normal_(self.norm.bias)

    def forward(self, x):
        return self.last(self.end(self.relu(self.norm(self.convolution(x)))))


def classifier_of(network, weights="int:4", **options):
    network = qadv.quantize(network, weights, skip_first_last=False) if weights else network
    shape = (network.convolution.in_channels, 8, 8)
    return qadv.QuantizedClassifier(network, nn.CrossEntropyLoss(), shape, 10, **options)


def test_quantized_networks_are_folded_and_others_and_those_that_are_not_to_be_are_not():
    folded = classifier_of(Network())
    assert folded.model.form_options == FOLDED
    assert any(isinstance(module, FoldedNorm) for module in vars(folded.model)["_form"]._root.modules())
    assert classifier_of(Network(), fold=False).model.form_options == FormOptions()
    assert classifier_of(Network(), weights=None).model.form_options == FormOptions()


def test_without_folding_it_is_the_network_to_the_bit(digits):
    x, y = digits.x_test[:20], digits.y_test[:20]
    network = qadv.quantize(Network(), "int:4", skip_first_last=False).eval()
    plain, folded = classifier_of(network, None, fold=False), classifier_of(network, None)
    own = network(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_array_equal(plain.predict(x), own)
    np.testing.assert_allclose(folded.predict(x), own, rtol=1e-4, atol=1e-5)
    gradient = plain.loss_gradient(x, y)
    np.testing.assert_allclose(folded.loss_gradient(x, y), gradient, atol=1e-4 * np.abs(gradient).max())


def test_memory_that_can_not_lie_otherwise_is_left_as_it_lies():
    network = Network(lambda y: y.view(len(y), -1)[:, :4], channels=3)  # `view` of what lies otherwise is an error
    classifier = classifier_of(network)
    assert classifier.model.form_options == FormOptions(fold_batch_norm=True)
    classifier.predict(np.zeros((2, 3, 8, 8), np.float32))


def test_what_changes_the_function_is_dropped_with_a_word(monkeypatch):
    from qadv.quantization import kept_values

    monkeypatch.setattr(kept_values, "folded", lambda weight, bias, norm: (2 * weight, bias))
    with pytest.warns(UserWarning, match="not the same function with its BatchNorms folded"):
        assert classifier_of(Network()).model.form_options == FormOptions()


def test_folding_may_move_logits_as_rounding_does_and_no_further(monkeypatch):
    from qadv.quantization import kept_values

    def parities(y):
        """Means, and whether the last digits are odd: a step that falls to either side, as in deep networks."""
        return y.mean((2, 3)) + 0.2 * ((2e7 * y).floor() % 2).mean((2, 3)).detach()

    network = qadv.quantize(Network(parities), "int:4", "float", skip_first_last=False)
    assert classifier_of(copy.deepcopy(network), None).model.form_options == FOLDED
    monkeypatch.setattr(kept_values, "folded", lambda weight, bias, norm: (1.5 * weight, bias))
    with pytest.warns(UserWarning, match="not the same function with its BatchNorms folded"):
        assert classifier_of(network, None).model.form_options == FormOptions()


class OfItsType(Network):
    """Is another network for whoever derives from it."""

    def forward(self, x):
        return super().forward(x) * (type(self) is OfItsType)


@pytest.mark.parametrize("fold", [True, False])
def test_a_network_that_is_another_with_modules_standing_in_computes_itself_with_a_word(fold):
    with pytest.warns(UserWarning, match="not the same function with other modules"):
        classifier = classifier_of(OfItsType(), fold=fold)
    x = torch.rand(3, 1, 8, 8)
    for made in (classifier, copy.deepcopy(classifier)):
        assert made.model.form_options == FormOptions(as_it_is=True)
        assert torch.equal(made.model(x), classifier.network(x))


def test_networks_that_are_random_or_give_no_gradient_run_as_they_are_without_a_word():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "the network is not the same function")
        for end in (lambda y: y.mean((2, 3)) + torch.randn(len(y), 4), lambda y: y.mean((2, 3)).detach()):
            state = torch.get_rng_state()
            classifier = classifier_of(Network(end), weights="int:8")
            classifier_again = qadv.QuantizedClassifier(classifier.network, classifier.loss, (1, 8, 8), 10)
            assert classifier.model.form_options == classifier_again.model.form_options == FormOptions()
            torch.set_rng_state(state)


def test_the_choice_leaves_the_random_states_as_they_were():
    network = qadv.quantize(Network(lambda y: y.mean((2, 3)) + torch.randn(len(y), 4)), skip_first_last=False)
    states = []
    for fold in (False, True):
        torch.manual_seed(0)
        classifier_of(network, None, fold=fold)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


@pytest.mark.parametrize("fold", [True, False])
def test_copies_files_and_wrapping_again_share_the_decision(fold, tmp_path, make_classifier, digits, monkeypatch):
    classifier = make_classifier(fold=fold)
    classifier.save(tmp_path / "net.safetensors")
    qadv.export(classifier, tmp_path / "packed.safetensors")
    decided = "qadv.estimators.classifier.choose_form"  # nobody decides again
    monkeypatch.setattr(decided, lambda made, fold: fold and pytest.fail("it is decided already"))
    others = [
        copy.deepcopy(classifier),
        qadv.QuantizedClassifier.load(tmp_path / "net.safetensors"),
        qadv.QuantizedClassifier.load(tmp_path / "packed.safetensors"),
        qadv.QuantizedClassifier(classifier.model, classifier.loss, (1, 8, 8), 10),
    ]
    expected = classifier.predict(digits.x_test[:30])
    for other in others:
        assert other.model.form_options == (FOLDED if fold else FormOptions())
        np.testing.assert_array_equal(other.predict(digits.x_test[:30]), expected)
    unfolded = qadv.QuantizedClassifier.load(tmp_path / "net.safetensors", fold=False)
    assert unfolded.model.form_options == FormOptions()
    assert qadv.QuantizedClassifier(classifier.model, classifier.loss, (1, 8, 8), 10, fold=False).model is not None


def test_an_unfolded_classifier_of_a_folded_ones_module_is_another_module():
    folded = classifier_of(Network())
    unfolded = qadv.QuantizedClassifier(folded.model, folded.loss, (1, 8, 8), 10, fold=False)
    assert unfolded.network is folded.network
    assert unfolded.model is not folded.model
    assert (unfolded.model.form_options, folded.model.form_options) == (FormOptions(), FOLDED)


def test_calibration_images_are_among_those_that_decide(digits, monkeypatch):
    from qadv.estimators import form_choice

    seen = []
    real = form_choice._images
    monkeypatch.setattr(form_choice, "_images", lambda *given: seen.append(real(*given)) or seen[-1])
    options = {"input_shape": (1, 8, 8), "image_size": 8, "width": 4, "preprocessing": (0.5, 0.25)}
    qadv.QuantizedClassifier.from_backbone("mnist-cnn", calibration=digits.x_train[:32], **options)
    (batch,) = seen
    np.testing.assert_allclose(batch[-4:].numpy(), (digits.x_train[:4] - 0.5) / 0.25, rtol=1e-6)
    assert batch[:4].min() >= -2
    assert batch[:4].max() <= 2
    assert len(batch) == 8


def test_ensembles_are_folded_with_their_members_and_share_the_decision(make_classifier, digits):
    schemes = [("int:2", "relu6:4"), ("int:4", "relu6:4"), ("float", "float")]
    members = [make_classifier(*pair, seed=seed) for seed, pair in enumerate(schemes)]
    ensemble = qadv.EnsembleClassifier.of(members)
    assert ensemble.model.form_options == FOLDED
    assert all(member.model.form_options == FOLDED for member in ensemble.members)
    assert ensemble.combined_by("vote").model.form_options == FOLDED
    x = digits.x_test[:10]
    np.testing.assert_allclose(ensemble.member_logits(x).mean(0), ensemble.predict(x), rtol=1e-5, atol=1e-6)


def test_layers_of_the_network_can_be_asked_for(digits):
    classifier = classifier_of(Network())
    x = digits.x_test[:5]
    for name in ("convolution", "norm", "relu", "last"):
        module, seen = classifier.network.get_submodule(name), []
        handle = module.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output.detach()))
        classifier.network(torch.from_numpy(x))
        handle.remove()
        np.testing.assert_allclose(classifier.get_activations(x, name), seen[0].numpy(), rtol=1e-5, atol=1e-6)


def test_a_network_that_holds_another_classifiers_module_is_computed_as_one():
    inner = classifier_of(Network())

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner.model

        def forward(self, x):
            return self.inner(x)[:, :5]

    outer = AttackedNetwork(Outer().eval(), FOLDED)
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(outer(x), inner.model.eval()(x)[:, :5])
