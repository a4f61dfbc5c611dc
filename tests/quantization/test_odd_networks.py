"""Networks written in ways that a swap of modules does not see."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

import qadv
from qadv.errors import InvalidInputError, UnsupportedModelError
from qadv.quantization.layers import QuantActivation


class Net(nn.Module):
    """Three layers; subclasses say how they are used."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)


class InHelper(Net):
    def head(self, x):
        return F.relu(self.b(x))

    def forward(self, x):
        return self.c(self.head(F.relu(self.a(x))))


class Inherited(InHelper):
    pass


class Held(Net):
    def __init__(self):
        super().__init__()
        self.act = F.relu

    def forward(self, x):
        return self.c(self.act(self.b(self.act(self.a(x)))))


class InPlace(Net):
    def forward(self, x):
        x = self.a(x)
        F.relu(x, inplace=True)
        x = self.b(x)
        x.relu_()
        return self.c(x)


class InPlaceReused(Net):
    def forward(self, x):
        x = self.a(x)
        y = F.relu_(x)
        return self.c(F.relu(self.b(y)) + x)


class OptionalMask(Net):
    def forward(self, x, mask=None):
        x = F.relu(self.a(x))
        if mask is not None:
            x = x * mask
        return self.c(F.relu(self.b(x)))


class Blocks(Net):
    """A functional ReLU in the parent, in its list of blocks, and one block under two names."""

    def __init__(self):
        super().__init__()
        block = InHelperBlock()
        self.blocks = nn.ModuleList([InHelperBlock(), block])
        self.again = block

    def forward(self, x):
        x = F.relu(self.a(x))
        for block in self.blocks:
            x = block(x)
        return self.c(self.again(x))


class InHelperBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x):
        return F.relu(self.linear(x))


@pytest.mark.parametrize(
    ("make", "relus"),
    [(InHelper, 2), (Inherited, 2), (Held, 2), (InPlace, 2), (InPlaceReused, 2), (OptionalMask, 2), (Blocks, 3)],
)
def test_every_functional_relu_is_quantized_and_the_function_is_kept(make, relus):
    model = make().eval()
    x = torch.rand(64, 6) * 2 - 1
    expected = model(x)
    fine = qadv.quantize(model, weights="float", activations="relu6:8")
    assert sum(isinstance(module, QuantActivation) for module in fine.modules()) == relus
    torch.testing.assert_close(fine(x), expected, atol=0.03, rtol=0.03)
    assert not torch.equal(fine(x), expected)
    assert torch.equal(model(x), expected), "the original is untouched"


def test_a_rewritten_network_keeps_all_it_had(tmp_path):
    model = Inherited().eval()
    model.unused = nn.Linear(2, 2)
    model.note = "mine"
    seen = []
    model.register_forward_hook(lambda *_: seen.append(1))
    result = qadv.quantize(model, weights="bwn", activations="relu1:4", skip_first_last=False)
    assert type(result) is Inherited
    assert result.note == "mine"
    assert result.state_dict().keys() == model.state_dict().keys()
    result(torch.rand(2, 6))
    assert seen == [1]

    twin = copy.deepcopy(result)
    assert twin.qadv_quantization == result.qadv_quantization
    with torch.no_grad():
        twin.a.weight.mul_(-1)
    x = torch.rand(5, 6)
    assert not torch.equal(twin(x), result(x)), "the copy's forward uses the copy's layers"
    classifier = qadv.QuantizedClassifier(twin, nn.CrossEntropyLoss(), (6,), 4)
    classifier.save(tmp_path / "net.safetensors")
    again = qadv.QuantizedClassifier.load(tmp_path / "net.safetensors", model=_like(model))
    assert (again.predict(x.numpy()) == classifier.predict(x.numpy())).all()


def _like(model):
    return copy.deepcopy(model)


class AlwaysDropping(Net):
    def forward(self, x):
        return self.c(F.dropout(F.relu(self.b(self.a(x))), 0.5))


def test_dropout_that_is_always_on_stays_on():
    torch.manual_seed(0)
    result = qadv.quantize(AlwaysDropping().eval())
    x = torch.rand(8, 6)
    assert not torch.equal(result(x), result(x))


