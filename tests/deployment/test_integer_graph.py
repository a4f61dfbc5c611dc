"""`to="onnx"` writes a graph that onnxruntime runs in integer kernels, and that decides as the simulation does."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
if not hasattr(torch.onnx, "ops"):
    pytest.skip("exporting needs torch 2.8", allow_module_level=True)

import qadv  # noqa: E402
from qadv.backbones.standardisation import picture_settings  # noqa: E402
from qadv.deployment import export  # noqa: E402
from qadv.deployment.agreement import OnnxNetwork, agreement  # noqa: E402
from qadv.deployment.integer_graph import IntegerOptions, integer_graph  # noqa: E402
from qadv.deployment.onnx_graph import onnx_graph  # noqa: E402
from qadv.diagnostics.audit.case import AuditCase  # noqa: E402
from qadv.diagnostics.audit.checks.exported import ExportedModel  # noqa: E402
from qadv.diagnostics.audit.result import Verdict  # noqa: E402
from qadv.diagnostics.audit.settings import FEW_STEPS  # noqa: E402
from qadv.diagnostics.audit.target import Target  # noqa: E402
from qadv.errors import InvalidInputError  # noqa: E402
from qadv.frontends.onnx.graph import graph_of  # noqa: E402
from qadv.frontends.onnx.runtime import Runtime  # noqa: E402
from qadv.frontends.onnx.twin import Twin  # noqa: E402

SHAPE = (3, 8, 8)
FLOAT_KERNELS = {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "BatchNormalization", "Add", "Relu"}


class Residual(nn.Module):
    """Sums with a shortcut as it is, one that is padded, and one through a layer; pools of both kinds."""

    def __init__(self):
        super().__init__()
        self.first, self.norm0 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv1, self.norm1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 16, 3, padding=1, stride=2), nn.BatchNorm2d(16)
        self.conv3, self.norm3 = nn.Conv2d(16, 16, 3, padding=1, groups=4, bias=False), nn.BatchNorm2d(16)
        self.side, self.norm4 = nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)
        self.relus = nn.ModuleList(nn.ReLU() for _ in range(4))
        self.pool, self.middle, self.last = nn.MaxPool2d(2), nn.Linear(16, 12), nn.Linear(12, 5)
        self.relu4 = nn.ReLU()

    def forward(self, x):
        x = self.relus[0](self.norm0(self.first(x)))
        x = self.relus[1](x + self.norm1(self.conv1(x)))
        padded = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        x = self.relus[2](padded + self.norm2(self.conv2(x)))
        x = self.relus[3](self.norm3(self.conv3(x)) + self.norm4(self.side(x)))
        x = self.pool(x).mean((2, 3))
        return self.last(self.relu4(self.middle(x)))


def images(count, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.random((count, 3, 2, 2), dtype=np.float32)
    return np.clip(
        np.kron(coarse, np.ones((4, 4), dtype=np.float32)) + 0.1 * rng.normal(size=(count, *SHAPE)), 0, 1
    ).astype(np.float32)


X = images(200)


def network(bits, weights=None):
    torch.manual_seed(0)
    net = Residual()
    for norm in (module for module in net.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = 1.0
        nn.init.uniform_(norm.weight, 0.7, 1.5)
        norm.weight.data[::3] *= -1  # codes flip their signs
        nn.init.uniform_(norm.bias, 0.3, 1.0)
    net.norm1.weight.data[1], net.norm1.bias.data[1] = (
        1e-30,
        2.0,
    )  # a filter that is next to nothing has a bias all the same
    with torch.no_grad():
        net.train()(torch.from_numpy(X))
        net.last.weight.mul_(20)
        net.eval()
        net.last.bias -= net(torch.from_numpy(X)).mean(0)
    model = qadv.quantize(net, weights or f"int:{bits}", f"relu6:{bits}")
    return qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), SHAPE, 5, preprocessing=([0.5, 0.4, 0.6], [0.25] * 3))


def read(classifier):
    content = onnx_graph(classifier)
    return graph_of(onnx.load_model_from_string(content), content, None, "net")


@pytest.fixture(scope="module", params=[8, 4])
def exported(request):
    classifier = network(request.param)
    return request.param, classifier, read(classifier)


def initializers(content):
    return {tensor.name: tensor for tensor in onnx.load_model_from_string(content).graph.initializer}


def integer_weights(content):
    found = initializers(content).values()
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in found if tensor.data_type in (3, 22)]
    return [array.astype(np.int64) for array in arrays if array.ndim > 1]


def test_every_layer_is_an_integer_kernel_and_the_classes_stay(exported):
    bits, classifier, graph = exported
    content = integer_graph(graph, (0.0, 1.0), X[:64])
    onnx.checker.check_model(onnx.load_model_from_string(content), full_check=True)
    runtime = Runtime(content, "net")
    kernels = runtime.kernels(X[:1])
    assert not FLOAT_KERNELS & set(kernels), kernels
    assert (kernels["QLinearConv"], kernels["QLinearAdd"]) == (5, 3)
    assert kernels["QGemm"] + kernels["QLinearMatMul"] == 2
    expected, found = classifier.predict(X), runtime(X)
    assert (expected.argmax(1) == found.argmax(1)).mean() >= {8: 0.97, 4: 0.9}[bits]
    errors = np.abs(found - expected).mean() / np.abs(expected - expected.mean(0)).mean()
    assert errors < {8: 0.05, 4: 0.5}[bits]
    assert len(np.unique(expected.argmax(1))) > 2


def test_weights_keep_their_codes_but_for_the_sign_of_a_folded_factor(exported):
    _, classifier, graph = exported
    found = integer_weights(integer_graph(graph, (0.0, 1.0), X[:64]))
    for name in ("conv2", "conv3", "side", "middle"):
        layer = classifier.network.get_submodule(name)
        codes = layer.quantized()[0].numpy()
        assert any(each.shape == codes.shape and (np.abs(each) == np.abs(codes)).all() for each in found), name
        norm = {"conv2": "norm2", "conv3": "norm3", "side": "norm4"}.get(name)
        if norm is not None:
            sign = np.sign(classifier.network.get_submodule(norm).weight.detach().numpy()).reshape(-1, 1, 1, 1)
            assert any(each.shape == codes.shape and (each == codes * sign).all() for each in found), name


def test_sums_have_the_range_that_matters_without_any_images(exported):
    bits, classifier, graph = exported
    found = Runtime(integer_graph(graph, (0.0, 1.0)), "net")(X)
    assert (classifier.predict(X).argmax(1) == found.argmax(1)).mean() >= {8: 0.95, 4: 0.88}[bits]


def test_options(exported):
    bits, classifier, graph = exported
    plain = integer_graph(graph, (0.0, 1.0), X[:64])
    ends = Runtime(integer_graph(graph, (0.0, 1.0), X[:64], IntegerOptions(float_ends=True)), "net")
    kernels = ends.kernels(X[:1])
    assert kernels["QLinearConv"] == 4
    assert kernels["Conv"] + kernels["FusedConv"] == 1
    nearer = [np.abs(each(X) - classifier.predict(X)).mean() for each in (ends, Runtime(plain, "net"))]
    assert nearer[0] < nearer[1]
    reduced = integer_graph(graph, (0.0, 1.0), X[:64], IntegerOptions(reduce_range=True))
    assert max(np.abs(each).max() for each in integer_weights(reduced)) <= 63
    assert max(np.abs(each).max() for each in integer_weights(plain)) == 127
    same = Runtime(reduced, "net")(X).argmax(1) == classifier.predict(X).argmax(1)
    assert same.mean() > 0.85
    in_bytes = integer_graph(graph, (0.0, 1.0), X[:64], IntegerOptions(takes_bytes=True))
    for content in (plain, in_bytes):
        assert 0 < export._kernels(content, SHAPE)["standardisation"] < 1, "a step of its own"
    packed = integer_graph(graph, (0.0, 1.0), X[:64], IntegerOptions(packed_weights=True))
    of_four_bits = [tensor for tensor in initializers(packed).values() if tensor.data_type == onnx.TensorProto.INT4]
    assert len(of_four_bits) == (5 if bits == 4 else 0)
    runtime = Runtime(packed, "net")
    np.testing.assert_array_equal(runtime(X), Runtime(plain, "net")(X))
    assert runtime.kernels(X[:1])["QLinearConv"] == 5


def test_bottom_and_top_level_are_the_simulations(exported):
    """Fewer than 256 levels are the last ones of uint8: a Clip makes the bottom, the kernel the top."""
    bits, _, graph = exported
    model = onnx.load_model_from_string(integer_graph(graph, (0.0, 1.0), X[:64]))
    clips = [node for node in model.graph.node if node.op_type == "Clip"]
    assert len(clips) == (6 if bits == 4 else 0)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert {int(constants[node.input[1]]) for node in clips} <= {240}


def test_qadvs_own_file_is_attacked_like_any_other(exported, tmp_path):
    bits, classifier, graph = exported
    (tmp_path / "net.onnx").write_bytes(integer_graph(graph, (0.0, 1.0), X[:64]))
    file = qadv.QuantizedClassifier.from_file(tmp_path / "net.onnx", SHAPE, images=X)
    assert file.network.joined.agreement > 0.98
    rows = qadv.summarize(file).layers
    assert [row.bits for row in rows] == [8] * 7
    assert {row.input_scheme for row in rows[1:-1]} >= {"uint8, 16 levels" if bits == 4 else "uint8"}
    ours, theirs = classifier.loss_gradient(X, [0] * 200), file.loss_gradient(X, [0] * 200)
    both = torch.from_numpy(ours).flatten(1), torch.from_numpy(theirs).flatten(1)
    assert nn.functional.cosine_similarity(*both).mean() > (0.9 if bits == 8 else 0.5)


class Pools(nn.Module):
    """Averages in front of few levels, which lie halfway between two of them often; no padding in the first layer."""

    def __init__(self):
        super().__init__()
        self.first, self.pool, self.second, self.last = (
            nn.Conv2d(3, 8, 5), nn.AvgPool2d(4), nn.Conv2d(8, 8, 1), nn.Linear(8, 5),
        )  # fmt: skip
        self.relus = nn.ModuleList(nn.ReLU() for _ in range(3))

    def forward(self, x):
        x = self.relus[1](self.pool(self.relus[0](self.first(x))))
        return self.last(self.relus[2](self.second(x)).flatten(1))


@pytest.fixture(scope="module")
def pooled(tmp_path_factory):
    """A file that takes bytes and gives probabilities."""
    torch.manual_seed(0)
    standardised = (X - 0.5) / np.array([0.2, 0.25, 0.3], dtype=np.float32).reshape(3, 1, 1)
    model = qadv.quantize(Pools(), "int:4", "relu6:4", calibration=standardised)
    model.pretrained_cfg = {"crop_pct": 0.5, "interpolation": "nearest", "architecture": "own"}
    standardisation = ([0.5] * 3, [0.2, 0.25, 0.3])
    classifier = qadv.QuantizedClassifier(
        model, nn.CrossEntropyLoss(), SHAPE, 5, preprocessing=standardisation, probabilities=True
    )
    path = tmp_path_factory.mktemp("pooled") / "net.onnx"
    return classifier, qadv.export(classifier, path, to="onnx", images=X[:64], pixels="uint8")


def test_with_deploy_the_simulation_rounds_what_the_file_rounds(pooled):
    """Ties behind averages fall to one side, in every arithmetic; with the network's own scale they do not."""
    file = qadv.QuantizedClassifier.from_file(pooled[1].path)
    simulation = qadv.QuantizedClassifier.from_file(pooled[1].path, deploy=True)
    np.testing.assert_allclose(simulation.predict(X), file.predict(X), atol=1e-4)
    y = np.arange(200) % 5
    np.testing.assert_allclose(simulation.loss_gradient(X, y), file.loss_gradient(X, y), atol=1e-5)
    pair = agreement(pooled[0], pooled[1].path, X, eps=2 / 255, max_iter=2, deployed=simulation)
    assert [each.deployed_same_class for each in pair] == [1.0, 1.0]
    with pytest.raises(InvalidInputError, match="deploy=True takes values and gradients"):
        qadv.QuantizedClassifier.from_file(pooled[1].path, deploy=True, surrogate=Pools())


