"""Attention and gates in integers: what is quantized, by hand, in timm's modules, and what is refused."""

import copy
import pickle

import numpy as np
import pytest
import torch
from timm.layers import SqueezeExcite
from timm.models import (
    efficientformer,
    efficientformer_v2,
    fastvit,
    levit,
    maxxvit,
    mobilevit,
    swin_transformer,
    vision_transformer,
    xcit,
)
from torch import nn

import qadv
from qadv.errors import InvalidInputError, SchemeError, UnsupportedModelError
from qadv.frontends import quantizers
from qadv.frontends.other_backward import SURROGATES, other_backward
from qadv.quantization.attention import has_products
from qadv.quantization.uniform import IntOperands


class Attention(nn.Module):
    """One head of attention, by torch's fused kernel or step by step."""

    def __init__(self, fused=True):
        super().__init__()
        self.qkv, self.fused = nn.Linear(6, 18), fused

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if self.fused:
            return nn.functional.scaled_dot_product_attention(q, k, v)
        return (q @ k.transpose(-2, -1) / 6**0.5).softmax(-1) @ v


class Net(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.attention, self.head = attention, nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.attention(x.flatten(1).reshape(-1, 4, 6)).mean(1))


def net(fused=True, seed=0):
    torch.manual_seed(seed)
    return Net(Attention(fused)).eval()


def images(n=5):
    return torch.rand(n, 1, 4, 6, generator=torch.Generator().manual_seed(1))


def rounded(x, largest_code):
    """An image at a time, by the definition."""
    return torch.stack([(each / (s := each.abs().max() / largest_code)).round() * s for each in x])


def by_hand(x, bits):
    q, k, v = (rounded(each, 2 ** (bits - 1) - 1) for each in x.chunk(3, dim=-1))
    return rounded((q @ k.transpose(-2, -1) / 6**0.5).softmax(-1), 2**bits - 1) @ v


@pytest.mark.parametrize("fused", [True, False])
def test_operands_and_softmax_are_rounded_for_each_image(fused):
    for bits in (8, 3):
        model = net(fused)
        quantized = qadv.quantize(model, "float", "float", attention=f"int:{bits}")
        x = images().reshape(-1, 4, 6)
        with torch.no_grad():
            expected = by_hand(model.attention.qkv(x), bits)
            found = quantized.attention(x)
            assert torch.allclose(found, expected, atol=1e-6)
            assert not torch.allclose(found, model.attention(x), atol=1e-6)
            assert torch.allclose(quantized.attention(x[:1]), found[:1], atol=1e-6)


def test_gradients_go_straight_through():
    """A coarse rounding has about the values' own gradient, at the rounded operands."""
    model, x = net(), images()
    quantized = qadv.quantize(model, "float", "float", attention="int:8").train()
    loss = nn.functional.cross_entropy(quantized(x), torch.arange(5) % 3)
    own = nn.functional.cross_entropy(model(x), torch.arange(5) % 3)
    for parameter, other in zip(quantized.parameters(), model.parameters(), strict=True):
        found, expected = (
            torch.autograd.grad(a, b, retain_graph=True)[0] for a, b in ((loss, parameter), (own, other))
        )
        assert torch.allclose(found, expected, atol=0.02 * float(expected.abs().max()) + 1e-4)
        assert found.abs().max() > 0


def se():
    return SqueezeExcite(8, rd_channels=2)


# each with the shape of its input, and how many tensors are rounded: operands, softmax, gates
MODULES = {
    "deit3": (lambda: vision_transformer.Attention(8, 2), (2, 5, 8), 4),
    "xcit": (lambda: xcit.XCA(8, 2), (2, 5, 8), 4),
    "xcit, class": (lambda: xcit.ClassAttn(8, 2), (2, 5, 8), 4),
    "maxvit": (lambda: maxxvit.AttentionCl(8, dim_head=4), (2, 3, 3, 8), 4),
    "fastvit": (lambda: fastvit.Attention(8, head_dim=4), (2, 8, 3, 3), 4),
    "swin": (lambda: swin_transformer.WindowAttention(8, 2, window_size=(2, 2)), (2, 4, 8), 4),
    "mobilevit 2": (lambda: mobilevit.LinearSelfAttention(8), (2, 8, 4, 4), 4),
    "levit": (lambda: levit.Attention(8, 4, 2, resolution=(3, 3)), (2, 9, 8), 4),
    "efficientformer": (lambda: efficientformer.Attention(8, 4, 2, resolution=3), (2, 9, 8), 4),
    "efficientformer 2": (
        lambda: efficientformer_v2.Attention2d(8, key_dim=4, num_heads=2, resolution=3),
        (2, 8, 3, 3),
        5,
    ),
    "gate": (se, (2, 8, 3, 3), 1),
}


