"""The bit-flip attack, against definitions of its own: NumPy's derivatives, and every single flip of a tiny network."""

import warnings
from dataclasses import replace

import brevitas.nn as qnn
import brevitas.quant as bq
import numpy as np
import pytest
import torch
from qadv_weight_threats.bit_flip import BitFlipAttack, accuracy_after, bit_flips
from qadv_weight_threats.bits import StoredBits
from qadv_weight_threats.coded_network import CodedNetwork
from torch import nn

import qadv
from qadv.deployment import apply_flips
from qadv.errors import InvalidInputError, MaskedGradientWarning, UnsupportedModelError
from qadv.frontends import QuantizedWeights, quantizers
from qadv.testing import digits_classifier


def images(number=40):
    data = qadv.create("dataset", "digits")
    return data.x_test[:number], data.y_test[:number]


def accuracy(classifier, x, y):
    return (classifier.predict(x).argmax(1) == y).mean()


def of_network(network, **arguments):
    return qadv.QuantizedClassifier(network, nn.CrossEntropyLoss(), (1, 8, 8), 10, device_type="cpu", **arguments)


def linear(scheme="int:4", layers=1):
    """64 pixels to ten classes, in one layer or with a hidden one, all quantized."""
    torch.manual_seed(0)
    hidden = [nn.Linear(64, 6), nn.ReLU()] if layers == 2 else []
    network = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(6 if hidden else 64, 10))
    return of_network(qadv.quantize(network, scheme, "float", skip_first_last=False))


def codes_of(classifier):
    found = [each for each in quantizers(classifier.network) if isinstance(each, QuantizedWeights)]
    return {each.layer: each for each in found}


def log_loss(logits, y):
    logits = logits.astype(np.float64)
    return np.mean(
        np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1) - logits[range(len(y)), y]
    )


@pytest.fixture(scope="module")
def found():
    x, y = images()
    return BitFlipAttack(digits_classifier(), 20).generate(x, y)


@pytest.mark.parametrize("bits", [4, 8])
def test_twos_complement(bits):
    stored = StoredBits(codes_of(linear(f"int:{bits}"))["1"])
    lowest = -(2 ** (bits - 1))
    for code in range(lowest + 1, -lowest):
        found = stored.flip(torch.tensor([float(code)]))[:, 0].tolist()
        pattern = format(code % 2**bits, f"0{bits}b")
        for bit in range(bits):
            other = list(pattern)
            other[-1 - bit] = "10"[int(other[-1 - bit])]
            digits = [int(digit) for digit in other]
            expected = -digits[0] * 2 ** (bits - 1) + sum(d * 2**i for i, d in enumerate(reversed(digits[1:])))
            assert found[bit] == expected or (np.isnan(found[bit]) and expected == lowest), "the scheme has no -2^(N-1)"


@pytest.mark.parametrize(
    ("scheme", "code", "expected"),
    [
        ("bwn", -1, [1]),
        ("bwn", 1, [-1]),
        ("twn", 0, [1, 0]),  # 00: 01, and the fourth pattern 10, which is 0
        ("twn", -1, [0, 1]),  # 11: 10, 01
        ("twn", 1, [0, -1]),  # 01: 00, 11
        ("dorefa:2", -3, [-1, 1]),  # the first of four: 00
        ("dorefa:2", 1, [3, -3]),  # 10
        ("pwlq:3", 7, [6, 5, 3, -1]),  # 0111, of 4 bits
    ],
)
def test_codes_that_are_few_or_have_gaps(scheme, code, expected):
    assert StoredBits(codes_of(linear(scheme))["1"]).flip(torch.tensor([float(code)]))[:, 0].tolist() == expected


def test_the_first_flip_is_the_one_whose_estimate_is_largest_among_all_and_its_loss_is_that_of_the_edited_codes():
    classifier, (x, y) = linear(), images()
    layer = codes_of(classifier)["1"]
    codes, scale = layer.codes.numpy().astype(np.float64), layer.scale.numpy()
    logits = classifier.predict(x).astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    gradient = (p - np.eye(10)[y]).T @ x.reshape(len(x), 64) / len(x) * scale  # of softmax regression, at the codes
    every = {}
    for index, code in enumerate(codes.flat):
        for bit in range(4):
            other = (int(code) % 16) ^ 1 << bit
            other -= 16 if other > 7 else 0
            every[index, bit] = -np.inf if other == -8 else (other - code) * gradient.flat[index]
    found = BitFlipAttack(classifier, 3, stop_at=0.0).generate(x, y)
    assert (found.flips[0].index, found.flips[0].bit) == max(every, key=every.get)
    bias = classifier.network[1].bias.detach().numpy()
    for number, flip in enumerate(found.flips, 1):
        assert codes.flat[flip.index] == flip.code
        codes.flat[flip.index] = flip.flipped
        expected = log_loss(x.reshape(len(x), 64) @ (codes * scale).T + bias, y)
        assert found.loss[number] == pytest.approx(expected, rel=1e-5)
    assert list(found.loss) == sorted(found.loss), "each flip raises a convex loss"


