import random
import signal
import threading
from itertools import zip_longest

import numpy as np
import pytest
import torch
from art.attacks import EvasionAttack
from art.attacks.evasion import (
    AutoProjectedGradientDescent,
    BoundaryAttack,
    CarliniL2Method,
    DeepFool,
    ElasticNet,
    FastGradientMethod,
    HopSkipJump,
    NewtonFool,
    ProjectedGradientDescent,
    SaliencyMapMethod,
    SignOPTAttack,
    SimBA,
    SpatialTransformation,
    SquareAttack,
    UniversalPerturbation,
    ZooAttack,
)
from art.estimators import BaseEstimator
from art.estimators.classification import PyTorchClassifier
from torch import nn

from qadv import QueryCoalescer
from qadv.errors import InvalidInputError
from qadv.random_states import RandomStates, entropy_from_global_state, global_states_kept

RANDOM_ATTACKS = {
    "zoo": lambda net: ZooAttack(
        net, max_iter=3, nb_parallel=8, use_resize=False, learning_rate=0.5, initial_const=10, variable_h=0.2
    ),
    "sign-opt": lambda net: SignOPTAttack(net, targeted=False, max_iter=1, num_trial=2, k=3),
    "simba": lambda net: SimBA(net, attack="px", max_iter=25, epsilon=0.5),
    "hop-skip-jump": lambda net: HopSkipJump(net, max_iter=1, max_eval=20, init_eval=10),
    "boundary": lambda net: BoundaryAttack(net, targeted=False, max_iter=3),
    "square": lambda net: SquareAttack(net, max_iter=8, eps=0.2),
    "pgd": lambda net: ProjectedGradientDescent(net, eps=0.1, eps_step=0.02, max_iter=4, num_random_init=1),
}
WHITE_BOX_ATTACKS = {
    "carlini": lambda net: CarliniL2Method(net, max_iter=3, binary_search_steps=2, initial_const=1, learning_rate=0.1),
    "deepfool": lambda net: DeepFool(net, max_iter=20),
    "elastic-net": lambda net: ElasticNet(net, max_iter=3, binary_search_steps=2, initial_const=1),
    "newtonfool": lambda net: NewtonFool(net, max_iter=8),
    "saliency": lambda net: SaliencyMapMethod(net, theta=0.5, gamma=0.2),
    "fgm": lambda net: FastGradientMethod(net, eps=0.1),
    "apgd": lambda net: AutoProjectedGradientDescent(net, eps=0.1, eps_step=0.02, max_iter=4, nb_random_init=1),
}
ATTACKS = RANDOM_ATTACKS | WHITE_BOX_ATTACKS


def softmaxed(network):
    """SimBA wants probabilities, and takes them for what they are; the other attacks do not mind."""
    model = nn.Sequential(network.model, nn.Softmax(1))
    return PyTorchClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0.0, 1.0))


@pytest.fixture(scope="module")
def plain(trained):
    """A `PyTorchClassifier` as ART makes it, on the trained 4-bit network."""
    return PyTorchClassifier(trained.model, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0.0, 1.0))


@pytest.fixture(scope="module")
def images(digits, trained):
    """Seven images, the third misclassified."""
    right = trained.predict(digits.x_test).argmax(1) == digits.y_test
    chosen = np.flatnonzero(right)[:7]
    chosen[2] = np.flatnonzero(~right)[0]
    return digits.x_test[chosen], np.eye(10, dtype=np.float32)[digits.y_test[chosen]]


def one_by_one(attack, x, y, seed):
    """The attack itself, called for each sample alone, with the random states that a run has."""
    results = []
    with global_states_kept(), entropy_from_global_state(threading.Thread):
        for index in range(len(x)):
            RandomStates(np.random.SeedSequence(seed, spawn_key=(index,))).put_in_place()
            results.append(attack.generate(x[index : index + 1], y[index : index + 1]))
    return np.concatenate(results)


def make(name, network):
    attack = ATTACKS[name](softmaxed(network) if name == "simba" else network)
    attack.verbose = False
    return attack


def coalesce(attack, **options):
    return QueryCoalescer(attack, **{"seed": 3, "verbose": False, **options})


def wins(network, x_adv, y):
    return network.predict(x_adv).argmax(1) != y.argmax(1)