@pytest.mark.parametrize("counted", [False, True])
def test_windows_that_end_behind_the_image_are_divided_by_what_is_there(counted, tmp_path):
    """onnxruntime's integer kernel divides by the whole window."""
    torch.manual_seed(0)
    pool = nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=counted)
    net = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), pool, nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten())
    net.append(nn.Linear(54, 5))
    quantized = qadv.quantize(net, "int:8", "relu:8", calibration=X[:64])
    classifier = qadv.QuantizedClassifier(quantized, nn.CrossEntropyLoss(), SHAPE, 5)
    path = qadv.export(classifier, tmp_path / "net.onnx", to="onnx", images=X[:64]).path
    logits = classifier.predict(X)
    file, simulation = (qadv.QuantizedClassifier.from_file(path, deploy=deploy) for deploy in (False, True))
    np.testing.assert_allclose(file.predict(X), logits, atol=0.02 * np.ptp(logits))
    np.testing.assert_allclose(simulation.predict(X), file.predict(X), atol=1e-5)


@pytest.mark.parametrize("deploy", [False, True])
def test_a_file_says_how_photographs_become_its_images(deploy, pooled):
    file = qadv.QuantizedClassifier.from_file(pooled[1].path, deploy=deploy)
    assert picture_settings(file.model) == {"crop_pct": 0.5, "interpolation": "nearest"}


