"""An ONNX file is a network: the runtime's values, the twin's gradients, in whatever form it was quantized."""

import copy
import hashlib
import pickle
import re
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from art.attacks.evasion import AutoProjectedGradientDescent, FastGradientMethod, ProjectedGradientDescent  # noqa: E402
from art.estimators.classification import PyTorchClassifier  # noqa: E402

import qadv  # noqa: E402
from qadv.diagnostics.audit.checks.exported import ExportedModel  # noqa: E402
from qadv.errors import FileFormatError, InvalidInputError, UnsupportedModelError  # noqa: E402
from qadv.estimators.storage import read_header  # noqa: E402
from qadv.evaluation import attack_classifier  # noqa: E402
from qadv.frontends.find import files as network_files  # noqa: E402
from qadv.frontends.find import quantized_weights  # noqa: E402
from qadv.frontends.onnx.network import FileNetwork  # noqa: E402
from qadv.frontends.other_backward import SURROGATES, clipped, other_backward  # noqa: E402
from tests.frontends.onnx.files import FORMS, SHAPE, float_model, images, write  # noqa: E402

X = images()
WRITTEN = ["nncf", "pt2e", "quark"]  # by other toolkits, see written/write.py
FLOAT = ["first", "second", "last"]  # layers with weights


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    written = {each.stem: each for each in Path(__file__).with_name("written").glob("*.onnx")}
    return {form: written.get(form) or write(form, folder) for form in (*FORMS, *WRITTEN)}


@pytest.fixture(scope="session")
def classifier(files):
    return qadv.QuantizedClassifier.from_file(files["qdq"], images=X)


def answers(path, x):
    """What onnxruntime says, asked as its users do."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    if "uint8" in path.name:
        return session.run(None, {name: (x * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)})[0]
    if path.stem in ("fixed", "dynamic"):
        return np.concatenate([session.run(None, {name: image[None]})[0] for image in x])
    return session.run(None, {name: x})[0]


@pytest.mark.parametrize("form", [*FORMS, *WRITTEN])
def test_values_are_the_runtimes_and_gradients_are_of_nearly_that_function(form, files):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        classifier = qadv.QuantizedClassifier.from_file(files[form], SHAPE, images=X)
    assert (classifier.input_shape, classifier.nb_classes) == (SHAPE, 5)
    expected = answers(files[form], X)
    expected = np.log(expected) if form == "softmax" else expected
    asked = torch.from_numpy(X.copy()).requires_grad_()
    given = classifier.model(asked)
    np.testing.assert_allclose(given.detach().numpy(), expected, rtol=1e-6 if form == "softmax" else 0)
    np.testing.assert_array_equal(classifier.predict(X), given.detach().numpy())
    (gradient,) = torch.autograd.grad(given[:, 0].sum(), asked)
    assert (gradient.flatten(1).abs().amax(1) > 0).float().mean() > 0.7  # the logits themselves are cut off
    twin = classifier.network.twin(torch.from_numpy(X)).detach().numpy()
    # rounded probabilities are coarser than their logarithms; of other files an image may lie on a tie
    np.testing.assert_allclose(twin, expected, atol=0.3 if form == "softmax" else 0.02)
    assert form == "softmax" or (np.abs(twin - expected).max(1) > 1e-4).sum() <= 1
    form = classifier.model.twin_form
    assert form.images > len(X)
    assert form.agreement == 1
    assert form.difference >= np.abs(twin - expected).max()
    adversarial = FastGradientMethod(classifier, eps=0.3).generate(X)
    assert (classifier.predict(adversarial).argmax(1) != expected.argmax(1)).mean() > 0.3


@pytest.mark.parametrize("form", ["qdq", "qoperator", "dynamic", "nhwc-uint8"])
def test_the_twins_gradient_is_that_of_the_float_network_where_nothing_is_cut_off(form, files):
    asked = torch.from_numpy(X.copy()).requires_grad_()
    gradients = []
    for path in (files["float"], files[form]):
        network = FileNetwork(path, SHAPE)
        (gradient,) = torch.autograd.grad(network(asked)[:, 1].sum(), asked)
        gradients.append(gradient.flatten(1))
    assert nn.functional.cosine_similarity(*gradients).mean() > 0.95


def test_no_gradient_passes_where_the_input_is_cut_off(classifier):
    """The file's first rounding ends at the largest pixel of calibration."""
    x = torch.full((1, *SHAPE), 0.5)
    x[0, 0, 0, 0], x[0, 0, 0, 1] = 1.5, float(X.max())
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(classifier.network(x).abs().sum(), x)
    assert gradient[0, 0, 0, 0] == 0
    assert gradient[0, 0, 0, 1] != 0
    assert gradient[0, 0, 0, 2] != 0