def distance(x_adv, x):
    return np.linalg.norm((x_adv - x).reshape(len(x), -1), axis=1)


@pytest.mark.parametrize("name", ATTACKS)
def test_the_result_is_that_of_the_attack_on_each_sample_alone(name, plain, images):
    x, y = images
    attack = make(name, plain)
    expected = one_by_one(attack, x, y, seed=3)
    assert distance(expected, x).max() > 0
    # to the bit where the network sees the same batches
    assert np.array_equal(coalesce(attack, concurrency=1, batch_size=attack.batch_size).generate(x, y), expected)

    merged = coalesce(attack, concurrency=4)
    got = merged.generate(x, y)
    # one rounding on the other side of a decision sends a run another way, though not to another quality
    same = np.isclose(got, expected, atol=1e-5).all(axis=(1, 2, 3))
    assert same.mean() >= (0.5 if name in RANDOM_ATTACKS else 0.8)
    assert np.allclose(distance(got, x), distance(expected, x), rtol=0.3, atol=1e-3)
    assert merged.finished.all()
    assert merged.batches < merged.queries.sum()


@pytest.mark.parametrize("name", ["zoo", "hop-skip-jump", "boundary", "square", "fgm"])
def test_same_seeds_give_the_same_result_to_the_bit(name, trained, images):
    x, y = images
    results = []
    for caller_seed, threads in ((0, 1), (1, 2)):
        random.seed(caller_seed)
        np.random.seed(caller_seed)
        torch.manual_seed(caller_seed)
        torch.set_num_threads(threads)
        try:
            results.append(coalesce(make(name, trained)).generate(x, y))
        finally:
            torch.set_num_threads(1)
    assert np.array_equal(results[0], results[1])
    if name in RANDOM_ATTACKS:
        assert not np.array_equal(results[0], coalesce(make(name, trained), seed=4).generate(x, y))


def test_a_sample_does_not_depend_on_the_others(plain, images):
    x, y = images
    others = x[::-1].copy()
    others[3] = x[3]
    labels = y[::-1].copy()
    labels[3] = y[3]
    first, second = (coalesce(make("simba", plain)).generate(*pair) for pair in ((x, y), (others, labels)))
    assert np.allclose(first[3], second[3], atol=1e-5)
    assert not np.allclose(first[2], second[2], atol=1e-5)


def test_the_attack_and_the_estimator_stay_as_they_were(plain, images):
    attack = make("zoo", plain)
    noise, settings = attack._current_noise.copy(), set(vars(plain))
    coalesce(attack).generate(*images)
    assert np.array_equal(attack._current_noise, noise)
    assert attack.adam_mean is None
    assert attack.estimator is plain
    assert set(vars(plain)) == settings


@pytest.mark.parametrize("seed", [5, None])
def test_random_states_of_the_caller(seed, plain, images):
    np.random.seed(1)
    np.random.randn(3)  # leaves a cached normal number, part of the state
    random.seed(1)
    expected = np.random.get_state()
    if seed is None:
        np.random.randint(2**31)
        expected = np.random.get_state()
        np.random.seed(1)
        np.random.randn(3)
    python_state, torch_state = random.getstate(), torch.get_rng_state()
    merged = coalesce(make("square", plain), seed=seed)
    merged.generate(*images)
    for got, wanted in zip(np.random.get_state(), expected, strict=True):
        assert np.array_equal(got, wanted)
    assert random.getstate() == python_state
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.random.seed(1)
    first, second = merged.generate(*images), merged.generate(*images)
    assert np.array_equal(first, second) == (seed is not None)
    np.random.seed(1)
    assert np.array_equal(first, merged.generate(*images))


def test_queries_of_all_runs_share_calls(plain, images, monkeypatch):
    x, y = images
    rows = []
    predict = PyTorchClassifier.predict
    monkeypatch.setattr(PyTorchClassifier, "predict", lambda self, x, **k: rows.append(len(x)) or predict(self, x, **k))
    attack = make("simba", plain)
    attack.max_iter = 2
    one_by_one(attack, x, y, seed=3)
    alone = len(rows)
    rows.clear()
    merged = coalesce(attack, concurrency=3)
    merged.generate(x, y)
    assert merged.queries.sum() == sum(rows) == alone
    assert merged.batches == len(rows)
    assert merged.queries[2] == 1  # misclassified from the start
    assert max(rows) == 3
    assert len(rows) < alone / 2
    coalesce(attack, batch_size=2).generate(x, y)
    assert max(rows[merged.batches :]) == 2


