"""What `summarize` and `repr` say, counted by hand."""

import pytest
import timm
import torch
from torch import nn

import qadv
from qadv.errors import SchemeError


def model():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5, 2))


@pytest.mark.parametrize(("scheme", "bits"), [("int:4", 4), ("int:3", 3), ("bwn", 1), ("twn", 2)])
def test_sizes_are_bits_per_weight_plus_float_scales_and_biases(scheme, bits):
    summary = qadv.summarize(qadv.quantize(model(), weights=scheme))
    rows = {row.name: row for row in summary.layers}
    weights = 5 * 4 * 9
    assert rows["2"].packed_bytes == -(-weights * bits // 8) + 4 * 5 + 4 * 5
    assert rows["2"].float_bytes == 4 * (weights + 5)
    assert (rows["2"].scheme, rows["2"].bits, rows["2"].kind) == (scheme, bits, "QuantConv2d")
    assert rows["0"].packed_bytes == rows["0"].float_bytes == 4 * (36 + 4)
    total = sum(p.numel() for p in model().parameters())
    assert summary.parameters == total
    assert rows["2"].share == pytest.approx((weights + 5) / total)
    assert sum(row.share for row in summary.layers) == pytest.approx(1)
    assert summary.float_bytes == 4 * total


def test_levels_scale_and_error_of_a_layer():
    layer = qadv.quantize(model(), weights="twn")[2]
    assert layer.scale.shape == (5,)
    assert layer.levels.shape == (5, 3)
    assert torch.equal(layer.levels[:, 1], torch.zeros(5))
    weight = layer.weight.detach()
    quantized = layer.weight_quantizer(weight)[0]
    expected = (weight - quantized).abs().flatten(1).sum(1) / weight.abs().flatten(1).sum(1)
    torch.testing.assert_close(layer.error, expected)
    float_layer = qadv.quantize(
        nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.GELU(), nn.Linear(2, 2)), weights="float"
    )[1]
    for name in ("scale", "levels", "error"):
        with pytest.raises(SchemeError, match="full precision"):
            getattr(float_layer, name)


def test_text_forms():
    result = qadv.quantize(model())
    assert "weights=int:4 (4 bit)" in repr(result)
    assert "QuantActivation(relu6:4 (4 bit), scale=0.4)" in repr(result)
    assert "130 of 740 bytes" in repr(result)
    text = str(qadv.summarize(result))
    assert "QuantConv2d" in text
    assert "relu6:4" in text
    vit_like = qadv.quantize(nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4), nn.Linear(4, 2)))
    assert "input=relu6:4 (4 bit)" in repr(vit_like)
    assert [row.input_scheme for row in qadv.summarize(vit_like).layers] == ["float", "relu6:4", "float"]


def test_tied_weights_are_counted_once():
    tied = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    tied[1].weight = tied[0].weight
    assert qadv.summarize(tied).parameters == 18
    assert sum(row.float_bytes for row in qadv.summarize(tied).layers) == 4 * 18


def test_products_of_attention_are_shown_as_float():
    model = timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=32, depth=1)
    rows = {row.name: row for row in qadv.summarize(qadv.quantize(model, "int:8", "float")).layers}
    assert (rows["blocks.0.attn"].kind, rows["blocks.0.attn"].scheme) == ("Attention", "float")
    assert rows["blocks.0.attn.qkv"].scheme == "int:8"