def test_without_a_gradient_only_the_runtime_works(classifier, monkeypatch):
    network = classifier.network
    monkeypatch.setattr(type(network.twin), "forward", lambda *_: pytest.fail("the twin was asked"))
    classifier.predict(X)
    network(torch.from_numpy(X))
    with torch.no_grad():
        network(torch.from_numpy(X.copy()).requires_grad_())


def test_an_image_has_one_answer_whatever_the_batch(files):
    """Images of a batch share the scales of dynamic quantization, so that they are asked one by one."""
    classifier = qadv.QuantizedClassifier.from_file(files["dynamic"])
    scaled = X * np.linspace(0.1, 1, len(X), dtype=np.float32)[:, None, None, None]
    alone = np.concatenate([classifier.predict(image[None]) for image in scaled])
    np.testing.assert_array_equal(classifier.predict(scaled), alone)
    asked = torch.from_numpy(scaled)
    one_by_one = torch.cat([classifier.network.twin(image[None]) for image in asked])
    torch.testing.assert_close(classifier.network.twin(asked), one_by_one)


def test_a_fixed_batch_is_not_the_twins(files):
    network = qadv.QuantizedClassifier.from_file(files["fixed"]).network
    assert network.twin.batch is None
    assert network.twin(torch.from_numpy(X)).shape == (len(X), 5)
    model = float_model(4)  # whose sizes can't be written for any batch
    model.graph.node.insert(6, onnx.helper.make_node("Expand", ["pooled", "whole"], ["expanded"]))
    model.graph.node[7].input[0] = "expanded"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([4, 8, 1, 1]), "whole"))
    path = files["fixed"].with_name("four.onnx")
    onnx.save(model, path)
    network = FileNetwork(path)
    assert network.twin.batch == 4
    x = torch.from_numpy(X[:6])
    torch.testing.assert_close(network.twin(x), network(x), atol=1e-4, rtol=1e-4)


def test_copies_and_what_art_rebuilds_answer_as_the_file_does(classifier):
    expected = classifier.predict(X)
    again = pickle.loads(pickle.dumps(classifier.network))
    assert torch.equal(again(torch.from_numpy(X)), torch.from_numpy(expected))
    plain = PyTorchClassifier(classifier.model, nn.CrossEntropyLoss(), SHAPE, 5, clip_values=(0.0, 1.0))
    for other in (copy.deepcopy(classifier), plain):
        np.testing.assert_array_equal(other.predict(X), expected)
        np.testing.assert_array_equal(
            other.loss_gradient(X, np.eye(5)[[0] * 24]), classifier.loss_gradient(X, [0] * 24)
        )
    attack = {"eps": 0.1, "eps_step": 0.05, "max_iter": 3, "nb_random_init": 1, "verbose": False}
    x = AutoProjectedGradientDescent(classifier, loss_type="difference_logits_ratio", **attack).generate(X)
    assert (classifier.predict(x).argmax(1) != expected.argmax(1)).any()
    gradients = classifier.class_gradient(X[:2])
    assert gradients.shape == (2, 5, *SHAPE)
    np.testing.assert_allclose(gradients[:, 3], classifier.class_gradient(X[:2], 3)[:, 0], atol=1e-5)


