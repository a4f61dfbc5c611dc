"""N-Attack against its definition and closed forms."""

import numpy as np
import pytest
import torch

import qadv
from qadv.attacks.draws import image_generators, normal
from qadv.errors import InvalidInputError
from tests.attacks.networks import SHAPE, counted, linear_case, plain, smooth_network

CPU = torch.device("cpu")


def by_definition(network, x, y, targeted, norm, eps, sigma, lr, early_stop, populations):
    """The algorithm for one image in NumPy, float64; `populations[k]` are the u of step k, (n, *shape)."""

    def logits(images):
        return network(torch.from_numpy(images.astype(np.float32))).detach().numpy()

    def project(images):
        change = images - x
        if norm == np.inf:
            return x + np.clip(change, -eps, eps)
        lengths = np.sqrt((change**2).reshape(len(change), -1).sum(1))
        return x + change * np.minimum(1, eps / np.maximum(lengths, 1e-30)).reshape(-1, 1, 1, 1)

    def image(z):
        return project(0.5 * (np.tanh(np.arctanh((2 * x.astype(np.float64) - 1) * (1 - 1e-6)) + z) + 1))

    mu = np.zeros(x.shape)
    for u in populations:
        tried = image(np.concatenate([mu[None], mu + sigma * u]))
        z = logits(tried)
        won = (z.argmax(1) == y) if targeted else (z.argmax(1) != y)
        if early_stop and won.any():
            return tried[np.flatnonzero(won)[0]]
        margins = z[:, y] - np.delete(z, y, axis=1).max(1)
        loss = np.maximum(0, -margins if targeted else margins)[1:]
        score = (loss - loss.mean()) / (loss.std() + 1e-7)
        mu = mu - lr / (len(u) * sigma) * np.einsum("n,nchw->chw", score, u)
    return image(mu[None])[0]


@pytest.mark.parametrize(("norm", "eps"), [(np.inf, 0.06), (2, 0.3)])
@pytest.mark.parametrize("early_stop", [False, True])
@pytest.mark.parametrize("targeted", [False, True])
def test_step_by_step_as_defined(norm, eps, targeted, early_stop):
    network = smooth_network()
    x = np.random.default_rng(3).random((5, *SHAPE)).astype(np.float32)
    y = network(torch.from_numpy(x)).argmax(1).numpy()
    y = (y + 1) % 4 if targeted else y
    settings = {"norm": norm, "eps": eps, "sigma": 0.1, "learning_rate": 0.05, "max_iter": 6, "nb_samples": 8}
    settings |= {"targeted": targeted, "early_stop": early_stop, "seed": 5, "batch_size": 18}
    attack = qadv.NAttack(plain(network, 4, SHAPE), verbose=False, **settings)
    found = attack.generate(x, y)
    for i, generator in enumerate(image_generators(5, range(5), CPU)):
        populations = [normal([generator], (8, *SHAPE))[0].numpy() for _ in range(6)]
        expected = by_definition(network, x[i], y[i], targeted, norm, eps, 0.1, 0.05, early_stop, populations)
        np.testing.assert_allclose(found[i], expected, atol=2e-5)
    assert (attack.queries == 6 * 9).any()  # not all of them were cut short
    assert early_stop or (attack.queries == 6 * 9).all()


@pytest.mark.parametrize("norm", ["inf", 2])
def test_breaks_a_linear_classifier_only_where_the_ball_reaches_its_boundary(norm):
    classifier, x, f, l1, l2 = linear_case()
    labels = (f < 0).astype(int)
    for share, broken in ((1.1, True), (0.95, False)):
        for i in range(len(x)):
            eps = share * abs(f[i]) / (l1 if norm == "inf" else l2)
            attack = qadv.NAttack(
                classifier, norm=norm, eps=eps, learning_rate=0.1, max_iter=60, nb_samples=60, seed=0, verbose=False
            )
            found = attack.generate(x[i : i + 1], labels[i : i + 1])
            assert (classifier.predict(found).argmax(1) != labels[i]).all() == broken


def test_queries_are_counted_and_broken_images_leave():
    classifier, x, f, l1, _ = linear_case()
    labels = (f < 0).astype(int)
    attack = qadv.NAttack(
        classifier,
        eps=np.median(np.abs(f)) / l1,
        learning_rate=0.2,
        max_iter=12,
        nb_samples=7,
        batch_size=20,
        verbose=False,
    )
    with counted(classifier.model) as rows:
        found = attack.generate(x, labels)
    broken = classifier.predict(found).argmax(1) != labels
    early = attack.queries < 12 * 8
    assert early.any()
    assert not broken.all()
    assert broken[early].all()
    assert attack.queries.sum() == sum(rows)
    assert max(rows) == 16  # two images at once
    assert (attack.queries % 8 == 0).all()


def test_an_image_that_is_wrong_already_stays_where_it_is():
    classifier, x, f, *_ = linear_case()
    attack = qadv.NAttack(classifier, nb_samples=10, verbose=False)
    np.testing.assert_allclose(attack.generate(x, (f > 0).astype(int)), x, atol=2e-6)
    assert (attack.queries == 11).all()


def test_pixels_at_the_ends_of_the_range_are_slow_but_not_stuck():
    network = smooth_network()
    x = np.tile(np.array([0, 1], dtype=np.float32), (2, 1, 4, 2))
    y = network(torch.from_numpy(x)).argmax(1).numpy()
    attack = qadv.NAttack(
        plain(network, 4, SHAPE), eps=0.9, learning_rate=5, max_iter=30, nb_samples=30, seed=0, verbose=False
    )
    assert np.abs(attack.generate(x, y) - x).max() > 0.1


def test_needs_the_range_of_the_pixels():
    with pytest.raises(InvalidInputError, match="give the classifier clip_values"):
        qadv.NAttack(plain(smooth_network(), 4, SHAPE, clip_values=None))
