"""`quantize` on the networks people have: nothing is left over in silence, nothing else is changed."""

import copy

import brevitas.nn as qnn
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import qadv
from qadv.errors import InvalidInputError, SchemeError, UnsupportedModelError
from qadv.quantization.layers import QuantActivation, QuantConv2d, QuantLinear


def small():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(4 * 8 * 8, 5),
    )  # fmt: skip


def kinds(model):
    quantized = (QuantActivation, QuantConv2d, QuantLinear)
    return {name: type(module).__name__ for name, module in model.named_modules() if isinstance(module, quantized)}


@pytest.mark.parametrize(
    ("name", "side", "own_inputs"),
    [
        ("timm/resnet18", 32, 0),
        ("timm/resnet50", 32, 0),
        ("timm/mobilenetv2_100", 32, 17),
        ("timm/convnext_tiny", 32, "all"),
        ("timm/vit_tiny_patch16_224", 224, "all"),
        ("timm/tf_efficientnet_lite0", 32, 16),
        ("timm/vgg16_bn", 32, 1),  # its head pools small images to the mean
        ("resnet20", 32, 0),
        ("wide-resnet", 32, 0),
        ("vgg16", 32, 0),
        ("lowbit-convnet", 32, 0),
    ],
)
@pytest.mark.filterwarnings("ignore:.*clipped at ±:UserWarning")
def test_backbones_are_quantized_throughout(name, side, own_inputs):
    from qadv.backbones import create_backbone

    options = {"wide-resnet": {"depth": 10, "width": 2}, "timm/vgg16_bn": {"mlp_ratio": 1 / 64}}.get(name, {})
    model = create_backbone(name, nb_classes=10, **options).eval()
    result = qadv.quantize(model, weights="int:8", activations="relu6:8")
    floats = [
        n for n, m in result.named_modules()
        if isinstance(m, nn.Conv2d | nn.Linear) and not isinstance(m, QuantConv2d | QuantLinear)
    ]  # fmt: skip
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert floats == [layers[0], layers[-1]]
    assert not any(isinstance(m, nn.ReLU | nn.ReLU6) for m in result.modules())
    quantized_inputs = [m for m in result.modules() if getattr(m, "input_quantizer", None) is not None]
    assert len(quantized_inputs) == (len(layers) - 2 if own_inputs == "all" else own_inputs)
    relus = [m for m in model.modules() if isinstance(m, nn.ReLU | nn.ReLU6)]
    assert sum(isinstance(m, QuantActivation) for m in result.modules()) == len(relus)
    assert result.state_dict().keys() == model.state_dict().keys()
    x = torch.rand(2, 3, side, side, requires_grad=True)
    result(x).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().sum() > 0


def test_the_original_is_untouched_and_the_weights_are_kept():
    model = small().eval()
    before = copy.deepcopy(model.state_dict())
    result = qadv.quantize(model)
    assert [type(m) for m in model] == [type(m) for m in small()]
    for key, tensor in result.state_dict().items():
        assert torch.equal(tensor, before[key])
        assert tensor.data_ptr() != model.state_dict()[key].data_ptr()
    assert not result.training
    assert qadv.quantize(model.train()).training


def test_quantizing_does_not_touch_the_random_state():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    model = small()
    torch.manual_seed(1)
    qadv.quantize(model)
    assert torch.equal(torch.rand(1), expected)


def test_first_and_last_layer_stay_float_unless_told_otherwise():
    assert kinds(qadv.quantize(small())) == {"2": "QuantActivation", "3": "QuantConv2d", "4": "QuantActivation"}
    everything = kinds(qadv.quantize(small(), skip_first_last=False))
    assert everything["0"] == "QuantConv2d"
    assert everything["6"] == "QuantLinear"


def test_weights_only_and_activations_only():
    assert kinds(qadv.quantize(small(), activations="float")) == {"3": "QuantConv2d"}
    assert set(kinds(qadv.quantize(small(), weights="float")).values()) == {"QuantActivation"}
    assert kinds(qadv.quantize(small(), "float", "float")) == {}


def test_schemes_by_layer_name():
    result = qadv.quantize(small(), weights={"*": "int:4", "3": "twn", "6": "int:8"}, activations={"4": "relu1:2"})
    assert result[3].weight_quantizer.spec == "twn"
    assert result[6].weight_quantizer.spec == "int:8"
    assert isinstance(result[0], nn.Conv2d)
    assert not isinstance(result[0], QuantConv2d)
    assert isinstance(result[2], nn.ReLU)
    assert result[4].quantizer.spec == "relu1:2"
    with pytest.raises(InvalidInputError, match=r"pattern 'layer9\.\*' matches no layer"):
        qadv.quantize(small(), weights={"layer9.*": "int:4"})


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.conv3 = nn.Conv2d(4, 4, 3, padding=1)
        self.linear = nn.Linear(4 * 8 * 8, 5)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = torch.relu(self.conv2(x))
        x = self.conv3(x).relu()
        x = F.dropout(x, 0.5, training=self.training)
        return self.linear(x.flatten(1))


