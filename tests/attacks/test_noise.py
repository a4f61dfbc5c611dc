"""Noise: its distribution, its bounds, and which draw is kept."""

import numpy as np
import pytest
import torch
from torch import nn

import qadv
from qadv.attacks.draws import image_generators, uniform
from tests.attacks.networks import SHAPE, counted, linear_case, plain


@pytest.fixture
def grey():
    classifier = plain(nn.Sequential(nn.Flatten(), nn.Linear(1024, 2)), 2, (1, 32, 32))
    return classifier, np.full((20, 1, 32, 32), 0.5, dtype=np.float32)


def test_uniform_noise_fills_its_interval(grey):
    classifier, x = grey
    change = qadv.UniformNoise(classifier, eps=0.2, seed=0, verbose=False).generate(x) - x
    assert np.abs(change).max() <= 0.2 + 1e-6
    quartiles = np.quantile(change, [0.01, 0.25, 0.5, 0.75, 0.99])
    np.testing.assert_allclose(quartiles, [-0.196, -0.1, 0, 0.1, 0.196], atol=0.005)


def test_gaussian_noise_has_its_standard_deviation_and_is_clipped(grey):
    classifier, x = grey
    change = qadv.GaussianNoise(classifier, std=0.1, seed=0, verbose=False).generate(x) - x
    assert change.std() == pytest.approx(0.1, rel=0.02)
    assert change.mean() == pytest.approx(0, abs=0.003)
    assert (np.abs(change) > 0.2).mean() == pytest.approx(0.0455, abs=0.006)
    clipped = qadv.GaussianNoise(classifier, std=0.5, seed=0, verbose=False).generate(x)
    assert clipped.min() == 0
    assert clipped.max() == 1


def test_images_get_noise_of_their_own(grey):
    classifier, x = grey
    found = qadv.UniformNoise(classifier, seed=0, verbose=False).generate(x)
    assert len(np.unique(found.reshape(len(x), -1), axis=0)) == len(x)


@pytest.mark.parametrize("name", ["UniformNoise", "GaussianNoise"])
def test_one_draw_does_not_ask_the_network(name):
    classifier, x, *_ = linear_case()
    attack = getattr(qadv, name)(classifier, verbose=False)
    with counted(classifier.model) as rows:
        attack.generate(x)
    assert rows == []
    assert (attack.queries == 0).all()


def test_the_first_draw_that_changes_the_prediction_is_kept_and_the_last_if_none_does():
    classifier, x, f, _, l2 = linear_case(n=10)
    labels = (f < 0).astype(int)
    eps = np.median(np.abs(f)) / l2  # one draw in 20 or so will do
    attack = qadv.UniformNoise(classifier, eps=eps, max_iter=12, seed=3, batch_size=4, verbose=False)
    with counted(classifier.model) as rows:
        found = attack.generate(x, labels)
    assert attack.queries.sum() == sum(rows)
    kept = []
    for i, generator in enumerate(image_generators(3, range(10), torch.device("cpu"))):
        draws = [np.clip(x[i] + eps * uniform([generator], SHAPE)[0].numpy(), 0, 1) for _ in range(12)]
        broken = classifier.predict(np.stack(draws).astype(np.float32)).argmax(1) != labels[i]
        kept.append(int(broken.argmax()) if broken.any() else 11)
        np.testing.assert_allclose(found[i], draws[kept[-1]], atol=1e-6)
    assert (attack.queries == np.minimum(np.array(kept) + 1, 11)).all()
    assert 0 < sum(k < 11 for k in kept) < 10