def test_the_layer_is_the_one_whose_flip_raises_the_loss_most(found):
    (x, y), greedy = images(), BitFlipAttack(digits_classifier(), 20, nb_layers=1)
    network, by_estimate = CodedNetwork(digits_classifier(), 128), []
    for number, flip in enumerate(found.flips):
        used = [[(e.bit, e.index) for e in found.flips[:number] if e.layer == each.layer] for each in network.layers]
        by_estimate.append(network.layers[greedy._searched(network, x, y, used, 1)[0]].layer)
        losses = {}
        for layer, each in enumerate(network.layers):  # where only this one's bits are left
            every = [[(bit, i) for bit in range(4) for i in range(codes.numel())] for codes in network.codes]
            left = [used[n] if n == layer else bits for n, bits in enumerate(every)]
            _, index, _, codes = greedy._searched(network, x, y, left, 1)
            network.put(layer, network.with_codes(layer, index, codes))
            losses[each.layer] = network.loss(x, y, greedy._objective)
            network.put(layer, network.codes[layer])
        assert flip.layer == max(losses, key=losses.get)
        network.flip([each.layer for each in network.layers].index(flip.layer), flip.index, flip.flipped)
    assert by_estimate != [each.layer for each in found.flips], "the estimate alone would choose others"


def test_a_few_flips_lead_to_chance_and_random_ones_do_not(found):
    classifier, (x, y) = digits_classifier(), images()
    assert found.stopped == "reached"
    assert found.accuracy[0] > 0.8
    assert found.accuracy[-1] <= 0.11
    assert len({(each.layer, each.index, each.bit) for each in found.flips}) == len(found.flips) <= 12
    random = [BitFlipAttack(classifier, 12, random=True, seed=seed).generate(x, y) for seed in (0, 0, 1)]
    assert random[0] == random[1] != random[2]
    assert all(each.stopped == "max_flips" and each.accuracy[-1] > 0.6 for each in random)


def test_a_network_that_gives_all_images_one_class_is_at_chance_whatever_their_share_is():
    classifier, (x, y) = linear(), images(200)
    with torch.no_grad():
        classifier.network[1].bias[3] = 1000.0
    few = np.flatnonzero(y == 3)[:6], np.flatnonzero(y == 5)[:4]
    found = BitFlipAttack(classifier, 2).generate(x[np.concatenate(few)], y[np.concatenate(few)])
    assert (found.stopped, len(found.flips), found.accuracy) == ("reached", 0, (0.6,))
    with pytest.warns(MaskedGradientWarning):  # all are right, with no doubt
        assert BitFlipAttack(classifier, 2).generate(x[few[0]], y[few[0]]).stopped == "no gradient"


def test_what_a_packed_file_with_these_flips_says(found, tmp_path):
    classifier, (x, y) = digits_classifier(), images()
    qadv.export(classifier, tmp_path / "net.packed")
    found.save(tmp_path / "flips.json", classifier)
    apply_flips(tmp_path / "net.packed", tmp_path / "flips.json", tmp_path / "flipped.packed")
    flipped = qadv.QuantizedClassifier.load(tmp_path / "flipped.packed", fold=False)
    assert accuracy(flipped, x, y) == found.accuracy[-1] == accuracy_after(classifier, found.flips, x, y)
    assert bit_flips(flipped, x, y, max_flips=1, stop_at=0.0).loss[0] == found.loss[-1], "to the bit"


@pytest.mark.skipif(not hasattr(torch.onnx, "ops"), reason="exporting needs torch 2.8")
@pytest.mark.filterwarnings("ignore:gradients are the surrogate's")
def test_an_onnx_file_is_attacked_in_its_twin_and_fails_in_its_runtime(tmp_path):
    (x, y), simulation, path = images(), digits_classifier(), tmp_path / "net.onnx"
    qadv.export(simulation, path, "onnx")
    classifier = qadv.QuantizedClassifier.from_file(path)
    found = BitFlipAttack(classifier, 20).generate(x, y)
    found.save(tmp_path / "flips.json", classifier)
    apply_flips(path, tmp_path / "flips.json", tmp_path / "flipped.onnx")
    flipped = qadv.QuantizedClassifier.from_file(tmp_path / "flipped.onnx")
    assert accuracy(flipped, x, y) == found.accuracy[-1] <= 0.11 < accuracy(classifier, x, y)
    with pytest.raises(UnsupportedModelError, match="without a surrogate"):
        bit_flips(qadv.QuantizedClassifier.from_file(path, surrogate=simulation.network), x, y)


