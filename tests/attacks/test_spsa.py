"""SPSA against its definition, closed forms and other toolkits."""

import itertools

import numpy as np
import pytest
import torch

import qadv
from qadv.attacks.draws import image_generators, signs
from qadv.attacks.spsa import spsa, spsa_gradient
from tests.attacks.networks import SHAPE, counted, linear_case, plain, smooth_network

CPU = torch.device("cpu")


def test_the_gradient_of_a_linear_loss_is_exact_over_all_signs_and_a_projection_for_each():
    w = torch.tensor([1.0, -2.0, 0.5, 3.0])
    x = torch.rand(3, 4)
    v = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4)))

    def loss(points):
        return points @ w + 7

    every = spsa_gradient(loss, x, v.expand(3, 16, 4), delta=0.3)
    torch.testing.assert_close(every, w.expand(3, 4))
    single = spsa_gradient(loss, x, v[None, 5:6].expand(3, 1, 4), delta=0.3)
    torch.testing.assert_close(single, ((w @ v[5]) * v[5]).expand(3, 4))


def test_probes_are_symmetric_around_the_point_itself():
    asked = []

    def loss(points):
        asked.append(points)
        return points.flatten(1).sum(1)

    x = torch.rand(2, *SHAPE)
    v = signs(image_generators(0, range(2), CPU), (3, *SHAPE))
    spsa_gradient(loss, x, v, delta=0.25)
    probes = asked[0].view(2, 2, 3, *SHAPE)
    torch.testing.assert_close(probes.mean(dim=(1, 2)), x)
    torch.testing.assert_close((probes - x[:, None, None]).abs(), torch.full_like(probes, 0.25))


def by_definition(network, x, y, targeted, eps, delta, lr, steps, early_stop, directions):
    """The algorithm for one image in NumPy; `directions[k]` are the signs of step k, (n, *shape)."""

    def loss(image):
        z = network(torch.from_numpy(image[None].astype(np.float32))).detach().numpy()[0]
        value = z[y] - np.delete(z, y).max()
        return -value if targeted else value

    point, m, s = x.astype(np.float64), 0.0, 0.0
    for k in range(steps):
        if early_stop and loss(point) < 0:
            break
        g = np.mean([(loss(point + delta * v) - loss(point - delta * v)) / (2 * delta) * v for v in directions[k]], 0)
        m = 0.9 * m + 0.1 * g
        s = 0.999 * s + 0.001 * g * g
        point = point - lr * (m / (1 - 0.9 ** (k + 1))) / (np.sqrt(s / (1 - 0.999 ** (k + 1))) + 1e-8)
        point = np.clip(np.clip(point, x - eps, x + eps), 0, 1)
    return point


@pytest.mark.parametrize("early_stop", [False, True])
@pytest.mark.parametrize("targeted", [False, True])
def test_step_by_step_as_defined(targeted, early_stop):
    network = smooth_network()
    x = np.random.default_rng(3).random((5, *SHAPE)).astype(np.float32)
    y = network(torch.from_numpy(x)).argmax(1).numpy()
    y = (y + 1) % 4 if targeted else y
    settings = {"eps": 0.08, "delta": 0.02, "learning_rate": 0.02, "max_iter": 7, "nb_samples": 6}
    settings["early_stop"] = early_stop
    attack = qadv.SPSA(plain(network, 4, SHAPE), targeted=targeted, seed=5, verbose=False, batch_size=24, **settings)
    found = attack.generate(x, y)
    for i, generator in enumerate(image_generators(5, range(5), CPU)):
        directions = [signs([generator], (6, *SHAPE))[0].numpy() for _ in range(7)]
        expected = by_definition(network, x[i], y[i], targeted, 0.08, 0.02, 0.02, 7, early_stop, directions)
        np.testing.assert_allclose(found[i], expected, atol=2e-5)
    assert np.abs(found - x).max() > 0.05


def test_small_gradients_move_an_image_as_far_whatever_the_units_of_its_pixels():
    class Faint(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = smooth_network()

        def forward(self, x):
            return 1e-7 * self.inner(x)

    x = np.random.default_rng(3).random((2, *SHAPE)).astype(np.float32)
    found = []
    for width in (1.0, 255.0):
        classifier = plain(Faint(), 4, SHAPE, clip_values=(0.0, width), preprocessing=(0.0, width))
        attack = qadv.SPSA(classifier, max_iter=3, nb_samples=4, seed=0, verbose=False)
        found.append(attack.generate(width * x, np.zeros(2, dtype=int)) / width - x)
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)
    assert 0.002 < np.abs(found[0]).max() < 0.029  # Adam's tiny number is felt


def test_breaks_a_linear_classifier_just_where_the_ball_reaches_its_boundary():
    classifier, x, f, l1, _ = linear_case()
    labels = (f < 0).astype(int)
    for share, broken in ((1.05, True), (0.95, False)):
        for i in range(len(x)):
            eps = share * abs(f[i]) / l1
            attack = qadv.SPSA(
                classifier, eps=eps, learning_rate=eps / 4, max_iter=60, nb_samples=16, seed=0, verbose=False
            )
            found = attack.generate(x[i : i + 1], labels[i : i + 1])
            assert (classifier.predict(found).argmax(1) != labels[i]).all() == broken