@pytest.mark.parametrize("name", MODULES)
def test_attention_of_timm(name, monkeypatch):
    make, shape, count = MODULES[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = nn.Sequential(make()).eval(), torch.randn(shape)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.5)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    quantized = qadv.quantize(model, "float", "float", attention="int:8")
    done, quantize = [], IntOperands.quantize
    monkeypatch.setattr(IntOperands, "quantize", lambda self, x: done.append(x.shape) or quantize(self, x))
    with torch.no_grad():
        stepwise, expected = quantized(x), model(x)
        assert len(done) == count
        assert 0 < (stepwise - expected).abs().max() < 0.05 * expected.abs().max()
        for module in quantized.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = True
        assert torch.allclose(quantized(x), stepwise, atol=0.02 * float(expected.abs().max()))


def test_a_classifier_has_the_networks_answers_and_saves_copies_and_shows_them(tmp_path):
    quantized = qadv.quantize(net(), "int:8", "float", skip_first_last=False, attention="int:6")
    x, y = images(), np.arange(5) % 3

    def classifier(model):
        return qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 4, 6), 3)

    found = classifier(quantized)
    asked = x.clone().requires_grad_()
    loss = nn.functional.cross_entropy(quantized(asked), torch.from_numpy(y))
    assert np.array_equal(found.predict(x.numpy()), quantized(x).detach().numpy())
    assert np.array_equal(found.loss_gradient(x.numpy(), y), torch.autograd.grad(loss, asked)[0].numpy())
    found.save(tmp_path / "net")
    qadv.export(found, tmp_path / "packed")
    for path in ("net", "packed"):
        again = qadv.QuantizedClassifier.load(tmp_path / path, model=net(seed=1))
        assert np.array_equal(again.predict(x.numpy()), found.predict(x.numpy()))
    for other in (copy.deepcopy(quantized), pickle.loads(pickle.dumps(quantized))):
        assert torch.equal(other(x), quantized(x))
    row = next(row for row in qadv.summarize(found).layers if row.name == "attention")
    assert (row.kind, row.scheme, row.bits, row.parameters) == ("Attention", "int:6", 6, 0)
    assert [each.layer for each in quantizers(quantized) if each.role == "products"] == ["attention"] * 2
    for surrogate in SURROGATES.values():
        with other_backward(found.model, surrogate) as changed:
            assert changed == 2
            assert np.array_equal(found.predict(x.numpy()), quantized(x).detach().numpy())


class OfTransformers(nn.Module):
    def forward(self, x):
        attention_interface = outer
        return attention_interface(x)


def test_gates_and_layers_of_other_kinds():
    assert has_products(OfTransformers())
    made = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sigmoid(), nn.SiLU(), nn.Softmax(1), se())
    assert [has_products(module) for module in made] == [False, True, False, True, False]
    assert [has_products(module) for module in made[4].children()].count(True) == 1


class Written(nn.Module):
    """Attention as its code is written."""

    def __init__(self, how):
        super().__init__()
        self.qkv, self.how = nn.Linear(6, 18), how

    def forward(self, x):
        return self.products(*self.qkv(x).chunk(3, dim=-1))

    def products(self, q, k, v):
        return self.how(q, k, v) if self.how else (q @ k.transpose(-2, -1)).softmax(-1) @ v


class Gated(Written):
    def products(self, q, k, v):
        return self.how(q, k, v) if self.how else torch.sigmoid(q) * k


def net_of(kind, how=None):
    torch.manual_seed(0)
    return qadv.quantize(Net(kind(how)).eval(), "float", "float", attention="int:3")


def _added(q, k, v):
    scores = torch.baddbmm(torch.zeros(1), q, k.transpose(-2, -1))
    return torch.bmm(torch.special.softmax(scores, -1), v)


def _one_by_one(q, k, v):
    return torch.stack([torch.mm(a, b.T).softmax(-1).mm(c) for a, b, c in zip(q, k, v, strict=True)])


def _in_place(q, k, v):
    q = q.clone()
    q.sigmoid_()
    return torch.mul(q, other=k)


@pytest.mark.parametrize(("kind", "how"), [(Written, _added), (Gated, _in_place)])
def test_whatever_they_are_called_products_and_gates_are_rounded(kind, how):
    with torch.no_grad():
        assert torch.allclose(net_of(kind, how)(images()), net_of(kind)(images()), atol=1e-6)


def rounds_of(how, monkeypatch):
    found, quantize = [], IntOperands.quantize
    monkeypatch.setattr(IntOperands, "quantize", lambda self, x: found.append(self.signed) or quantize(self, x))
    net_of(Written, how)(images()).sum().backward()
    return found