@pytest.mark.parametrize(
    "weights", [bq.Int8WeightPerTensorFloat, bq.Int8WeightPerChannelFloat, bq.SignedBinaryWeightPerTensorConst]
)
def test_brevitas(weights):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), qnn.QuantLinear(64, 8, weight_quant=weights), nn.ReLU(), nn.Linear(8, 10))
    network.eval()(torch.zeros(1, 1, 8, 8))  # binary weights clip themselves at first
    classifier, (x, y) = of_network(network), images()
    found = BitFlipAttack(classifier, 2, stop_at=0.0).generate(x, y)
    assert len(found.flips) == 2
    assert found.loss[-1] > found.loss[0]
    layer = codes_of(classifier)["1"]
    value = layer.value.clone()
    for flip in found.flips:
        assert layer.codes.view(-1)[flip.index] == flip.code
        value.view(-1)[flip.index] += (flip.flipped - flip.code) * layer.scale.expand(value.shape).flatten()[flip.index]
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), network[3])
    with torch.no_grad():
        plain[1].weight.copy_(value)
        plain[1].bias.copy_(network[1].bias)
        assert found.loss[-1] == pytest.approx(log_loss(plain(torch.from_numpy(x)).numpy(), y), rel=1e-4)


def test_one_class_goes_to_another_and_stealthily_the_others_stay():
    classifier, (x, y) = digits_classifier(), images(100)
    found, stealthy = (
        BitFlipAttack(classifier, 30, target=3, source=5, stealthy=stealthy).generate(x, y)
        for stealthy in (False, True)
    )
    for each in (found, stealthy):
        assert each.stopped == "reached"
        assert each.success[0] < 0.2
        assert each.success[-1] >= 0.99
    rest = y != 5
    kept = [accuracy_after(classifier, each.flips, x[rest], y[rest]) for each in (found, stealthy)]
    assert kept[1] > kept[0]
    assert BitFlipAttack(classifier, 30, target=3).generate(x, y).success[-1] >= 0.99


def test_what_is_refused():
    (x, y), classifier = images(), digits_classifier()
    wrong = {"source": 3}, {"source": 3, "target": 3}, {"target": 10}, {"stealthy": True, "target": 1}, {"nb_layers": 0}
    for options in (*wrong, {"stop_at": 2.0}):
        with pytest.raises(InvalidInputError, match=next(iter(options))):
            BitFlipAttack(classifier, **options)
    with pytest.raises(InvalidInputError, match="none of the images"):
        BitFlipAttack(classifier, source=3, target=5).generate(x[y != 3], y[y != 3])
    with pytest.raises(UnsupportedModelError, match="no quantized weights"):
        bit_flips(digits_classifier("float", "float"), x, y)


def test_no_more_flips_than_were_allowed_and_than_there_are_bits():
    (x, y), classifier = images(), linear("bwn")
    assert len(BitFlipAttack(classifier, 4, nb_bits=3, stop_at=0.0).generate(x, y).flips) == 4
    one_right = x[:1].repeat(10, axis=0), np.arange(10)  # so that accuracy stays at 10 %
    found = BitFlipAttack(classifier, 641, random=True, stop_at=0.0).generate(*one_right)
    assert (len(found.flips), found.stopped) == (640, "no bits left")


def test_accuracy_after_flips_takes_both_forms_of_labels_and_no_list_of_another_network(found):
    x, y = images(10)  # as many as there are classes
    expected = accuracy_after(digits_classifier(), found.flips, x, y)
    assert accuracy_after(digits_classifier(), found.flips, x, np.eye(10)[y]) == expected
    for flips in (found.flips[::-1] + found.flips, (replace(found.flips[0], layer="x"),)):
        with pytest.raises(InvalidInputError, match="of another network"):
            accuracy_after(digits_classifier(), flips, x, y)


def test_zero_gradients_end_the_search_with_a_warning():
    classifier, (x, y) = linear(), images()
    with torch.no_grad():
        classifier.network[1].bias.copy_(1e4 * torch.eye(10)[0])
    with pytest.warns(MaskedGradientWarning, match="random=True"):
        found = BitFlipAttack(classifier, 3, stop_at=0.0).generate(x[y == 0], y[y == 0])
    assert (found.flips, found.stopped) == ((), "no gradient")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(bit_flips(classifier, x[y == 0], y[y == 0], max_flips=2, stop_at=0.0, random=True).flips) == 2