class Outer(nn.Module):
    """Control flow out here, which fx can't trace, does not matter."""

    def __init__(self):
        super().__init__()
        self.inner = Functional()
        self.same = self.inner

    def forward(self, x):
        return self.inner(x) if x.sum() > 0 else self.same(x)


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.c(self.b(F.relu(self.a(x)) if x.sum() > 0 else x))


class TwoFaced(Untraceable):
    def forward(self, x):
        x = F.relu(self.a(x))
        return self.c(self.b(x * 2 if self.training else x))


@pytest.mark.parametrize("make", [Functional, Outer])
def test_functional_relus_are_found(make):
    model = make().eval()
    result = qadv.quantize(model, weights="float", activations="relu6:8")
    assert sum(isinstance(m, QuantActivation) for m in result.modules()) == 3
    x = torch.rand(4, 3, 8, 8)
    torch.testing.assert_close(result(x), model(x), atol=0.05, rtol=0.05)
    assert not torch.equal(result(x), model(x))
    assert torch.equal(result(x), result(x))
    result.train()
    assert not torch.equal(result(x), result(x)), "dropout follows train() and eval()"
    assert result.state_dict().keys() == model.state_dict().keys()


def test_functional_relus_that_cannot_be_traced_are_refused():
    with pytest.raises(UnsupportedModelError, match=r"Untraceable calls a functional ReLU and can't be traced"):
        qadv.quantize(Untraceable())
    with pytest.raises(UnsupportedModelError, match="behaves differently in training mode"):
        qadv.quantize(TwoFaced())
    qadv.quantize(Untraceable(), activations="float")


def test_one_relu_registered_under_two_names_is_swapped_under_both():
    relu = nn.ReLU()
    model = nn.Sequential(nn.Linear(3, 3), relu, nn.Linear(3, 3), relu, nn.Linear(3, 2))
    result = qadv.quantize(model)
    assert isinstance(result[1], QuantActivation)
    assert result[1] is result[3]


def test_tied_weights_stay_tied():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    model[2].weight = model[1].weight
    result = qadv.quantize(model)
    assert result[1].weight is result[2].weight
    assert result[1].weight is not model[1].weight


class OwnConv(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) * 2


def test_layers_that_would_stay_float_in_silence_are_refused():
    odd = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), OwnConv(4, 4, 3), nn.ConvTranspose2d(4, 4, 3), nn.Conv2d(4, 2, 3)
    )
    with pytest.raises(UnsupportedModelError, match=r"2 \(OwnConv\), 3 \(ConvTranspose2d\)"):
        qadv.quantize(odd)
    allowed = qadv.quantize(odd, weights={"*": "int:4", "2": "float", "3": "float"}, skip_first_last=False)
    assert kinds(allowed) == {"0": "QuantConv2d", "1": "QuantActivation", "4": "QuantConv2d"}
    for part in (nn.TransformerEncoderLayer(4, 1, 8), nn.MultiheadAttention(4, 1)):
        with pytest.raises(UnsupportedModelError, match=rf"1 \({type(part).__name__}\)"):
            qadv.quantize(nn.Sequential(nn.Linear(4, 4), part, nn.Linear(4, 2)), activations="float")
    weight_normed = nn.Sequential(
        nn.Linear(3, 3), nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), nn.Linear(3, 3)
    )
    with pytest.raises(UnsupportedModelError, match="ParametrizedLinear"):
        qadv.quantize(weight_normed, activations="float")


class Standardised(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight - weight.mean(), bias)


class Scaled(nn.Linear):
    def __call__(self, x):
        return 5 * super().__call__(x)


def on_the_object(module, name):
    setattr(module, name, lambda *args: -getattr(type(module), name)(module, *args))
    return module


@pytest.mark.parametrize(
    "layer",
    [
        Standardised(4, 4, 1),
        on_the_object(nn.Conv2d(4, 4, 1), "forward"),
        on_the_object(nn.Conv2d(4, 4, 1), "_conv_forward"),
        Scaled(4, 4),
    ],
)
def test_a_layer_that_computes_otherwise_is_no_plain_one(layer):
    with pytest.raises(UnsupportedModelError, match=r"silently stay in full precision: 1"):
        qadv.quantize(nn.Sequential(nn.Conv2d(3, 4, 3), layer, nn.Conv2d(4, 2, 3)), activations="float")
    odd = nn.Sequential(
        nn.Linear(3, 3), on_the_object(nn.ReLU(), "forward"), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)
    )
    quantized = qadv.quantize(odd, "float", "relu6:4")
    assert kinds(quantized) == {"2": "QuantLinear", "3": "QuantActivation"}
    assert quantized[2].input_quantizer.signed  # whatever a ReLU with a forward of its own gives
    same = on_the_object(timm.layers.Conv2dSame(4, 4, 3), "forward")
    with pytest.raises(UnsupportedModelError, match="Conv2dSame"):
        qadv.quantize(nn.Sequential(nn.Conv2d(3, 4, 3), same, nn.Conv2d(4, 2, 3)), activations="float")