@pytest.mark.parametrize(
    ("how", "signs"),
    [
        (lambda q, k, v: (q * k.sigmoid()) @ v.transpose(-2, -1) @ v, [False, True, True, True, True, True]),
        (lambda q, k, v: (q @ k.transpose(-2, -1)).softmax(-1).add_(0.1) @ v, [True, True, False, True, True]),
        (lambda q, k, v: k.sigmoid().sum(1, keepdim=True) * q, [False, True, True]),
        (_one_by_one, [True, True, False, True] * 5),
    ],
)
def test_what_follows_from_a_gate_is_rounded_again(how, signs, monkeypatch):
    assert rounds_of(how, monkeypatch) == signs


class HeadsFirst(Written):
    def products(self, q, k, v):
        q, k, v = (each.unflatten(-1, (2, 3)).permute(2, 0, 1, 3) for each in (q, k, v))
        return super().products(q, k, v).permute(1, 2, 0, 3).flatten(2)


class OfImages(Gated):
    """One number for each image."""

    def products(self, q, k, v):
        return q.mean((1, 2)).sigmoid()[:, None, None] * k


def test_no_image_is_rounded_by_the_scale_of_another():
    def classifier(kind):
        return qadv.QuantizedClassifier(net_of(kind), nn.CrossEntropyLoss(), (1, 4, 6), 3)

    found = classifier(OfImages)
    alone = np.concatenate([found.predict(x[None].numpy()) for x in images()])
    assert np.allclose(found.predict(images().numpy()), alone, atol=1e-6)
    with pytest.raises(UnsupportedModelError, match=r"scales that they share.*\(N, heads, tokens, channels\)"):
        classifier(HeadsFirst)


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.last = Attention(), nn.Linear(6, 6)

    def forward(self, x):
        return self.inner(x) * self.last(x).sigmoid()


class Whole(nn.Module):
    """Attention in one function of torch."""

    def __init__(self):
        super().__init__()
        self.qkv, self.last, self.gate = nn.Linear(6, 18), nn.Linear(6, 6), nn.Sigmoid()

    def forward(self, x):
        own = self.qkv.weight, self.qkv.bias, None, None, False, 0.0, self.last.weight, self.last.bias
        return self.gate(nn.functional.multi_head_attention_forward(x, x, x, 6, 2, *own)[0])


class Calls(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(24, 6), nn.Linear(6, 3)
        self.gate = nn.Sigmoid()

    def forward(self, x):
        x = self.first(x.flatten(1))
        return self.last(self.gate(x) + outer(x))


def outer(x):
    return torch.bmm(x[:, :, None], x[:, None]).mean(1)


def test_what_can_not_be_quantized_is_refused():
    for scheme, message in (("relu6:8", "not for attention.*'int:8'"), ("int", "bits are missing")):
        with pytest.raises(SchemeError, match=message):
            qadv.quantize(net(), "float", "float", attention=scheme)
    with pytest.raises(InvalidInputError, match=r"'nope' matches no layer\. Layers: attention"):
        qadv.quantize(net(), "float", "float", attention={"nope": "int:8"})
    with pytest.raises(UnsupportedModelError, match="no matmul, softmax or sigmoid"):
        qadv.quantize(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), "float", "float", attention="int:8")
    own = nn.ModuleDict({"mha": nn.MultiheadAttention(4, 1), "gate": nn.Sigmoid()})
    with pytest.raises(UnsupportedModelError, match=r"mha would silently stay float.*'mha': 'float'"):
        qadv.quantize(own, "float", "float", attention="int:8")
    left = qadv.quantize(own, "float", "float", attention={"*": "int:8", "mha": "float"})
    assert [each.layer for each in quantizers(left)] == ["gate", "gate"]
    with pytest.raises(UnsupportedModelError, match=r"attention\.inner would be quantized as a part of 'attention'"):
        qadv.quantize(Net(Outer()), "float", "float", attention={"*": "int:8", "attention.inner": "float"})
    whole = qadv.quantize(Net(Whole()), "float", "float", attention={"*": "int:8"})
    with pytest.raises(UnsupportedModelError, match="attention multiplies activations in a function"):
        qadv.QuantizedClassifier(whole, nn.CrossEntropyLoss(), (1, 4, 6), 3)
    bypassed = qadv.quantize(Calls(), "float", "float", attention="int:8")
    with pytest.raises(UnsupportedModelError, match="forward multiplies activations in a function"):
        qadv.QuantizedClassifier(bypassed, nn.CrossEntropyLoss(), (1, 4, 6), 3)
    with pytest.raises(InvalidInputError, match="quantized already"):
        qadv.quantize(bypassed)