@pytest.mark.parametrize("to", ["onnx", "qcdq"])
@pytest.mark.parametrize("ends", [(0, 255), (-1, 1)])
def test_a_file_says_which_pixels_it_takes(to, ends, pooled, tmp_path):
    low, high = ends
    pixels = {"clip_values": ends, "preprocessing": (low, high - low)}
    classifier = qadv.QuantizedClassifier(pooled[0].network, nn.CrossEntropyLoss(), SHAPE, 5, **pixels)
    qadv.export(classifier, tmp_path / "net.onnx", to=to)
    file = qadv.QuantizedClassifier.load(tmp_path / "net.onnx")
    x = low + (high - low) * X
    assert file.clip_values == ends
    assert (file.predict(x).argmax(1) == classifier.predict(x).argmax(1)).mean() > 0.95
    assert qadv.QuantizedClassifier.load(tmp_path / "net.onnx", clip_values=(0, 7)).clip_values == (0, 7)


def test_ends_of_each_pixel_are_asked_for(pooled, tmp_path):
    ends = (np.zeros((3, 1, 1)), np.array([1, 2, 3.0]).reshape(3, 1, 1))
    classifier = qadv.QuantizedClassifier(pooled[0].network, nn.CrossEntropyLoss(), SHAPE, 5, clip_values=ends)
    qadv.export(classifier, tmp_path / "net.onnx", to="qcdq")
    with pytest.raises(InvalidInputError, match=r"net.onnx is of pixels with a range each: give one"):
        qadv.QuantizedClassifier.load(tmp_path / "net.onnx")


