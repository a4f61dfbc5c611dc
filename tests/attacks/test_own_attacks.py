"""What holds for each of qadv's attacks, whatever it does."""

import itertools
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from art.attacks import EvasionAttack
from art.defences.postprocessor import Rounded
from art.defences.preprocessor import FeatureSqueezing
from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing
from art.estimators.classification import SklearnClassifier
from sklearn.linear_model import LogisticRegression
from torch import nn

import qadv
from qadv.errors import AttackError, InvalidInputError
from tests.attacks.networks import SHAPE, counted, linear_case, plain, smooth_network
from tests.blur import Blur

SETTINGS = {
    "spsa": {"eps": 0.1, "max_iter": 5, "nb_samples": 8, "learning_rate": 0.03, "batch_size": 40},
    "n-attack": {"eps": 0.1, "max_iter": 5, "nb_samples": 9, "learning_rate": 0.1, "batch_size": 40},
    "square": {"eps": 0.1, "max_iter": 12, "batch_size": 4},
    "ddn": {"max_iter": 8, "batch_size": 4},
    "r-fgsm": {"eps": 0.1, "batch_size": 4},
    "uniform-noise": {"eps": 0.1, "max_iter": 3, "batch_size": 4},
    "gaussian-noise": {"std": 0.1, "max_iter": 3, "batch_size": 4},
}
ALL = sorted(SETTINGS)
LINF = ["spsa", "n-attack", "square", "r-fgsm", "uniform-noise"]
WITH_TARGETS = ["spsa", "n-attack", "square", "ddn", "r-fgsm"]
WHITE_BOX = ["ddn", "r-fgsm"]
BLACK_BOX = sorted(set(ALL) - set(WHITE_BOX))


def make(name, classifier, **options):
    return qadv.create("attack", name, classifier, **{"verbose": False, "seed": 0, **SETTINGS[name], **options})


@pytest.fixture
def images():
    return np.random.default_rng(3).random((7, *SHAPE)).astype(np.float32)


@pytest.fixture
def network():
    return smooth_network()


def labels_of(network, x):
    return network(torch.from_numpy(x)).argmax(1).numpy()


@pytest.mark.parametrize("name", ALL)
def test_images_come_back_as_float32_of_the_same_shape_in_the_range_of_the_pixels(name, trained, digits):
    x = digits.x_test[:7].astype(np.float64)
    before = x.copy()
    attack = make(name, trained)
    found = attack.generate(x, digits.y_test[:7])
    assert isinstance(attack, EvasionAttack)
    assert found.dtype == np.float32
    assert found.shape == x.shape
    assert found.min() >= 0
    assert found.max() <= 1
    np.testing.assert_array_equal(x, before)
    assert (found != x).any()
    if name in LINF:
        assert np.abs(found - x).max() <= 0.1 + 1e-6
    assert attack.queries.shape == (7,)
    assert attack.queries.dtype == np.int64