class Drifting(EvasionAttack):
    """Looks once or three times before each of four steps, depending on the image, as a line search does."""

    _estimator_requirements = (BaseEstimator,)

    def generate(self, x, y=None):
        for _ in range(4):
            for _ in range(looks(x)):
                self.estimator.predict(x)
            self.estimator.class_gradient(x)
        return x


def looks(image):
    return 1 + 2 * (np.count_nonzero(image) % 2)


def test_queries_wait_for_others_of_their_kind(trained, images):
    x, y = images
    kinds = [4 * ("p" * looks(image) + "g") for image in x]
    assert {len(own) for own in kinds} == {8, 16}
    merged = coalesce(Drifting(estimator=trained))
    assert np.array_equal(merged.generate(x, y), x)
    assert merged.queries.tolist() == [len(own) for own in kinds]
    without = sum(len({*asked} - {None}) for asked in zip_longest(*kinds))
    assert 16 <= merged.batches < without


class Probe(EvasionAttack):
    """Asks for each kind of answer and keeps them; adds `step` to every image."""

    _estimator_requirements = (BaseEstimator,)
    seen: list = []

    def __init__(self, estimator, step=0.1, fail_on=None, parts=()):
        super().__init__(estimator=estimator)
        self.step = step
        self.fail_on = fail_on
        self.parts = list(parts)
        self.settings = []

    def generate(self, x, y=None, **kwargs):
        assert not self.settings
        self.settings.append(kwargs)
        assert not hasattr(self.estimator, "mark")
        self.estimator.mark = True
        self.estimator.predict(x)
        labels = y.argmax(1)
        network = self.estimator
        answers = {
            "loss_gradient": network.loss_gradient(np.repeat(x, 2, 0), np.repeat(y, 2, 0)),
            "one loss_gradient": network.loss_gradient(x, y),
            "class_gradient": network.class_gradient(x),
            "one class_gradient": network.class_gradient(x, label=int(labels[0])),
            "array class_gradient": network.class_gradient(x, label=labels),
            "mixed class_gradient": network.class_gradient(np.repeat(x, 2, 0), label=np.array([1, labels[0]])),
            "compute_loss": network.compute_loss(x, y),
            "mean compute_loss": network.compute_loss(x, y, reduction="mean"),
            "float64 predict": network.predict(x.astype(np.float64)),
        }
        self.seen.append((x, (answers, network, kwargs)))
        if self.fail_on is not None and (x == self.fail_on).all():
            raise ArithmeticError("no way out")
        return np.clip(x + self.step, 0, 1)


def seen_by(x):
    """Returns what the probes have seen, in the order of the images, and forgets it."""
    found = sorted(Probe.seen, key=lambda pair: [(pair[0] == image).all() for image in x].index(True))
    Probe.seen = []
    return [seen for _, seen in found]


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(reduction="sum"),
        nn.CrossEntropyLoss(weight=torch.arange(1.0, 11.0)),
        nn.CrossEntropyLoss(label_smoothing=0.1),
    ],
    ids=["mean", "sum", "weighted", "smoothed"],
)
def test_merged_answers_are_those_to_single_queries(loss, trained, images):
    network = PyTorchClassifier(trained.model, loss, (1, 8, 8), 10, clip_values=(0.0, 1.0))
    x, y = images
    Probe.seen = []
    merged = coalesce(Probe(network), concurrency=5)
    merged.generate(x, y)
    together = [answers for answers, *_ in seen_by(x)]
    for index in range(len(x)):
        Probe(network).generate(x[index : index + 1], y[index : index + 1])
        del network.mark
    for merged_answers, (answers, *_) in zip(together, seen_by(x), strict=True):
        assert merged_answers.keys() == answers.keys()
        for name, answer in answers.items():
            assert merged_answers[name].shape == answer.shape, name
            assert merged_answers[name].dtype == answer.dtype, name
            assert np.allclose(merged_answers[name], answer, rtol=1e-3, atol=1e-5), name
    assert merged.queries.tolist() == [12] * len(x)