def test_files_are_members_modules_and_asked_in_common_batches(classifier, files):
    other = qadv.QuantizedClassifier.from_file(files["qoperator"])
    both = qadv.EnsembleClassifier.of([classifier, other])
    assert (both.predict(X).argmax(1) == classifier.predict(X).argmax(1)).mean() > 0.9
    assert np.abs(both.loss_gradient(X, [0] * 24)).max() > 0
    rows = qadv.summarize(both).layers
    assert [row.name.split(".")[-1] for row in rows] == [*FLOAT, *(f"{name}_quant" for name in FLOAT)]
    assert len({row.name for row in rows}) == 6
    assert sum(row.share for row in rows) == pytest.approx(1)
    assert list(network_files(both.model)) == ["member0/qdq.onnx", "member1/qoperator.onnx"]
    module = qadv.as_module(classifier)
    np.testing.assert_array_equal(module(torch.from_numpy(X)).detach().numpy(), classifier.predict(X))
    attack = ProjectedGradientDescent(classifier, eps=0.1, eps_step=0.05, max_iter=3, verbose=False)
    coalesced = qadv.QueryCoalescer(attack).generate(X[:4])
    np.testing.assert_array_equal(coalesced, attack.generate(X[:4]))


def test_what_was_found_is_said(classifier, files):
    said = classifier.network.describe()
    digest = hashlib.sha256(files["qdq"].read_bytes()).hexdigest()
    for part in (
        digest,
        "onnx.quantize",
        "QDQ form",
        "int8 per channel",
        onnxruntime.__version__,
        "QLinearConv 2",
        "with the network's values to the bit on ",
    ):
        assert part in said
    rows = qadv.summarize(classifier).layers
    assert [row.name for row in rows] == [f"layers.{name}" for name in FLOAT]
    assert {row.levels[1] for row in rows} == {256}
    assert rows[0].kind == "Conv"
    assert {(row.bits, row.input_scheme) for row in rows} == {(8, "uint8")}
    assert [row.parameters for row in rows] == [216, 576, 40]
    plain = FileNetwork(files["float"])
    assert "not quantized at all" in plain.describe()
    assert {(row.scheme, row.bits) for row in qadv.summarize(plain).layers} == {("float", 32)}
    assert qadv.summarize(FileNetwork(files["int4"])).layers[0].bits == 4
    assert {row.input_scheme for row in qadv.summarize(FileNetwork(files["dynamic"])).layers} == {"uint8, dynamic"}


@pytest.mark.parametrize(("form", "places"), [("qdq", 6), ("qoperator", 6), ("nhwc-uint8", 6), ("float", 0)])
def test_activations_of_a_file_may_have_another_gradient(form, places, files):
    classifier = qadv.QuantizedClassifier.from_file(files[form], SHAPE)
    before, own = classifier.predict(X), classifier.loss_gradient(X, [0] * 24)
    with other_backward(classifier.model, clipped):
        np.testing.assert_allclose(classifier.loss_gradient(X, [0] * 24), own, atol=1e-3 * np.abs(own).max())
    with other_backward(classifier.model, SURROGATES["tanh"]) as changed:
        assert changed >= places
        np.testing.assert_array_equal(classifier.predict(X), before)
        assert (np.abs(classifier.loss_gradient(X, [0] * 24) - own).max() > 0.01 * np.abs(own).max()) == (places > 0)
    np.testing.assert_array_equal(classifier.loss_gradient(X, [0] * 24), own)