@pytest.mark.parametrize("name", ALL)
def test_a_seed_decides_the_result_and_torchs_global_state_is_left_alone(name, network, images):
    classifier = plain(network, 4, SHAPE)
    state = torch.get_rng_state()
    first, again = (make(name, classifier, seed=1).generate(images) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert torch.equal(torch.get_rng_state(), state)
    if name != "ddn":  # draws only where the gradient is zero
        assert (make(name, classifier, seed=2).generate(images) != first).any()


@pytest.mark.parametrize("name", sorted(set(ALL) - {"ddn"}))
def test_without_a_seed_numpys_global_state_decides(name, network, images):
    attack = make(name, plain(network, 4, SHAPE), seed=None)
    np.random.seed(4)
    first, other = attack.generate(images), attack.generate(images)
    np.random.seed(4)
    np.testing.assert_array_equal(attack.generate(images), first)
    assert (first != other).any()


@pytest.mark.parametrize("name", ALL)
def test_an_image_fares_the_same_in_any_batch_and_company(name):
    classifier, x, f, *_ = linear_case(n=7)
    labels = (f < 0).astype(int)
    found = make(name, classifier).generate(x, labels)
    for batch_size in (1, 3, 100):
        again = make(name, classifier, batch_size=batch_size).generate(x, labels)
        np.testing.assert_allclose(again, found, atol=1e-5)
    others = x[::-1].copy()
    others[4] = x[4]
    np.testing.assert_allclose(make(name, classifier).generate(others, labels)[4], found[4], atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_labels_are_indices_or_one_hot_or_the_predictions(name, network, images):
    classifier = plain(network, 4, SHAPE)
    labels = labels_of(network, images)
    attack = make(name, classifier)
    with counted(network) as rows:
        found = attack.generate(images, labels)
    assert attack.queries.sum() == sum(rows)
    queries = attack.queries
    np.testing.assert_array_equal(attack.generate(images, np.eye(4)[labels]), found)
    with counted(network) as rows:
        np.testing.assert_array_equal(attack.generate(images), found)
    assert attack.queries.sum() == sum(rows)
    assert (attack.queries == queries + 1).all()


@pytest.mark.parametrize("name", WITH_TARGETS)
def test_targeted_attacks_go_to_the_target(name):
    classifier, x, f, *_ = linear_case()
    target = (f > 0).astype(int)  # the other of two classes
    long = {
        "spsa": {"max_iter": 40}, "n-attack": {"max_iter": 60, "nb_samples": 30}, "ddn": {"max_iter": 60},
        "square": {"max_iter": 300},
    }  # fmt: skip
    options = {**({"eps": 0.4} if name in LINF else {}), **long.get(name, {}), "targeted": True}
    found = make(name, classifier, **options).generate(x, target)
    assert (classifier.predict(found).argmax(1) == target).all()


@pytest.mark.parametrize("name", WITH_TARGETS)
def test_a_targeted_attack_needs_targets(name, network, images):
    with pytest.raises(InvalidInputError, match="needs the target classes, got None"):
        make(name, plain(network, 4, SHAPE), targeted=True).generate(images)


class Standardised(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner((x - 0.4) / 0.3)


@pytest.mark.parametrize("kind", ["plain", "quantized"])
@pytest.mark.parametrize("name", ALL)
def test_preprocessing_is_part_of_what_is_attacked(name, kind, network, images):
    if kind == "plain":
        inside, outside = Standardised(network), network
        expected = make(name, plain(inside, 4, SHAPE)).generate(images)
        found = make(name, plain(outside, 4, SHAPE, preprocessing=(0.4, 0.3))).generate(images)
    else:
        settings = {"loss": nn.CrossEntropyLoss(), "input_shape": SHAPE, "nb_classes": 4}
        quantized = qadv.quantize(smooth_network(), "int:4", "float", skip_first_last=False)
        expected = make(name, qadv.QuantizedClassifier(Standardised(quantized), **settings)).generate(images)
        with_pair = qadv.QuantizedClassifier(quantized, preprocessing=(0.4, 0.3), **settings)
        found = make(name, with_pair).generate(images)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert (np.abs(found - make(name, plain(network, 4, SHAPE)).generate(images)) > 1e-3).any()


@pytest.mark.parametrize("name", ALL)
def test_torch_preprocessors_are_part_of_what_is_attacked(name, network, images):
    class Blurred(nn.Module):
        def forward(self, x):
            return network(Blur().forward(x)[0])

    expected = make(name, plain(Blurred(), 4, SHAPE)).generate(images)
    found = make(name, plain(network, 4, SHAPE, preprocessing_defences=Blur())).generate(images)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_numpy_preprocessors_are_honoured_through_predict(name, network, images):
    squeezing = FeatureSqueezing(clip_values=(0, 1), bit_depth=1)
    classifier = qadv.QuantizedClassifier(network, nn.CrossEntropyLoss(), SHAPE, 4, preprocessing_defences=squeezing)
    attack = make(name, classifier)
    labels = labels_of(network, images)
    with counted(network) as rows:
        found = attack.generate(images, labels)
    # loss_gradient predicts once more
    assert sum(rows) == attack.queries.sum() * (2 if name in WHITE_BOX else 1)
    assert (found != images).any()


@pytest.mark.parametrize("name", BLACK_BOX)
def test_black_box_attacks_see_what_predict_returns(name, network, images):
    """Rounded outputs and a vote over noise are those of `predict`, not of the network."""
    labels = labels_of(network, images)
    rounded = plain(network, 4, SHAPE, postprocessing_defences=Rounded(decimals=1))
    found, bare = (make(name, c, batch_size=1).generate(images, labels) for c in (rounded, plain(network, 4, SHAPE)))
    if name in ("spsa", "n-attack"):
        assert (found != bare).any()
    smoothing = PyTorchRandomizedSmoothing(
        network, nn.CrossEntropyLoss(), SHAPE, 4, device_type="cpu", sample_size=3, scale=0.01, clip_values=(0, 1)
    )
    with counted(network) as rows:
        attack = make(name, smoothing)
        attack.generate(images, labels)
    assert sum(rows) == 3 * attack.queries.sum()


@pytest.mark.parametrize("defence", [None, FeatureSqueezing(clip_values=(0, 1), bit_depth=4)], ids=["none", "numpy"])
@pytest.mark.parametrize("name", BLACK_BOX)
def test_probabilities_of_a_sure_network_hide_nothing(name, defence, network, images):
    """Margins of probabilities are 1 throughout; the logits are there, and are asked."""
    sure = nn.Sequential(network, Times(1000))
    labels = labels_of(network, images)
    settings = {"input_shape": SHAPE, "nb_classes": 4, "preprocessing_defences": defence}
    both = [qadv.QuantizedClassifier(sure, nn.CrossEntropyLoss(), probabilities=p, **settings) for p in (False, True)]
    assert both[1].predict(images).max(1).min() > 0.999
    found = [make(name, classifier).generate(images, labels) for classifier in both]
    np.testing.assert_array_equal(*found)


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


@pytest.mark.parametrize("name", sorted(set(ALL) - {"square"}))  # squares need images
def test_classifiers_that_are_no_torch_networks_are_attacked_too(name, digits):
    model = LogisticRegression(max_iter=500).fit(digits.x_train[:300].reshape(300, -1), digits.y_train[:300])
    classifier = SklearnClassifier(model, clip_values=(0.0, 1.0))
    x = digits.x_test[:5].reshape(5, -1)
    options = {} if name == "ddn" else {"std" if name == "gaussian-noise" else "eps": 0.4}
    found = make(name, classifier, **options).generate(x)
    assert found.shape == x.shape
    if name in ("ddn", "r-fgsm"):
        assert (classifier.predict(found).argmax(1) != classifier.predict(x).argmax(1)).all()


@pytest.mark.parametrize("name", ALL)
def test_the_network_is_in_evaluation_mode_meanwhile_and_in_its_own_mode_afterwards(name, images):
    seen = []

    class Watch(nn.Module):
        def forward(self, x):
            seen.append(self.training)
            return x

    network = nn.Sequential(Watch(), smooth_network(), nn.Dropout(0.9))
    classifier = plain(network, 4, SHAPE)
    network.train()
    network[0].eval()
    modes = [module.training for module in network.modules()]
    first = make(name, classifier).generate(images)
    assert [module.training for module in network.modules()] == modes
    assert seen
    assert not any(seen)
    np.testing.assert_array_equal(make(name, classifier).generate(images), first)  # no dropout
    assert all(p.grad is None for p in network.parameters())


@contextmanager
def interrupted(network, after):
    """Someone presses Ctrl-C at the forward pass that follows `after` others."""
    passes = itertools.count()

    def press(module, inputs):
        if next(passes) >= after:
            raise KeyboardInterrupt

    handle = network.register_forward_pre_hook(press)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("name", ALL)
def test_an_interrupt_keeps_what_was_found(name, network, images):
    classifier = plain(network, 4, SHAPE)
    labels = labels_of(network, images)
    attack = make(name, classifier, batch_size=2)
    expected = attack.generate(images, labels)
    with counted(network) as rows:
        attack.generate(images[:4], labels[:4])
    queries = attack.queries
    network.train()
    with interrupted(network, after=len(rows)), pytest.raises(KeyboardInterrupt):
        attack.generate(images, labels)
    np.testing.assert_array_equal(attack.partial[:4], expected[:4])
    np.testing.assert_array_equal(attack.partial[6:], images[6:])
    np.testing.assert_array_equal(attack.queries[:4], queries)
    assert network.training


@pytest.mark.parametrize("name", ["spsa", "n-attack", "ddn"])
def test_an_interrupt_within_a_batch_keeps_its_progress(name):
    classifier, x, f, *_ = linear_case()
    labels = (f < 0).astype(int)
    labels[0] = 1 - labels[0]  # wrong from the start
    attack = make(name, classifier, max_iter=60, batch_size=200)
    with interrupted(classifier.model, after=6), pytest.raises(KeyboardInterrupt):
        attack.generate(x, labels)
    assert (classifier.predict(attack.partial).argmax(1) != labels).any()
    assert (attack.queries > 0).all()


@pytest.mark.parametrize(
    ("name", "parameter", "value", "expected"),
    [
        *((name, "batch_size", 0, "a whole number of at least 1") for name in ALL),
        *((name, "batch_size", 2.5, "a whole number of at least 1") for name in ALL),
        *((name, "seed", -1, "a whole number of at least 0") for name in ALL),
        *((name, "seed", "one", "a whole number of at least 0") for name in ALL),
        *((name, "verbose", 1, "True or False") for name in ALL),
        *((name, "targeted", "yes", "True or False") for name in WITH_TARGETS),
        *((name, "eps", -0.1, "a finite number of at least 0") for name in LINF),
        *((name, "eps", float("nan"), "a finite number of at least 0") for name in LINF),
        *((name, "eps", float("inf"), "a finite number of at least 0") for name in LINF),
        *((name, "eps", "8/0", "a finite number of at least 0, or a fraction such as 8/255") for name in LINF),
        *((name, "eps", 4, r"at most 1, the range of the pixels \(0 to 1\)") for name in LINF),
        ("n-attack", "eps", "4", r"at most 1, the range of the pixels \(0 to 1\)"),
        ("ddn", "init_eps", 100, "at most .*, the largest L2 distance"),
        *((name, "max_iter", 0, "a whole number of at least 1") for name in ALL if name != "r-fgsm"),
        *((name, "max_iter", True, "a whole number of at least 1") for name in ALL if name != "r-fgsm"),
        *((name, "learning_rate", 0, "a finite number above 0") for name in ("spsa", "n-attack")),
        ("spsa", "delta", 0.0, "a finite number above 0"),
        ("spsa", "nb_samples", 0, "a whole number of at least 1"),
        ("n-attack", "nb_samples", 1, "a whole number of at least 2"),
        ("n-attack", "sigma", -1, "a finite number above 0"),
        ("n-attack", "norm", 1, "one of inf, 2"),
        ("ddn", "init_eps", 0, "a finite number above 0"),
        ("ddn", "gamma", 1.0, "a finite number above 0 and below 1"),
        ("ddn", "quantize", 256, "True or False"),
        ("r-fgsm", "random_eps", -1, "a finite number of at least 0"),
        ("gaussian-noise", "std", -1, "a finite number of at least 0"),
    ],
)
def test_wrong_parameters_are_named(name, parameter, value, expected, network):
    classifier = plain(network, 4, SHAPE)
    pattern = rf"^{parameter}: expected {expected}.*, got {value!r}"
    with pytest.raises(InvalidInputError, match=pattern):
        make(name, classifier, **{parameter: value})
    attack = make(name, classifier)
    assert parameter in attack.attack_params
    with pytest.raises(ValueError, match=pattern):  # what ART's own attacks raise
        attack.set_params(**{parameter: value})


@pytest.mark.parametrize("name", LINF)
def test_a_radius_may_be_written_as_a_fraction(name, network):
    attack = make(name, plain(network, 4, SHAPE), eps="8/255")
    assert attack.eps == 8 / 255
    attack.set_params(eps="4/255")
    assert attack.eps == 4 / 255


@pytest.mark.parametrize("name", ALL)
def test_bad_inputs_are_refused(name, network, images):
    attack = make(name, plain(network, 4, SHAPE))
    for x, y, message in [
        (images * 255, None, "divide by 255"),
        (images[0], None, r"use x\[None\]"),
        (images[:0], None, "empty"),
        (np.where(images > 0.9, np.nan, images), None, "NaN"),
        (images, [0, 1], "expected 7 labels"),
        (images, [4] * 7, "labels from 4 to 4"),
    ]:
        with pytest.raises(InvalidInputError, match=message):
            attack.generate(x, y)
    with pytest.raises(InvalidInputError, match="takes x and y; got also mask"):
        attack.generate(images, mask=np.ones(SHAPE))


class Masked(nn.Module):
    """Hides the gradient of the bright images."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        bright = (x[:, :1, :1, :1] > 0.5).float()
        return self.inner(x.detach() * bright + x * (1 - bright))


@pytest.mark.parametrize("name", WHITE_BOX)
def test_masked_gradients_are_reported(name, network, images):
    images[:, 0, 0, 0] = [0.9, 0.1, 0.9, 0.1, 0.1, 0.1, 0.9]
    with pytest.warns(UserWarning, match=r"exactly zero for 3 of 7 images \(43%\)") as caught:
        make(name, plain(Masked(network), 4, SHAPE)).generate(images)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(name, plain(network, 4, SHAPE)).generate(images)


class Rooted(nn.Module):
    """Its gradient is NaN where pixels are 0."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x.sqrt() * 0 + x)


@pytest.mark.parametrize("name", WHITE_BOX)
def test_gradients_that_are_not_finite_are_refused(name, network, images):
    images[1] = 0
    with pytest.raises(AttackError, match="NaN or infinite for 1 of 4 images"):
        make(name, plain(Rooted(network), 4, SHAPE), **({"random_eps": 0.0} if name == "r-fgsm" else {})).generate(
            images
        )


@pytest.mark.parametrize("name", ALL)
def test_logits_that_are_nan_are_refused(name, network, images):
    with torch.no_grad():
        network.last.bias[2] = torch.nan
    with pytest.raises(AttackError, match="logits are NaN"):
        make(name, plain(network, 4, SHAPE)).generate(images, np.zeros(7))


def test_one_output_for_two_classes_is_refused(images):
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
    with pytest.raises(InvalidInputError, match=r"nb_classes=2 .* got outputs of shape \(N, 1\)"):
        make("spsa", plain(network, 2, SHAPE)).generate(images, np.zeros(7))


@pytest.mark.parametrize("name", ALL)
def test_progress_is_shown_where_wanted(name, network, images, capsys):
    make(name, plain(network, 4, SHAPE)).generate(images)
    assert capsys.readouterr().err == ""
    attack = make(name, plain(network, 4, SHAPE), verbose=True)
    attack.generate(images)
    shown = capsys.readouterr().err
    assert type(attack).__name__ in shown
    assert "7/7" in shown


def test_eps_of_zero_changes_nothing(network, images):
    for name in LINF:
        found = make(name, plain(network, 4, SHAPE), eps=0).generate(images)
        np.testing.assert_allclose(found, images, atol=1e-6)