def test_what_depends_on_the_batch_is_not_merged(make_classifier, images):
    rows = []

    class Recording(PyTorchClassifier):
        def predict(self, x, **kwargs):
            rows.append((len(x), kwargs))
            return super().predict(x, **kwargs)

    class Training(Probe):
        def generate(self, x, y=None, **kwargs):
            self.estimator.predict(np.repeat(x, 2, 0), training_mode=True)
            self.estimator.predict(x, batch_size=5)
            return x

    model = make_classifier().model
    coalesce(Training(Recording(model, nn.CrossEntropyLoss(), (1, 8, 8), 10))).generate(*images)
    assert rows[:7] == [(2, {"batch_size": 128, "training_mode": True})] * 7
    assert rows[7:] == [(7, {"batch_size": 32, "training_mode": False})]


def test_the_network_is_shared_and_never_copied(plain, images):
    x, y = images
    inner = Probe(PyTorchClassifier(plain.model, plain.loss, (1, 8, 8), 10))
    Probe.seen = []
    attack = Probe(plain, parts=[inner])
    coalesce(attack).generate(x[:2], y[:2])
    (_, first, _), (_, second, _) = seen_by(x)
    assert first is not second
    assert first.model is second.model is plain.model
    assert isinstance(first, PyTorchClassifier)
    from qadv.estimators.query_coalescer import _own_copy

    attack.network = plain.model
    own = _own_copy(attack, lambda query: None)
    assert own.network is plain.model
    assert own.parts[0].estimator.model is plain.model
    assert own.parts[0].estimator is not inner.estimator


@pytest.mark.parametrize("name", ["hop-skip-jump", "boundary"])
def test_starting_points_are_divided_among_the_samples(name, trained, images):
    x, y = images
    mask = np.ones_like(x)
    mask[..., 4, 4] = 0
    start = np.roll(x, 1, axis=0) * mask + x * (1 - mask)
    begun_with = np.roll(x, 1, axis=0)
    merged = coalesce(make(name, trained), concurrency=3)
    got = merged.generate(x, y, x_adv_init=begun_with, mask=mask)
    assert np.array_equal(begun_with, np.roll(x, 1, axis=0))  # HopSkipJump writes into its own
    start = start if name == "hop-skip-jump" else begun_with
    right = trained.predict(x).argmax(1) != trained.predict(start).argmax(1)
    assert right.sum() >= 4
    assert (distance(got, x) <= distance(start, x) + 1e-5)[right].all()
    assert (trained.predict(got).argmax(1) != trained.predict(x).argmax(1)).mean() > 0.7
    with pytest.raises(InvalidInputError, match=r"x_adv_init: expected shape \(7, 1, 8, 8\).*got \(6, 1, 8, 8\)"):
        merged.generate(x, y, x_adv_init=start[:6])


def test_masks_and_other_arguments(plain, images):
    x, y = images
    rows = np.arange(7, dtype=np.float32).reshape(7, 1, 1, 1) * np.ones_like(x)
    Probe.seen = []
    merged = coalesce(Probe(plain))
    merged.generate(x, y, mask=rows, pool=rows)
    for index, (_, _, kwargs) in enumerate(seen_by(x)):
        assert np.array_equal(kwargs["mask"], rows[index : index + 1])
        assert kwargs["pool"] is rows
    merged.generate(x, y, mask=rows[0], pool=None)
    assert all(kwargs["mask"].shape == (1, 8, 8) for *_, kwargs in seen_by(x))


def live_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("sample ")]


def test_an_error_names_the_sample_and_stops_the_others(plain, images):
    x, y = images
    merged = coalesce(Probe(plain, fail_on=x[4]), concurrency=2)
    with pytest.raises(ArithmeticError, match="no way out") as error:
        merged.generate(x, y)
    assert error.value.__notes__ == ["QueryCoalescer: this came from Probe on sample 4"]
    assert not live_threads()
    assert merged.finished[[4, 6]].tolist() == [False, False]  # sample 5 ended in the same round
    assert merged.finished[:4].all()
    assert np.allclose(merged.partial[:4], np.clip(x[:4] + 0.1, 0, 1))
    assert np.array_equal(merged.partial[[4, 6]], x[[4, 6]])


def test_an_error_of_the_network_stops_all(plain, images, monkeypatch):
    def broken(self, x, **kwargs):
        raise MemoryError("too large")

    monkeypatch.setattr(PyTorchClassifier, "predict", broken)
    state = np.random.get_state()[1]
    with pytest.raises(MemoryError, match="too large"):
        coalesce(make("boundary", plain)).generate(*images)
    assert not live_threads()
    assert np.array_equal(state, np.random.get_state()[1])


