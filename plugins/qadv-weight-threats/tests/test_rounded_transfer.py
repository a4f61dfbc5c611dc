"""Images that hold on several networks, as 8-bit images."""

import numpy as np
import pytest
import torch
from qadv_weight_threats.rounded_transfer import RoundedTransfer

import qadv
from qadv.errors import InvalidInputError
from qadv.testing import digits_classifier

DATA = qadv.create("dataset", "digits")
X, Y = DATA.x_test[:64], DATA.y_test[:64]
OPTIONS = {"eps": 0.12, "eps_step": 0.04, "seed": 0, "verbose": False}


def wrong(network, images):
    return network.predict(images).argmax(axis=1) != Y


@pytest.fixture(scope="module")
def fleet():
    network = digits_classifier("float", "float")
    return [network, *(qadv.PostTrainingQuantization(network, f"int:{bits}", "relu6:4")() for bits in (4, 2))]


@pytest.fixture(scope="module")
def found(fleet):
    first, *others = fleet
    return RoundedTransfer(first, max_iter=8, others=others, **OPTIONS).generate(X, Y)


def test_images_are_8_bit_images_of_the_ball(found):
    levels = 255 * found.astype(np.float64)
    np.testing.assert_allclose(levels, levels.round(), atol=1e-4)
    assert np.abs(found - X).max() <= 0.12 + 1e-6
    assert found.min() >= 0
    assert found.max() <= 1


def test_they_hold_on_all_networks_more_often_than_images_made_on_one(fleet, found):
    alone = RoundedTransfer(fleet[0], max_iter=8, **OPTIONS).generate(X, Y)
    on_all, by_one = (np.all([wrong(each, images) for each in fleet], axis=0) for images in (found, alone))
    assert on_all.mean() > by_one.mean() + 0.04


def test_one_step_is_that_of_the_mean_margin_at_the_rounded_image(fleet):
    """An own account of a step that carries every pixel to the edge of its interval."""
    networks = fleet[:2]
    attack = RoundedTransfer(networks[0], others=networks[1:], max_iter=1, eps=0.1, eps_step=1.0, verbose=False, seed=0)
    images = attack.generate(X, Y)
    least, most = np.ceil(255 * np.clip(X - 0.1, 0, 1) - 1e-4), np.floor(255 * np.clip(X + 0.1, 0, 1) + 1e-4)
    at_edge = (255 * images <= least + 0.5) | (255 * images >= most - 0.5)
    assert at_edge.reshape(len(X), -1).all(axis=1).mean() > 0.9  # all but those whose start was better

    def margins(x):
        x = torch.from_numpy(x).requires_grad_()
        total = 0.0
        for network in networks:
            z = qadv.as_module(network)(x)
            own = z[torch.arange(len(x)), torch.from_numpy(Y)]
            rest = z.masked_fill(torch.nn.functional.one_hot(torch.from_numpy(Y), 10).bool(), -1e9).amax(1)
            total = total + (own - rest) / len(networks)
        return total.detach().numpy(), torch.autograd.grad(total.sum(), x)[0].numpy()

    before, slope = margins(X)
    toward = np.where(slope > 0, least, most) / 255
    assert (margins(images)[0] < before).mean() > 0.95
    agree = np.abs(images - toward) < 1e-3
    assert agree[(np.abs(slope) > np.quantile(np.abs(slope), 0.8)) & (least < most)].mean() > 0.8


def test_a_target_is_gone_for(fleet):
    goals = (Y + 1) % 10
    images = RoundedTransfer(
        fleet[0], others=fleet[1:2], max_iter=10, targeted=True, **(OPTIONS | {"eps": 0.3})
    ).generate(X, goals)
    assert np.mean(fleet[0].predict(images).argmax(1) == goals) > np.mean(fleet[0].predict(X).argmax(1) == goals) + 0.3


def test_pixels_whose_ball_has_no_level_stay(fleet):
    x = (X * 255 * 0.9 + 0.5).astype(np.float32) / 255  # between two levels
    x = (np.floor(255 * x) + 0.5).astype(np.float32) / 255
    images = RoundedTransfer(fleet[0], max_iter=1, eps=0.001, seed=0, verbose=False).generate(np.clip(x, 0, 1), Y)
    np.testing.assert_allclose(images, np.clip(x, 0, 1), atol=1e-6)


def test_what_is_no_classifier_is_refused(fleet):
    with pytest.raises(InvalidInputError, match="others: expected ART PyTorchClassifiers, got str"):
        RoundedTransfer(fleet[0], others=["float"])