def test_all_steps_are_made_for_all_images_also_for_one_that_is_wrong_already():
    classifier, x, f, l1, _ = linear_case()
    labels = (f < 0).astype(int)
    labels[0] = 1 - labels[0]
    eps = 1.5 * np.max(np.abs(f)) / l1
    settings = {"eps": eps, "learning_rate": eps / 3, "max_iter": 9, "nb_samples": 4, "batch_size": 16, "seed": 0}
    to_the_end = qadv.SPSA(classifier, verbose=False, **settings)
    with counted(classifier.model) as rows:
        farther = to_the_end.generate(x, labels)
    assert (to_the_end.queries == 9 * 2 * 4).all()
    assert to_the_end.queries.sum() == sum(rows)
    nearer = qadv.SPSA(classifier, early_stop=True, verbose=False, **settings).generate(x, labels)
    margins = [classifier.predict(found)[np.arange(len(x)), labels] for found in (x, nearer, farther)]
    assert (classifier.predict(nearer).argmax(1) != labels).all()
    assert (margins[0] >= margins[1]).all()
    assert (margins[1] > margins[2]).all()  # beyond the boundary, which is what other networks are fooled by


def test_with_early_stop_broken_images_leave():
    classifier, x, f, l1, _ = linear_case()
    labels = (f < 0).astype(int)
    eps = np.median(np.abs(f)) / l1
    attack = qadv.SPSA(
        classifier,
        eps=eps,
        learning_rate=eps / 3,
        max_iter=9,
        nb_samples=4,
        early_stop=True,
        batch_size=16,
        verbose=False,
    )
    with counted(classifier.model) as rows:
        found = attack.generate(x, labels)
    broken = classifier.predict(found).argmax(1) != labels
    assert broken.any()
    assert not broken.all()
    assert attack.queries.sum() == sum(rows)
    assert max(rows) == 16
    assert rows[0] == 2  # two images at once
    assert (attack.queries[~broken] == 9 * (2 * 4 + 1)).all()
    early = attack.queries < 9 * 9  # what the last step breaks has cost as much as what it does not
    assert early.any()
    assert broken[early].all()
    assert (attack.queries % 9 == np.where(early, 1, 0)).all()


def test_with_early_stop_an_image_that_is_wrong_already_is_left_alone():
    classifier, x, f, *_ = linear_case()
    attack = qadv.SPSA(classifier, early_stop=True, verbose=False)
    np.testing.assert_array_equal(attack.generate(x, (f > 0).astype(int)), x)
    assert (attack.queries == 1).all()


def test_a_masked_network_is_broken_without_gradients(trained, digits):
    class Steep(torch.nn.Module):
        """Rounds its input: the gradient is zero everywhere."""

        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(torch.round(x * 64) / 64)

    classifier = plain(Steep(trained.model))
    x, y = digits.x_test[:6], digits.y_test[:6]
    assert not classifier.loss_gradient(x, np.eye(10, dtype=np.float32)[y]).any()
    attack = qadv.SPSA(classifier, eps=0.35, delta=0.03, learning_rate=0.05, max_iter=40, nb_samples=32, verbose=False)
    assert (classifier.predict(attack.generate(x, y)).argmax(1) != y).mean() >= 0.5


def test_agrees_with_torchattacks_under_its_draws(digits, monkeypatch):
    """For one image, since images share their signs there; it is broken on the way, and both go on."""
    torchattacks = pytest.importorskip("torchattacks")
    network = smooth_network(nb_classes=10, shape=(1, 8, 8))
    x = torch.from_numpy(digits.x_test[:1])
    y = network(x).argmax(1)
    peer = torchattacks.SPSA(network, eps=0.2, delta=0.02, lr=0.05, nb_iter=5, nb_sample=16, max_batch_size=16)
    torch.manual_seed(1)
    expected = peer(x, y)
    same = torch.Generator().manual_seed(1)
    monkeypatch.setattr(
        "qadv.attacks.spsa.signs",
        lambda *_: torch.empty(16, 1, 1, 8, 8).bernoulli_(generator=same).mul_(2).sub_(1).view(1, 16, 1, 8, 8),
    )
    attack = qadv.SPSA(
        plain(network), eps=0.2, delta=0.02, learning_rate=0.05, max_iter=5, nb_samples=16, verbose=False
    )
    np.testing.assert_allclose(attack.generate(x.numpy(), y.numpy()), expected, atol=2e-5)
    assert network(expected).argmax(1) != y
    assert attack.queries == 5 * 32


def test_yields_after_each_step():
    network = smooth_network()
    x = torch.full((2, *SHAPE), 0.5)
    steps = spsa(
        network,
        x,
        network(x).argmax(1),
        targeted=False,
        eps=1e-3,
        delta=0.01,
        learning_rate=1e-3,
        max_iter=3,
        nb_samples=2,
        early_stop=True,
        limits=(0.0, 1.0),
        generators=image_generators(0, range(2), CPU),
    )
    assert [found.queries.tolist() for found in steps] == [[1, 1], [6, 6], [11, 11], [15, 15]]