def test_weights_in_a_file_are_what_the_runtime_computes_with(files):
    for form in ("qdq", "qoperator", "int4"):
        found = {each.layer: each for each in quantized_weights(FileNetwork(files[form], SHAPE))}
        assert len(found) == 3
        for name, weight in zip(FLOAT, ("w1", "w2", "w3"), strict=True):
            (expected,) = (a for a in float_model().graph.initializer if a.name == weight)
            (layer,) = (each for layer, each in found.items() if name in layer)
            value = layer.value.numpy()
            expected = onnx.numpy_helper.to_array(expected)
            expected = expected if value.shape == expected.shape else expected.T
            assert np.abs(value - expected).max() <= 0.51 * layer.scale.max()
            assert len(np.unique(layer.codes)) <= layer.nb_codes


def test_what_runs_inside_the_runtime_is_seen_by_no_module(classifier):
    with pytest.raises(UnsupportedModelError, match="quantized inside its kernels"):
        qadv.create("diagnostic", "value-shift", classifier=classifier, x=X, x_adversarial=X)


def test_results_say_which_file_it_was(classifier, files, monkeypatch):
    from qadv.diagnostics.audit import run

    checks = run.numbered_checks()
    monkeypatch.setattr(run, "numbered_checks", lambda: checks[:1])
    result = qadv.audit(classifier, X, classifier.predict(X).argmax(1), verbose=False)
    digest = hashlib.sha256(files["qdq"].read_bytes()).hexdigest()
    assert result.to_dict()["files"] == {"qdq.onnx": digest}
    assert f"of qdq.onnx, SHA-256 {digest[:16]}" in result.headline
    assert "a twin's, made from the graph" in result.gradient
    measured, _ = attack_classifier("FGSM", FastGradientMethod(classifier, eps=0.1), classifier, X, [0] * len(X))
    assert measured.to_dict()["files"] == {"qdq.onnx": digest}


def test_the_queries_of_a_file_are_its_runtimes_already(classifier):
    with pytest.raises(InvalidInputError, match=r"queries: the network is the file qdq.onnx, .* leave it out"):
        qadv.audit(classifier, X[:4], np.zeros(4, int), queries="onnxruntime", verbose=False)


def test_load_takes_a_file_and_save_says_to_keep_it(classifier, files, tmp_path):
    loaded = qadv.QuantizedClassifier.load(files["qdq"], clip_values=(0, 255), preprocessing=(0, 255))
    np.testing.assert_allclose(loaded.predict(X * 255), classifier.predict(X), atol=0.1)
    for write_again in (classifier.save, lambda path: qadv.export(classifier, path)):
        with pytest.raises(InvalidInputError, match=r"the network is the file qdq\.onnx"):
            write_again(tmp_path / "net.safetensors")
    simulated = qadv.QuantizedClassifier.from_file(files["qdq"], deploy=True)
    with pytest.raises(InvalidInputError, match=r"the network is the file qdq\.onnx \(simulated\) already"):
        qadv.accelerate(simulated, X[:4], engine="onnxruntime")
    with pytest.raises(InvalidInputError, match=r"qdq\.onnx is a network by itself"):
        read_header(files["qdq"])
    case = SimpleNamespace(target=SimpleNamespace(classifier=classifier), simulation=None)
    assert "is a file" in ExportedModel().examine(case).figure


def test_a_simulated_file_is_read_like_the_file(classifier, files, monkeypatch):
    simulated = qadv.QuantizedClassifier.from_file(files["qdq"], deploy=True)
    assert str(qadv.summarize(simulated)) == str(qadv.summarize(classifier))
    assert network_files(simulated.model) == {"qdq.onnx (simulated)": classifier.network.digest}
    assert "values: simulated in torch" in simulated.network.describe()
    monkeypatch.setattr(type(simulated.network._runtime), "__call__", None)
    gradient = simulated.loss_gradient(X, [0] * len(X))
    with other_backward(simulated.model, SURROGATES["tanh"]):
        assert not np.array_equal(simulated.loss_gradient(X, [0] * len(X)), gradient)
    np.testing.assert_array_equal(copy.deepcopy(simulated).predict(X), simulated.predict(X))