class ReadsChangedInput(Net):
    def __init__(self, inplace=True):
        super().__init__()
        self.relu = nn.ReLU(inplace=inplace)

    def forward(self, x):
        x = self.a(x)
        kept = x
        return self.c(self.b(self.relu(x)) + kept)


class FunctionalLinear(Net):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.c(self.relu(F.linear(self.a(x), self.b.weight)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (ReadsChangedInput, r"reads a tensor after nn.ReLU\(inplace=True\) changed it"),
        (FunctionalLinear, "calls linear as a function"),
    ],
)
def test_what_conversion_cannot_see_is_reported_when_the_classifier_is_made(make, message):
    quantized = qadv.quantize(make())
    with pytest.raises(UnsupportedModelError, match=message):
        qadv.QuantizedClassifier(quantized, nn.CrossEntropyLoss(), (6,), 4)
    assert qadv.QuantizedClassifier(make(), nn.CrossEntropyLoss(), (6,), 4), "the float network is fine"


def test_ordinary_networks_pass_the_same_check():
    qadv.QuantizedClassifier(qadv.quantize(ReadsChangedInput(inplace=False)), nn.CrossEntropyLoss(), (6,), 4)
    for name in ("resnet18", "mobilenetv2_100", "convnext_tiny", "efficientnet_b0"):
        qadv.QuantizedClassifier.from_backbone(f"timm/{name}", weights="int:8", activations="relu6:8")


class Leaky(nn.ReLU):
    def forward(self, x):
        return torch.where(x > 0, x, 0.1 * x)


def test_what_is_a_relu():
    model = nn.Sequential(
        nn.Linear(2, 2), nn.ReLU(), Leaky(), nn.ReLU6(), nn.Hardtanh(0, 4), nn.Hardtanh(-1, 1), nn.Linear(2, 2)
    )
    result = qadv.quantize(model, weights="float")
    assert [isinstance(module, QuantActivation) for module in result] == [False, True, False, True, True, False, False]


def test_hooks_of_replaced_layers_stay():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    model[1].register_forward_hook(lambda module, inputs, output: output * 100)
    x = torch.rand(4, 3)
    torch.testing.assert_close(qadv.quantize(model, "int:8", "float")(x), model(x), atol=1, rtol=0.05)


def test_hooks_of_a_network_that_is_one_layer_stay():
    layer, x = nn.Linear(4, 3), torch.rand(2, 4)
    bare = qadv.quantize(layer, "int:8", "float", skip_first_last=False)
    layer.register_forward_hook(lambda module, inputs, output: output * 100)
    hooked = qadv.quantize(layer, "int:8", "float", skip_first_last=False)
    assert torch.equal(hooked(x), bare(x) * 100)


def test_networks_that_cannot_be_copied_or_have_bad_weights_are_refused():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    model.kept = torch.ones(1, requires_grad=True) * 2
    with pytest.raises(UnsupportedModelError, match="can't be copied"):
        qadv.quantize(model)
    for grad in (True, False):
        model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
        prune.l1_unstructured(model[0], "weight", 0.5)
        with torch.set_grad_enabled(grad):
            model(torch.rand(2, 3))
        said = (
            r"can't be copied.*remove pruning" if grad else r"0: its weight and bias are no parameters.*prune\.remove"
        )
        with pytest.raises(UnsupportedModelError, match=said):
            qadv.quantize(model, skip_first_last=False)
    qadv.quantize(model)  # what stays float may be anything
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[2].weight[0, 0] = float("inf")
    with pytest.raises(InvalidInputError, match=r"NaN or infinite values in 2\.weight"):
        qadv.quantize(model)
    with pytest.raises(InvalidInputError, match="quantized already"):
        qadv.quantize(nn.Sequential(qadv.quantize(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)))))


@pytest.mark.parametrize("weights", [None, ["int:4"], {}, 4])
def test_schemes_of_a_wrong_type_are_refused(weights):
    from qadv.errors import SchemeError

    with pytest.raises(SchemeError, match="expected a scheme"):
        qadv.quantize(nn.Sequential(nn.Linear(3, 3)), weights=weights)


def test_frozen_modules_keep_their_mode():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 10))
    model[1].eval()
    qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10)
    assert model.training
    assert not model[1].training