def test_same_padding_is_kept():
    import timm.layers

    model = nn.Sequential(nn.Conv2d(3, 3, 1), timm.layers.Conv2dSame(3, 4, 3, stride=2), nn.Conv2d(4, 2, 1)).eval()
    result = qadv.quantize(model, weights="int:8", activations="float")
    x = torch.rand(1, 3, 9, 9)
    assert result(x).shape == model(x).shape == (1, 2, 5, 5)
    torch.testing.assert_close(result(x), model(x), atol=0.02, rtol=0.02)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2, bias=False, padding_mode="reflect"),
        nn.Conv2d(4, 6, (1, 3), padding="same"),
    ],
)
def test_a_layers_geometry_is_kept(layer):
    model = nn.Sequential(nn.Conv2d(4, 4, 1), layer, nn.Conv2d(6, 2, 1))
    x = torch.rand(2, 4, 11, 11)
    eight = qadv.quantize(model, weights="int:8", activations="float")
    torch.testing.assert_close(eight(x), model(x), atol=0.02, rtol=0.05)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Flatten()), "nothing to quantize in Sequential"),
        (nn.Sequential(nn.Linear(3, 3), nn.GELU(), nn.Linear(3, 2)), "skip_first_last=False quantizes the first"),
    ],
)
def test_nothing_to_quantize_is_an_error(model, message):
    with pytest.raises(UnsupportedModelError, match=message):
        qadv.quantize(model)


def test_other_wrong_arguments():
    with pytest.raises(InvalidInputError, match=r"expected a torch\.nn\.Module, got str"):
        qadv.quantize("resnet18")
    with pytest.raises(InvalidInputError, match="quantized already"):
        qadv.quantize(qadv.quantize(small()))
    with pytest.raises(SchemeError):
        qadv.quantize(small(), weights="int:12")


def test_a_single_layer_is_quantized_too():
    result = qadv.quantize(nn.Linear(3, 2), activations="float", skip_first_last=False)
    assert isinstance(result, QuantLinear)


def test_copies_and_state_dicts_keep_their_quantizers():
    result = qadv.quantize(small().eval(), weights="twn")
    twin = copy.deepcopy(result)
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(result(x), twin(x))
    before = twin[3].weight_quantizer
    assert before is not result[3].weight_quantizer
    twin.load_state_dict(result.state_dict())
    assert twin[3].weight_quantizer is before
    with torch.no_grad():
        twin[3].weight.mul_(-1)
    assert not torch.equal(result(x), twin(x))


def test_layers_of_another_toolkit_are_named_and_can_be_left_alone():
    model = nn.Sequential(nn.Flatten(), qnn.QuantLinear(16, 8, bias=True, weight_bit_width=4), nn.Linear(8, 4))
    with pytest.raises(UnsupportedModelError, match=r"already, by brevitas: 1 \(QuantLinear\).*'1': 'float'"):
        qadv.quantize(model, "int:4", "float", skip_first_last=False)
    quantized = qadv.quantize(model, {"2": "int:3"}, "float")
    assert isinstance(quantized[2], QuantLinear)
    assert not isinstance(quantized[1], QuantLinear)


@pytest.mark.parametrize("name", ["beit_base_patch16_224", "eva02_tiny_patch14_224"])
def test_attention_that_calls_linear_as_a_function_is_converted(name):
    side = 28 if "eva" in name else 32
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=5, img_size=side, embed_dim=48, depth=1, num_heads=3).eval()
    with torch.no_grad():
        for bias in (model.blocks[0].attn.q_bias, model.blocks[0].attn.v_bias):
            bias.normal_()
    x = torch.rand(2, 3, side, side)
    quantized = qadv.quantize(model, "int:8", "float", skip_first_last=False).eval()
    assert isinstance(quantized.blocks[0].attn.qkv, QuantLinear)
    assert not model.blocks[0].attn.qkv_bias_separate
    assert torch.allclose(quantized(x), model(x), atol=0.05 * float(model(x).abs().max()))
    qadv.QuantizedClassifier(quantized, nn.CrossEntropyLoss(), (3, side, side), 5, preprocessing=(0, 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(dtype):
    half = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).to(dtype)
    with pytest.raises(InvalidInputError, match=rf"expected float32 parameters, got {str(dtype)[6:]}; write model"):
        qadv.quantize(half, "int:4", "relu6:4")
