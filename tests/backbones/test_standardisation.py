"""timm's networks get pixels as they were trained on them: standardised by timm's mean and std, if nothing is said."""

import warnings

import numpy as np
import pytest
import timm
import torch
from torch import nn

import qadv
from qadv.backbones import create_backbone
from qadv.backbones.standardisation import own_standardisation
from qadv.errors import PixelRangeWarning
from qadv.estimators.storage import mean_std

NAME = "test_resnet"  # timm's smallest
MEAN, STD = (np.array(timm.get_pretrained_cfg(NAME).to_dict()[name]) for name in ("mean", "std"))


def made(name=NAME, **options):
    options = {"input_shape": (3, 32, 32), "weights": "float", "activations": "float", **options}
    return qadv.QuantizedClassifier.from_backbone(name, **options)


@pytest.fixture(scope="module")
def network():
    return timm.create_model(NAME, num_classes=10)


@pytest.mark.parametrize("clip_values", [(0, 1), (-1, 1), (0, 255), None])
def test_a_timm_name_brings_its_own_in_the_range_of_the_pixels(clip_values):
    low, high = clip_values or (0, 1)
    mean, std = mean_std(made(clip_values=clip_values))
    np.testing.assert_allclose(mean, low + (high - low) * MEAN, rtol=1e-6)
    np.testing.assert_allclose(std, (high - low) * STD, rtol=1e-6)


def test_the_network_sees_the_same_in_any_range():
    x = np.random.default_rng(0).random((2, 3, 32, 32), dtype=np.float32)
    seen = []
    for low, high in ((0, 1), (-1, 1), (0, 255)):
        classifier = made(clip_values=(low, high))
        seen.append(classifier._apply_preprocessing((low + (high - low) * x).astype(np.float32), None)[0])
    np.testing.assert_allclose(seen[0], (x - MEAN[:, None, None]) / STD[:, None, None], atol=1e-5)
    np.testing.assert_allclose(seen, [seen[0]] * 3, atol=1e-4)


def test_what_is_given_wins_and_qadvs_backbones_have_none():
    assert own_standardisation(create_backbone("small-image-resnet"), 3) is None, "of timm's parts, but not timm's"
    for classifier in (made(preprocessing=(0, 1)), made("resnet20")):
        assert [value.tolist() for value in mean_std(classifier)] == [0, 1]
    mean, std = mean_std(made(preprocessing=(0.5, 0.25)))
    assert (mean, std) == (0.5, 0.25)


def test_it_survives_quantizing_saving_and_loading(tmp_path):
    classifier = made(weights="int:4", activations="relu6:4")
    classifier.save(tmp_path / "net.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = qadv.QuantizedClassifier.load(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(mean_std(again), mean_std(classifier))
    plain = made(preprocessing=(0, 1))
    plain.save(tmp_path / "plain.safetensors")  # as a file from before there was a default
    assert mean_std(qadv.QuantizedClassifier.load(tmp_path / "plain.safetensors"))[0] == 0


def test_calibration_images_are_standardised_by_it():
    x = np.random.default_rng(0).random((4, 3, 32, 32), dtype=np.float32)
    schemes = {"weights": "int:8", "activations": "relu6:8", "calibration": x}
    networks = []
    for preprocessing in (None, (MEAN.tolist(), STD.tolist())):
        torch.manual_seed(0)
        networks.append(made(**schemes, preprocessing=preprocessing))
    np.testing.assert_array_equal(*(classifier.predict(x) for classifier in networks))


def test_other_numbers_of_channels_have_the_mean_of_timms(network):
    for channels in (1, 4):
        mean, std = own_standardisation(network, channels)
        assert (mean, std) == ([pytest.approx(MEAN.mean())], [pytest.approx(STD.mean())])
    assert own_standardisation(nn.Linear(2, 2), 3) is None


def test_a_network_of_timm_says_so_where_nothing_is_said_of_pixels(network):
    arguments = (network, nn.CrossEntropyLoss(), (3, 32, 32), 10)
    with pytest.warns(PixelRangeWarning, match=r"comes from timm with mean and std.*preprocessing=\(\[0") as caught:
        qadv.QuantizedClassifier(*arguments)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with pytest.warns(PixelRangeWarning, match="comes from timm"):
        qadv.EnsembleClassifier.of([network, network], input_shape=(3, 32, 32), nb_classes=10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = qadv.QuantizedClassifier(*arguments, preprocessing=(0, 1))
        qadv.EnsembleClassifier.of([one, made()]).combined_by("vote")
        made()