def test_bytes_have_the_ends_of_the_pixels(files):
    loaded = qadv.QuantizedClassifier.from_file(files["nhwc-uint8"], clip_values=(-1, 1))
    np.testing.assert_array_equal(loaded.predict(X * 2 - 1), answers(files["nhwc-uint8"], X))
    for arguments in ({"clip_values": (0, 255), "preprocessing": (0, 255)}, {"clip_values": None}):
        with pytest.raises(InvalidInputError, match="takes bytes"):
            qadv.QuantizedClassifier.from_file(files["nhwc-uint8"], **arguments)


@pytest.mark.parametrize("mover", ["Identity", "Transpose"])
def test_codes_of_images_are_the_numbers_that_the_file_says(mover, files, tmp_path):
    """An image's code is spread over the pixels only where the file does not say what it stands for, or says so."""

    def of_codes(kind, step, zero):
        model = float_model()
        model.graph.input[0].CopyFrom(
            onnx.helper.make_tensor_value_info(
                "codes", onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind)), ["n", 3, 8, 8]
            )
        )
        model.graph.initializer.extend(
            onnx.numpy_helper.from_array(value, name) for name, value in (("s", np.float32(step)), ("z", kind(zero)))
        )
        moved = node(mover, ["codes"], ["moved"], **({"perm": [0, 1, 2, 3]} if mover == "Transpose" else {}))
        beside = [node("Identity", ["s"], ["step"]), node("Shape", ["codes"], ["sizes"])]
        shaped = node("Reshape", ["numbers", "sizes"], ["images"])
        for each in (shaped, node("DequantizeLinear", ["moved", "step", "z"], ["numbers"]), *beside, moved):
            model.graph.node.insert(0, each)
        onnx.save(model, tmp_path / "codes.onnx")
        return tmp_path / "codes.onnx"

    symmetric = of_codes(np.int8, 1 / 127, 0)
    with pytest.raises(InvalidInputError, match=r"numbers from -1\.008 to 1 as codes; say how pixels become these"):
        qadv.QuantizedClassifier.from_file(symmetric)
    found = qadv.QuantizedClassifier.from_file(symmetric, preprocessing=(0, 1)).predict(X)
    np.testing.assert_allclose(found, answers(files["float"], np.rint(X * 127).astype(np.float32) / 127), atol=1e-4)
    bytes_of_pixels = qadv.QuantizedClassifier.from_file(of_codes(np.uint8, 1 / 255, 0))
    expected = answers(files["float"], np.rint(X * 255).astype(np.float32) / 255)
    np.testing.assert_allclose(bytes_of_pixels.predict(X), expected, atol=1e-4)


def test_images_are_put_into_another_shape_only_as_rows_of_pixels(classifier, files):
    with pytest.raises(InvalidInputError, match=r"takes images of sizes \(3, 8, 8\), got \(1, 16, 12\)"):
        qadv.QuantizedClassifier.from_file(files["qdq"], input_shape=(1, 16, 12))
    for name, value in (("input_shape", "abc"), ("clip_values", "x"), ("clip_values", (1, 0))):
        with pytest.raises(InvalidInputError, match=f"^{name}: expected .*, got {re.escape(repr(value))}"):
            qadv.QuantizedClassifier.from_file(files["qdq"], **{name: value})
    anywhere = qadv.QuantizedClassifier.from_file(files["qdq"], clip_values=None)
    np.testing.assert_array_equal(anywhere.predict(X), classifier.predict(X))
    assert anywhere.model.twin_form.agreement == 1