def test_a_file_takes_bytes_and_gives_what_the_classifier_gives(pooled):
    classifier, result = pooled
    runtime = Runtime(result.path.read_bytes(), "net")
    codes = np.rint(X * 255).astype(np.uint8)
    probabilities = runtime(codes)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    up = copy.deepcopy(classifier)
    up.network.pool.register_forward_hook(
        lambda module, x, y: y * (1 + 1e-5)
    )  # halfway between two levels, as in the file
    np.testing.assert_allclose(probabilities, up.predict(codes.astype(np.float32) / 255), atol=0.05)
    np.testing.assert_array_equal(OnnxNetwork(result.path).predict(X), probabilities)
    assert result.kernels["QLinearConv"] == 2
    assert "QuantizeLinear" not in result.kernels
    assert not {"Sub", "Div"} & set(result.kernels), "standardisation is part of the first layer"
    assert result.standardisation == 0
    assert "onnxruntime" in result.runtime


def written(kind, mean, std, pads=0, codes=False, reshaped=False, centred=False):
    """A graph of standardisation, a first layer and a last one, maybe behind a difference."""
    rng = np.random.default_rng(0)
    shape = (4, 3, 3, 3) if kind == "Conv" else (64, 192)
    weight = rng.normal(size=shape).astype(np.float32) / 5
    sides = 8 + 2 * pads - 2
    constants = {
        "mean": np.float32(mean).reshape(-1, 1, 1), "std": np.float32(std).reshape(-1, 1, 1), "weight": weight,
        "scale": np.float32(0.1), "zero": np.uint8(128), "scales": np.full(len(weight), 0.1, np.float32),
        "shape": np.array([-1, *SHAPE]), "codes": np.rint(weight * 20).clip(-7, 7).astype(np.int8),
        "last": rng.normal(size=(5, 4 * sides * sides if kind == "Conv" else 64)).astype(np.float32),
    }  # fmt: skip
    node = onnx.helper.make_node
    name = "decoded" if codes else "weight"
    nodes = [
        *([node("Reshape", ["images", "shape"], ["reshaped"])] if reshaped else []),
        node("Sub", ["reshaped" if reshaped else "images", "mean"], ["centred"]),
        node("Div", ["centred", "std"], ["standardised"]),
        *([node("DequantizeLinear", ["codes", "scales"], ["decoded"], axis=0)] if codes else []),
        *(
            [node("Conv", ["standardised", name], ["y"], pads=[pads] * 4)]
            if kind == "Conv"
            else [node("Flatten", ["standardised"], ["rows"]), node("Gemm", ["rows", name], ["y"], transB=1)]
        ),
        node("QuantizeLinear", ["y", "scale", "zero"], ["q"]),
        node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        *([node("GlobalAveragePool", ["d"], ["means"]), node("Sub", ["d", "means"], ["left"])] if centred else []),
        node("Flatten", ["left" if centred else "d"], ["f"]),
        node("Gemm", ["f", "last"], ["logits"], transB=1),
    ]
    if centred:
        constants["last"] = constants["last"].reshape(5, 4, sides, sides)
        nodes[-2:] = node("Conv", ["left", "last"], ["map"]), node("Flatten", ["map"], ["logits"])
    value, tensors = onnx.helper.make_tensor_value_info, onnx.numpy_helper.from_array
    graph = onnx.helper.make_graph(
        nodes, "g", [value("images", 1, ["n", *SHAPE])], [value("logits", 1, ["n", 5])],
        [tensors(array, name) for name, array in constants.items()],
    )  # fmt: skip
    return graph_of(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)]), b"", None, "written"
    )


