"""One BatchNorm for each precision: which one works, learns, and is saved."""

import copy

import pytest
import torch
from qadv_double_win.precision import set_precision
from qadv_double_win.switchable_norm import SwitchableNorm, switch_norms, switchable_norm
from torch import nn

import qadv
from qadv.errors import InvalidInputError


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def test_only_the_norm_of_the_present_precision_is_touched_by_training():
    model = switch_norms(net(), (4, 8))
    norms = model[1].norms
    before = copy.deepcopy(norms.state_dict())
    set_precision(model, 4)
    model(torch.rand(6, 1, 8, 8)).sum().backward()
    assert norms[0].weight.grad is not None
    assert norms[1].weight.grad is None
    assert norms[0].num_batches_tracked == 1
    assert all(torch.equal(before[f"1.{name}"], value) for name, value in norms[1].state_dict().items())


def test_each_precision_has_statistics_of_its_own():
    model = switch_norms(net(), (4, 8))
    x = torch.rand(6, 1, 8, 8)
    for bits, shift in ((4, 0.0), (8, 5.0)):
        set_precision(model, bits)
        for _ in range(60):
            model(x + shift)
    means = [norm.running_mean for norm in model[1].norms]
    reference = net()
    for _ in range(60):
        reference(x)
    assert torch.equal(means[0], reference[1].running_mean)  # as if it were alone
    assert (means[0] - means[1]).abs().min() > 0.1


def test_it_starts_as_the_network_that_it_was_made_from():
    x = torch.rand(6, 1, 8, 8)
    expected = net().eval()(x)
    model = switch_norms(net(), (4, 5, 8)).eval()
    for bits in (4, 5, 8):
        set_precision(model, bits)
        assert torch.equal(model(x), expected)


def test_a_norm_with_two_names_stays_one():
    model = net()
    model.again = model[1]
    switch_norms(model, (4, 8))
    assert model.again is model[1]
    assert isinstance(model[1], SwitchableNorm)


def test_a_precision_without_a_norm_is_refused():
    classifier = qadv.QuantizedClassifier.from_backbone(
        "switchable-norm", "switchable:8", "switchable:8", input_shape=(1, 8, 8), backbone="mnist-cnn",
        precisions=[4, 8], image_size=8, width=4, device_type="cpu",
    )  # fmt: skip
    with pytest.raises(InvalidInputError, match="SwitchableNorm has 4, 8 bits, got 5"):
        set_precision(classifier, 5)
    assert "precisions=(4, 8), precision=8" in repr(classifier.model)


def test_networks_that_it_does_not_fit_are_refused():
    with pytest.raises(InvalidInputError, match="no BatchNorm"):
        switch_norms(nn.Sequential(nn.Linear(2, 2)), (4, 8))
    with pytest.raises(InvalidInputError, match="already"):
        switch_norms(switch_norms(net(), (4, 8)), (4, 8))
    with pytest.raises(InvalidInputError, match="backbone: expected"):
        switchable_norm(backbone=3)  # type: ignore[arg-type]


def test_a_timm_backbone_whose_norms_hold_activations_is_quantized_and_switched():
    model = switchable_norm(10, 3, "timm/efficientnet_lite0", precisions=(4, 8))
    quantized = qadv.quantize(model, "switchable:8", "switchable:8").eval()
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        logits = [quantized(x) for bits in (4, 8) if set_precision(quantized, bits)]
    assert all(bool(each.isfinite().all()) for each in logits)
    assert not torch.equal(*logits)