def _ending_in(folder, *nodes, output=("n", 5), **constants):
    """The network with other nodes from `scores`, its logits, to `logits`; of one image for such an `output`."""
    model = float_model(1 if output == (5,) else "n")
    model.graph.node[-1].output[0] = "scores"
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    in_codes = "zero" in constants and nodes[-1].op_type in ("QuantizeLinear", "Clip", "Max", "Gather")
    kind = onnx.helper.np_dtype_to_tensor_dtype(constants["zero"].dtype) if in_codes else 1
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("logits", kind, output))
    onnx.save(model, folder / "net.onnx")
    return folder / "net.onnx"


node = onnx.helper.make_node


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Softmax", ["scores"], ["p"], axis=1), node("Reshape", ["p", "rows_of_5"], ["logits"])],
        [
            node("Softmax", ["scores"], ["p"], axis=1),
            node("Cast", ["p"], ["c"], to=1),
            node("Flatten", ["c"], ["logits"]),
        ],
        [node("Softmax", ["scores"], ["p"], axis=1), node("Mul", ["p", "one"], ["logits"])],
        [
            node("Exp", ["scores"], ["e"]),
            node("ReduceSum", ["e", "axis"], ["total"]),
            node("Div", ["e", "total"], ["logits"]),
        ],
        [
            node("QuantizeLinear", ["scores", "step", "zero"], ["codes"]),
            node(
                "QLinearSoftmax",
                ["codes", "step", "zero", "of_256", "none"],
                ["p"],
                domain="com.microsoft",
                axis=1,
                opset=13,
            ),
            node("DequantizeLinear", ["p", "of_256", "none"], ["logits"]),
        ],
    ],
)
def test_of_probabilities_the_logits_are_the_logarithm_wherever_they_come_from(nodes, files, tmp_path):
    path = _ending_in(
        tmp_path, *nodes, rows_of_5=np.array([0, 5]), axis=np.array([1]), one=np.float32(1), step=np.float32(0.1),
        zero=np.uint8(128), of_256=np.float32(1 / 256), none=np.uint8(0),
    )  # fmt: skip
    classifier = qadv.QuantizedClassifier.from_file(path)
    scores = torch.from_numpy(answers(files["float"], X))
    rough = 0.3 if len(nodes[-1].input) == 3 else 1e-4
    np.testing.assert_allclose(classifier.predict(X), scores.log_softmax(1), atol=rough)
    np.testing.assert_allclose(classifier.network.twin(torch.from_numpy(X)).detach(), scores.log_softmax(1), atol=rough)
    assert "logarithm" in classifier.network.describe()
    in_parts = nodes[-1].op_type in ("Mul", "Div")  # else the twin's is a log-softmax, which has gradients everywhere
    assert classifier.network.twin.gives_probabilities == in_parts


def test_what_the_logits_do_not_need_may_be_anything(files, tmp_path):
    model = float_model()
    model.graph.node.append(node("ArgMax", [model.graph.output[0].name], ["label"], axis=1, keepdims=0))
    model.graph.output.append(onnx.helper.make_tensor_value_info("label", onnx.TensorProto.INT64, ["n"]))
    onnx.save(model, tmp_path / "label.onnx")
    with pytest.raises(InvalidInputError, match="several outputs"):
        qadv.QuantizedClassifier.from_file(tmp_path / "label.onnx")
    beside = qadv.QuantizedClassifier.from_file(tmp_path / "label.onnx", output=model.graph.output[0].name)
    np.testing.assert_allclose(beside.predict(X), answers(files["float"], X), atol=1e-5)
    assert np.abs(beside.loss_gradient(X, [0] * len(X))).max() > 0


@pytest.mark.parametrize("behind", ["Flatten", "no zero point"])
def test_of_codes_in_another_shape_the_logits_are_what_they_stand_for(behind, files, tmp_path):
    inputs = ["scores", "step"] if behind == "no zero point" else ["scores", "step", "zero"]
    flat = behind == "Flatten"
    nodes = [node("QuantizeLinear", inputs, ["codes" if flat else "logits"])]
    nodes += [node("Flatten", ["codes"], ["whole"]), node("Cast", ["whole"], ["logits"], to=1)] if flat else []
    path = _ending_in(tmp_path, *nodes, step=np.float32(0.1), zero=np.uint8(128))
    expected = answers(files["float"], X).clip(-12.8 if flat else 0, None)
    np.testing.assert_allclose(qadv.QuantizedClassifier.from_file(path).predict(X), expected, atol=0.051)