def test_runs_that_are_stopped_do_not_go_on(plain, images, monkeypatch):
    went_on = []

    class Asking(Probe):
        def generate(self, x, y=None, **kwargs):
            try:
                self.estimator.predict(x)
                went_on.append(True)
            finally:
                self.estimator.predict(x)

    def broken(self, x, **kwargs):
        raise MemoryError("too large")

    monkeypatch.setattr(PyTorchClassifier, "predict", broken)
    with pytest.raises(MemoryError):
        coalesce(Asking(plain)).generate(*images)
    assert not live_threads()
    assert not went_on


class Interrupted(Probe):
    """Presses Ctrl-C from within the run of one sample."""

    def generate(self, x, y=None, **kwargs):
        if (x == self.fail_on).all():
            signal.raise_signal(signal.SIGINT)
            self.fail_on = None  # the run may go on for a moment: the main thread hears of it when it moves
        return super().generate(x, y, **kwargs)


@pytest.fixture
def ctrl_c_heard():
    """A shell leaves Ctrl-C ignored in what it starts in the background, and so does Python."""
    kept = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, kept)


@pytest.mark.usefixtures("ctrl_c_heard")
def test_ctrl_c_leaves_what_is_finished_and_no_thread(plain, images):
    x, y = images
    merged = coalesce(Interrupted(plain, fail_on=x[4]), concurrency=1)
    with pytest.raises(KeyboardInterrupt):
        merged.generate(x, y)
    assert not live_threads()
    assert merged.finished[:4].all()
    assert not merged.finished[5:].any()
    assert np.allclose(merged.partial[:4], np.clip(x[:4] + 0.1, 0, 1))
    assert np.array_equal(merged.partial[5:], x[5:])
    assert isinstance(np.random.RandomState().rand(), float)


def test_one_sample(plain, images):
    x, y = images
    got = coalesce(make("boundary", plain)).generate(x[:1], y[:1])
    assert got.shape == (1, 1, 8, 8)
    assert got.dtype == np.float32
    assert distance(got, x[:1])[0] > 0


def test_labels_may_be_left_out_or_be_indices(trained, images):
    x, y = images
    attack = make("deepfool", trained)
    one_hot, indices, none = (coalesce(attack).generate(x, labels) for labels in (y, y.argmax(1), None))
    assert np.array_equal(one_hot, indices)
    assert np.array_equal(one_hot, none)  # DeepFool leaves labels alone


def test_only_finished_samples_are_shown(plain, images, capfd):
    attack = ATTACKS["boundary"](plain)
    assert attack.verbose
    coalesce(attack).generate(*images)
    assert capfd.readouterr() == ("", "")
    coalesce(attack, verbose=True).generate(*images)
    shown = capfd.readouterr()
    assert "BoundaryAttack" in shown.out
    assert "100%" in shown.out
    assert shown.err == ""


@pytest.mark.parametrize(("kind", "found"), [(UniversalPerturbation, "perturbation"), (SpatialTransformation, "rot")])
def test_attacks_on_the_batch_as_a_whole_are_refused(kind, found, plain):
    with pytest.raises(InvalidInputError, match=f"{kind.__name__} looks for one {found}.*call it directly"):
        QueryCoalescer(kind(plain))


def test_every_refused_attack_exists_in_art():
    import art.attacks.evasion

    from qadv.estimators.query_coalescer import _ONE_FOR_ALL_SAMPLES

    for name in _ONE_FOR_ALL_SAMPLES:
        assert hasattr(art.attacks.evasion, name)


