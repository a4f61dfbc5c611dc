"""A `.tflite` file is a network: LiteRT's values, the twin's gradients, whoever wrote it."""

import copy
import pickle
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from litert_files import FILES, SHAPE, answers, edited, images
from torch import nn

import qadv
from qadv.errors import InvalidInputError
from qadv.frontends import file_frontend
from qadv.testing import conformance

FORMS = {"int8": "int8 kernels", "int16": "int16 kernels", "dynamic": "dynamic range", "weight-only": "in floats"}
AS_THEY_ARE = {"preprocessing": (0.0, 1.0)}
X = images()

test_front_end = conformance(
    "frontend", "litert", network=lambda: file_frontend("a.tflite").read(FILES / "int8.tflite"), input_shape=SHAPE
)


@pytest.fixture(scope="module")
def classifier():
    return qadv.QuantizedClassifier.from_file(FILES / "int8.tflite", images=X)


@pytest.mark.parametrize("form", FORMS)
def test_values_are_the_runtimes_and_gradients_are_of_nearly_that_function(form):
    path = FILES / f"{form}.tflite"
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        classifier = qadv.QuantizedClassifier.from_file(path, images=X, **AS_THEY_ARE)
    expected = answers(path, X)
    assert (classifier.input_shape, classifier.nb_classes) == (SHAPE, 5)
    np.testing.assert_array_equal(classifier.predict(X), expected)
    asked = torch.from_numpy(X.copy()).requires_grad_()
    given = classifier.model(asked)
    np.testing.assert_array_equal(given.detach().numpy(), expected)
    (gradient,) = torch.autograd.grad(given.square().sum(), asked)
    assert (gradient.flatten(1).abs().amax(1) > 0).all()
    twin = classifier.network.twin(torch.from_numpy(X)).detach().numpy()
    np.testing.assert_allclose(twin, expected, atol=2e-3)
    assert FORMS[form] in classifier.network.describe()


def test_all_layers_are_shown_with_their_bits_and_inputs():
    for form, scheme in (("int8", "int8"), ("int16", "int16")):
        network = qadv.QuantizedClassifier.from_file(FILES / f"{form}.tflite", **AS_THEY_ARE)
        rows = qadv.summarize(network).layers
        assert [(row.kind, row.bits, row.scheme) for row in rows][:-1] == [("Conv", 8, "int8 per channel")] * 4
        assert (rows[-1].kind, rows[-1].bits) == ("Gemm", 8)
        assert {row.input_scheme for row in rows} == {scheme}


def test_copies_and_what_art_rebuilds_answer_as_the_file_does(classifier):
    expected = classifier.predict(X)
    again = pickle.loads(pickle.dumps(classifier.network))
    assert torch.equal(again(torch.from_numpy(X)), torch.from_numpy(expected))
    plain = PyTorchClassifier(classifier.model, nn.CrossEntropyLoss(), SHAPE, 5, clip_values=(0.0, 1.0))
    for other in (copy.deepcopy(classifier), plain):
        np.testing.assert_array_equal(other.predict(X), expected)


def test_codes_mean_what_the_file_says(tmp_path):
    """Where that can be the pixels of only one range; else it has to be said."""

    def standing_for(scale, zero):
        def edit(model):
            grid = model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]].quantization
            grid.scale, grid.zeroPoint = np.float32([scale]), np.array([zero])

        return edited("int8", edit, tmp_path / "net.tflite")

    path = standing_for(1 / 255, -128)
    for clip_values in ((0, 1), (0, 255)):
        classifier = qadv.QuantizedClassifier.from_file(path, clip_values=clip_values)
        np.testing.assert_array_equal(classifier.predict(X * clip_values[1]), answers(path, X))
    path = standing_for(1 / 127, 0)
    with pytest.raises(InvalidInputError, match=r"net\.tflite takes numbers from -1.008 to 1 as codes; say how pixels"):
        qadv.QuantizedClassifier.from_file(path)
    symmetric = qadv.QuantizedClassifier.from_file(path, preprocessing=(0.0, 1.0))
    np.testing.assert_array_equal(symmetric.predict(X), answers(path, X))
    centred = qadv.QuantizedClassifier.from_file(path, preprocessing=(0.5, 0.5))
    np.testing.assert_array_equal(centred.predict(X), answers(path, X * 2 - 1))


def test_copies_of_an_interpreter_are_asked_one_after_the_other(classifier):
    """Which they share, and which is for one thread at a time."""
    shared = classifier.network._runtime
    runtime, other = copy.copy(shared), copy.deepcopy(shared)
    assert other is shared
    runtime._interpreter = SimpleNamespace(
        get_input_details=lambda: [{"index": 0}], get_output_details=lambda: [{"index": 1, "name": "y"}],
        set_tensor=lambda _, images: setattr(runtime, "given", images), invoke=lambda: time.sleep(0.02),
        get_tensor=lambda _: runtime.given,
    )  # fmt: skip
    with ThreadPoolExecutor(3) as threads:
        assert [int(found) for found in threads.map(runtime, map(np.array, range(3)))] == [0, 1, 2]


def test_a_twin_is_asked_for_many_images_at_a_time(classifier):
    assert classifier.network.twin.batch is None