@pytest.mark.parametrize(
    ("behind", "more"),
    [
        (node("Clip", ["codes", "low"], ["logits"]), {"low": np.uint8(100)}),
        (node("Max", ["low", "codes"], ["logits"]), {"low": np.uint8(100)}),
        (node("Gather", ["codes", "order"], ["logits"], axis=1), {"order": np.array([2, 0, 1])}),
    ],
    ids=lambda given: getattr(given, "op_type", ""),
)
def test_some_of_the_codes_are_numbers_too(behind, more, files, tmp_path):
    rounding = node("QuantizeLinear", ["scores", "step", "zero"], ["codes"])
    path = _ending_in(tmp_path, rounding, behind, step=np.float32(0.1), zero=np.uint8(128), **more)
    expected = answers(files["float"], X)
    expected = expected[:, more["order"]] if "order" in more else expected.clip(-2.8)
    np.testing.assert_allclose(qadv.QuantizedClassifier.from_file(path).predict(X), expected, atol=0.051)


def test_codes_that_stand_for_no_one_numbers_are_refused(files, tmp_path):
    classes = answers(files["float"], X).shape[1]
    rounding = node("QuantizeLinear", ["scores", "steps", "zeros"], ["logits"], axis=1)
    steps = np.linspace(0.1, 0.5, classes).astype(np.float32)
    path = _ending_in(tmp_path, rounding, steps=steps, zeros=np.zeros(classes, np.uint8), zero=np.uint8(0))
    with pytest.raises(UnsupportedModelError, match="its output 'logits' is codes, UINT8"):
        qadv.QuantizedClassifier.from_file(path)
    two = [node("QuantizeLinear", ["scores", step, "zero"], [f"codes {step}"]) for step in ("one", "other")]
    larger = node("Max", ["codes one", "codes other"], ["logits"])
    path = _ending_in(tmp_path, *two, larger, one=np.float32(0.1), other=np.float32(0.3), zero=np.uint8(128))
    with pytest.raises(UnsupportedModelError, match="its output 'logits' is codes, UINT8"):
        qadv.QuantizedClassifier.from_file(path)


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
@pytest.mark.parametrize("softmax", [False, True])
def test_of_codes_the_logits_are_what_they_stand_for(kind, softmax, files, tmp_path):
    low, step = (np.iinfo(kind).min, 1 / 255) if softmax else (np.iinfo(kind).max - 100, 0.2)
    nodes = [node("QuantizeLinear", ["p" if softmax else "scores", "step", "zero"], ["logits"])]
    nodes = [node("Softmax", ["scores"], ["p"], axis=1), *nodes] if softmax else nodes
    path = _ending_in(tmp_path, *nodes, step=np.float32(step), zero=kind(low))
    classifier = qadv.QuantizedClassifier.from_file(path)
    scores = torch.from_numpy(answers(files["float"], X))
    expected = scores.log_softmax(1) if softmax else scores
    np.testing.assert_allclose(classifier.predict(X), expected, atol=0.3 if softmax else 0.11)
    assert np.abs(classifier.loss_gradient(X, [0] * 24)).max() > 1e-3


def test_what_gives_no_logits_is_refused(tmp_path):
    for output, *nodes in (
        (("n", 1), node("ArgMax", ["scores"], ["logits"], axis=1)),
        (("n", 1), node("ReduceMax", ["scores"], ["logits"], axes=[1])),
        (("n", 8, 8, 8), node("Identity", ["r2"], ["logits"])),
        ((5,), node("Reshape", ["scores", "five"], ["logits"])),
    ):
        path = _ending_in(tmp_path, *nodes, output=output, five=np.array([-1]))
        with pytest.raises((UnsupportedModelError, FileFormatError), match=r"expected (the )?logits|ArgMax"):
            qadv.QuantizedClassifier.from_file(path)