@pytest.mark.parametrize(
    ("network", "is_folded"),
    [
        (("Conv", [0.5, 0.4, 0.6], [0.2, 0.25, 0.3]), True),
        (("Conv", [0.5, 0.4, 0.6], [0.2, 0.25, 0.3], 1), False),
        (("Conv", [0, 0, 0], [0.2, 0.25, 0.3], 1), True),
        (("Conv", [0.5, 0.4, 0.6], [0.25] * 3, 0, True), True),
        (("Conv", [0.5, 0.4, 0.6], [0.2, 0.25, 0.3], 0, True), False),
        (("Gemm", [0.5, 0.4, 0.6], [0.2, 0.25, 0.3]), True),
        (("Conv", [0.5, 0.4, 0.6], [0.2, 0.25, 0.3], 0, False, True), True),
    ],
)
def test_standardisation_is_part_of_the_first_layer_where_that_is_exact(network, is_folded):
    """Not with zeros padded to images whose mean is not 0, nor with codes of weights and a factor for each channel."""
    graph = written(*network)
    codes = np.rint(X * 255).astype(np.uint8)
    x = codes.astype(np.float32) / 255
    expected = Twin(graph, batched=True)(torch.from_numpy(x)).numpy()
    floats, in_bytes = (
        Runtime(integer_graph(graph, (0.0, 1.0), X[:64], IntegerOptions(takes_bytes=each)), "net")
        for each in (False, True)
    )
    for runtime, images_ in ((floats, x), (in_bytes, codes)):
        assert ("Sub" in runtime.kernels(images_)) != is_folded
        found = runtime(images_)
        assert np.abs(found - expected).mean() < 0.05 * np.abs(expected - expected.mean(0)).mean()
    with pytest.raises(InvalidInputError, match="none is 0"):
        integer_graph(graph, (-1.0, 1.0), X[:64], IntegerOptions(takes_bytes=True))