def test_wrong_arguments_are_refused(plain, images):
    x, y = images
    attack = make("deepfool", plain)
    for options, message in (
        ({"concurrency": 0}, "concurrency: expected a whole number of at least 1, got 0"),
        ({"batch_size": 2.5}, "batch_size: expected a whole number of at least 1, got 2.5"),
        ({"seed": -1}, "seed: expected a whole number of at least 0, got -1"),
        ({"verbose": "yes"}, "verbose: expected True or False, got 'yes'"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            QueryCoalescer(attack, **options)
    with pytest.raises(InvalidInputError, match=r"attack: expected an evasion attack.*got PyTorchClassifier"):
        QueryCoalescer(plain)
    with pytest.raises(InvalidInputError, match=r"attack: expected an evasion attack.*got QueryCoalescer"):
        QueryCoalescer(coalesce(attack))
    with pytest.raises(InvalidInputError, match=r"x: expected float images of shape \(N, 1, 8, 8\)"):
        coalesce(attack).generate(x[0], y)
    with pytest.raises(InvalidInputError, match=r"y: expected 7 rows, one for each image, got shape \(6, 10\)"):
        coalesce(attack).generate(x, y[:6])


def test_an_attack_that_returns_something_else_is_refused(plain, images):
    class Wrong(Probe):
        def generate(self, x, y=None, **kwargs):
            return x, y

    with pytest.raises(InvalidInputError, match=r"expected one image of shape.*from Wrong; call the attack itself"):
        coalesce(Wrong(plain)).generate(*images)


def test_it_is_an_attack(plain, trained):
    merged = QueryCoalescer(SignOPTAttack(plain, targeted=True), seed=1)
    assert isinstance(merged, EvasionAttack)
    assert merged.estimator is plain
    assert merged.targeted
    assert repr(merged).startswith("QueryCoalescer(attack=SignOPTAttack(targeted=True")
    merged.set_params(seed=2, concurrency=8)
    assert (merged.seed, merged.concurrency) == (2, 8)
    merged.set_params(attack=DeepFool(trained))
    assert merged.estimator is trained
    assert not merged.targeted


def draw():
    return random.random(), np.random.randn(2).tolist(), torch.rand(2).tolist()


def test_runs_that_take_turns_draw_what_each_would_draw_alone():
    def states(index):
        return RandomStates(np.random.SeedSequence(0, spawn_key=(index,)))

    def drawn_alone(index):
        own = states(index)
        draws = []
        for _ in range(3):
            own.put_in_place()
            draws.append(draw())
            own.take_back()
        return draws

    with global_states_kept():
        both = states(0), states(1)
        together = [], []
        for _ in range(3):
            for own, draws in zip(both, together, strict=True):
                own.put_in_place()
                draws.append(draw())
                own.take_back()
        assert together == (drawn_alone(0), drawn_alone(1))
        everything = [value for draws in together for one in draws for value in (one[0], *one[1], *one[2])]
        assert len(set(everything)) == len(everything)


def test_threads_of_others_keep_their_own_entropy():
    drawn = []

    def draw():
        drawn.extend(int(np.random.RandomState().randint(2**31)) for _ in range(2))

    np.random.seed(0)
    with entropy_from_global_state(threading.Timer):
        mine = [int(np.random.RandomState().randint(2**31)) for _ in range(2)]
        np.random.seed(0)
        other = threading.Thread(target=draw)
        other.start()
        other.join()
        assert mine == [int(np.random.RandomState().randint(2**31)) for _ in range(2)]
    assert len({*mine, *drawn}) == 4


class AgainstTheLabel(EvasionAttack):
    """One step along the gradient of one class, another one for each image."""

    _estimator_requirements = (PyTorchClassifier,)

    def generate(self, x, y=None, **kwargs):
        gradient = self.estimator.class_gradient(x, label=int(y.argmax()))
        assert gradient.shape == (1, 1, *x.shape[1:])
        return np.clip(x - 0.1 * gradient[:, 0] / np.abs(gradient).max(), 0, 1)


def test_gradients_of_different_classes_share_a_call_where_one_pass_gives_them_all(trained, digits):
    x, y = digits.x_test[:9], np.eye(10)[digits.y_test[:9]]
    plain = PyTorchClassifier(trained.model, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0.0, 1.0))
    found = []
    for classifier, calls in ((trained, 1), (plain, len(np.unique(digits.y_test[:9])))):
        attack = QueryCoalescer(AgainstTheLabel(estimator=classifier), seed=0, verbose=False)
        found.append(attack.generate(x, y))
        assert attack.batches == calls > 0
    alone = np.concatenate([AgainstTheLabel(estimator=trained).generate(x[i : i + 1], y[i : i + 1]) for i in range(9)])
    np.testing.assert_allclose(found[0], alone, atol=1e-6)
    np.testing.assert_allclose(found[1], alone, atol=1e-6)