def test_the_first_images_of_a_gradient_tell_whether_the_twin_is_another_function(files):
    """Random images may all be of one class, whatever the twin computes."""
    file = qadv.QuantizedClassifier.from_file(files["qdq"])
    joined, twin = file.network.joined, file.network.twin
    before = joined.images
    joined.twin = nn.Sequential(twin, nn.Linear(5, 5))
    nn.init.constant_(joined.twin[1].bias, 0.0)
    joined.twin[1].weight.data = torch.eye(5).roll(1, 0)
    with pytest.warns(UserWarning, match=f"of {before + len(X)} images: they come from another function"):
        file.loss_gradient(X, [0] * len(X))
    assert joined.agreement == before / (before + len(X))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        file.loss_gradient(X[:4], [0] * 4)
    assert joined.images == before + len(X)


def test_a_gradient_asks_the_runtime_once(classifier, monkeypatch):
    asked, form = [], classifier.model.twin_form
    own = form._values
    monkeypatch.setattr(form, "_values", lambda x: asked.append(len(x)) or own(x))
    classifier.loss_gradient(X[:3], [0] * 3)
    assert asked == [3]


def test_a_batch_of_dynamic_quantization_holds_one_image(files, tmp_path):
    path = tmp_path / "dynamic.onnx"
    onnx.save(float_model(4), path)
    onnxruntime.quantization.quantize_dynamic(path, path, weight_type=onnxruntime.quantization.QuantType.QUInt8)
    loaded = qadv.QuantizedClassifier.from_file(path)
    np.testing.assert_array_equal(loaded.predict(X), answers(files["dynamic"], X))


def test_a_surrogate_gives_the_gradients_of_what_cannot_be_read(files, tmp_path):
    model = float_model()
    model.graph.node[5].op_type = "GlobalLpPool"
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(ValueError, match=r"can't be read: GlobalLpPool.*surrogate"):
        qadv.QuantizedClassifier.from_file(tmp_path / "net.onnx")
    surrogate = FileNetwork(files["float"])
    with pytest.warns(UserWarning, match=r"gradients are the surrogate's.*another function"):
        classifier = qadv.QuantizedClassifier.load(tmp_path / "net.onnx", surrogate=surrogate)
    np.testing.assert_array_equal(classifier.predict(X), answers(tmp_path / "net.onnx", X))
    plain = qadv.QuantizedClassifier.from_file(files["float"])
    np.testing.assert_array_equal(classifier.class_gradient(X, 0), plain.class_gradient(X, 0))


@pytest.mark.parametrize("as_json", [False, True])
def test_the_audit_command_takes_a_file_and_says_which(files, monkeypatch, as_json):
    from typer.testing import CliRunner

    from qadv.cli import app
    from qadv.commands import audit as command

    asked = []

    def audit(classifier, x, y, **options):
        asked.append(classifier.predict(x))
        return SimpleNamespace(to_dict=lambda: {"robust": 0.5}, passed=True)

    data = SimpleNamespace(take=lambda part, number: (X[:number], np.zeros(number, dtype=int)), classes=())
    monkeypatch.setattr(command, "audit_in_shards", audit)
    monkeypatch.setattr("qadv.commands.given.create", lambda *_, **__: data)
    arguments = ["audit", str(files["qdq"]), "--dataset", "digits", "--nb-test", "5", *["--json"] * as_json]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(asked[0], answers(files["qdq"], X[:5]))
    assert hashlib.sha256(files["qdq"].read_bytes()).hexdigest() in result.output
    assert ('"robust": 0.5' in result.output) == as_json