def test_the_range_of_a_difference_is_what_it_is_on_images():
    """Only standardised pixels have their ends where pixels have theirs: on images of one colour this one is 0."""
    graph = written("Conv", [0.5, 0.4, 0.6], [0.2, 0.25, 0.3], centred=True)
    expected = Twin(graph, batched=True)(torch.from_numpy(X)).numpy()
    found = Runtime(integer_graph(graph, (0.0, 1.0), X[:64]), "net")(X)
    assert np.abs(found - expected).mean() < 0.1 * np.abs(expected - expected.mean(0)).mean()


class Shuffled(nn.Module):
    """Takes channels apart in parts of one size, with a rest, and of given sizes, as ShuffleNet does."""

    def __init__(self):
        super().__init__()
        self.first, self.part, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 4, 3, padding=1), nn.Linear(13 * 36, 5)
        self.relus = nn.ModuleList(nn.ReLU() for _ in range(2))

    def forward(self, x):
        x = self.relus[0](self.first(x))
        _, b, rest = x.chunk(3, 1)
        few, _, more = x.split([2, 1, 5], 1)
        return self.last(torch.cat([few, self.relus[1](self.part(b)), more, rest], 1).flatten(1))


def test_parts_of_channels_stay_codes(tmp_path):
    torch.manual_seed(0)
    model = qadv.quantize(Shuffled().eval(), "int:8", "relu6:8", calibration=X)
    classifier = qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), SHAPE, 5)
    expected = classifier.predict(X)
    for to, most in (("qcdq", 1e-6), ("onnx", 0.05)):
        qadv.export(classifier, tmp_path / "net.onnx", to=to, images=X[:64] if to == "onnx" else None)
        file = qadv.QuantizedClassifier.from_file(tmp_path / "net.onnx")
        assert np.abs(file.predict(X) - expected).mean() < most * np.abs(expected - expected.mean(0)).mean(), to
        gradient, own = (each.loss_gradient(X[:8], expected[:8].argmax(1)).ravel() for each in (file, classifier))
        assert gradient @ own > 0.99 * np.linalg.norm(gradient) * np.linalg.norm(own), to
    assert not FLOAT_KERNELS & set(Runtime((tmp_path / "net.onnx").read_bytes(), "net").kernels(X[:1]))


def test_an_audit_of_a_file_compares_it_with_the_simulation(exported, tmp_path):
    _, classifier, graph = exported
    (tmp_path / "net.onnx").write_bytes(integer_graph(graph, (0.0, 1.0), X[:64]))
    file = qadv.QuantizedClassifier.from_file(tmp_path / "net.onnx")
    x, y = X[:60], classifier.predict(X[:60]).argmax(1)
    case = {"settings": FEW_STEPS, "eps": 2 / 255}
    found = ExportedModel().examine(AuditCase(Target(file, 64), x, y, simulation=classifier, **case))
    pair = agreement(classifier, tmp_path / "net.onnx", x, y, 2 / 255)
    assert found.values["agreement"] == [each.to_dict() for each in pair]
    most = max(60 - round(60 * each.same_class) for each in pair)
    assert found.verdict == (Verdict.PASSED if most <= 1 else Verdict.FAILED)
    assert "nothing is exported" in ExportedModel().examine(AuditCase(Target(file, 64), x, y, **case)).figure
    with pytest.raises(InvalidInputError, match="simulation: the audited network is one"):
        qadv.audit(classifier, x, y, simulation=file, verbose=False)


def test_what_cannot_be_read_is_written_as_it_is(exported, tmp_path, monkeypatch):
    _, classifier, graph = exported
    path = tmp_path / "net.onnx"
    monkeypatch.setattr(export, "onnx_graph", lambda _: graph.content)
    model = onnx.load_model_from_string(graph.content)
    next(node for node in model.graph.node if node.op_type == "MaxPool").op_type = "Mystery"
    monkeypatch.setattr(export, "graph_of", lambda *_: graph_of(model, b"", None, "net"))
    with pytest.warns(UserWarning, match=r"to='qcdq' writes it.*Mystery"):
        qadv.export(classifier, path, to="onnx")
    assert onnx.load(path).graph == onnx.load_model_from_string(graph.content).graph
    with pytest.raises(InvalidInputError, match="only for a graph of integer kernels"):
        qadv.export(classifier, path, to="qcdq", float_ends=True)
    with pytest.raises(InvalidInputError, match="images: expected"):
        qadv.export(classifier, path, to="onnx", images=X[:, :2])
