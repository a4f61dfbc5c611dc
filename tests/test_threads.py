"""Several threads at one network: each answer is what it is alone, and training goes on as if nobody asked."""

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

import qadv
from qadv.errors import AttackError
from qadv.modes import evaluation_mode
from qadv.network_lock import lock_of


def network(seed=0, width=16):
    torch.manual_seed(seed)
    # dropout and BatchNorm tell training from evaluation
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, 10)
    )


class Whole(nn.Module):
    """The same, called as one."""

    def __init__(self, seed=0):
        super().__init__()
        self.inner = network(seed)

    def forward(self, x):
        return self.inner(x)


def classifier_of(model, **options):
    options.setdefault("loss", nn.CrossEntropyLoss())
    return qadv.QuantizedClassifier(model, input_shape=(1, 8, 8), nb_classes=10, device_type="cpu", **options)


rng = np.random.default_rng(0)
X, Y = rng.random((64, 1, 8, 8), dtype=np.float32), rng.integers(0, 10, 64)


@pytest.fixture(autouse=True)
def many_switches():
    """Threads take turns as often as Python lets them."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Meanwhile:
    """Calls something over and over in other threads while a block runs."""

    def __init__(self, *calls):
        self.ended = threading.Event()
        self.errors, self.counts = [], [0] * len(calls)
        self.threads = [threading.Thread(target=self.run, args=each, daemon=True) for each in enumerate(calls)]

    def run(self, index, call):
        try:
            while not self.ended.is_set():
                call()
                self.counts[index] += 1
        except BaseException as error:
            self.errors.append(error)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        for thread in self.threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in self.threads)
        assert not self.errors
        assert min(self.counts) > 0


def trained_by_qadv(model):
    trainer = qadv.DefensiveQuantTrainer(classifier_of(model), seed=1, verbose=False)
    trainer.fit(X, Y, nb_epochs=6, batch_size=8, validation_data=(X, Y))


def trained_by_art(model):
    classifier = classifier_of(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    np.random.seed(0)
    torch.manual_seed(0)
    classifier.fit(X, Y, nb_epochs=6, batch_size=8)


@pytest.mark.parametrize("model", [network, Whole])
@pytest.mark.parametrize("train", [trained_by_qadv, trained_by_art])
def test_training_goes_on_as_if_nobody_asked_meanwhile(train, model):
    alone, asked = model(), model()
    train(alone)
    classifier = classifier_of(asked)
    with Meanwhile(lambda: classifier.predict(X), lambda: classifier.loss_gradient(X, Y)):
        train(asked)
    assert same_weights(alone, asked)


@pytest.mark.parametrize("model", [network, Whole])
def test_a_training_loop_of_ones_own_goes_on_too_once_it_has_begun(model):
    alone, asked = model(), model()
    for _ in by_hand(alone):
        pass
    classifier = classifier_of(asked)
    steps = by_hand(asked)
    next(steps)
    with Meanwhile(lambda: classifier.predict(X), lambda: gradient_or_refusal(classifier)):
        for _ in steps:
            pass
    assert same_weights(alone, asked)


def by_hand(model):
    optimizer, loss = torch.optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss()
    model = classifier_of(model).model
    torch.manual_seed(0)
    model.train()
    for start in [*range(0, 64, 8)] * 6:
        optimizer.zero_grad()
        part = slice(start, start + 8)
        loss(model(torch.from_numpy(X[part])), torch.from_numpy(Y[part])).backward()
        optimizer.step()
        yield


def gradient_or_refusal(classifier):
    """Weights may change between the forward and the backward pass: nothing keeps this loop's steps from that."""
    try:
        classifier.loss_gradient(X, Y)
    except AttackError as error:
        if "another thread trains it" not in str(error):
            raise


def same_weights(a, b):
    assert all(parameter.requires_grad for parameter in b.parameters())
    # another thread may round otherwise; what a mode that leaks changes is far more
    return all(torch.allclose(value, b.state_dict()[name], 1e-3, 1e-5) for name, value in a.state_dict().items())


@pytest.mark.parametrize("model", [network, Whole])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_mixed_calls_from_threads_give_what_each_gives_alone(model, reduction):
    classifier = classifier_of(model(), loss=nn.CrossEntropyLoss(reduction=reduction))
    calls = {
        "predict": lambda part: classifier.predict(X[part]),
        "loss": lambda part: classifier.compute_loss(X[part], Y[part], reduction="none"),
        "mean loss": lambda part: np.asarray(classifier.compute_loss(X[part], Y[part], reduction="mean")),
        "loss_gradient": lambda part: classifier.loss_gradient(X[part], Y[part]),
        "class_gradient": lambda part: classifier.class_gradient(X[part], Y[part]),
        "activations": lambda part: classifier.get_activations(X[part], classifier.layer_names[-1]),
        "through the model": through_the_model(classifier),
    }
    work = [(name, slice(start, start + 8)) for start in range(0, 64, 8) for name in calls]
    alone = [calls[name](part) for name, part in work]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda each: calls[each[0]](each[1]), work))
    for (name, _), a, b in zip(work, alone, together, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5, err_msg=name)
    assert all(parameter.requires_grad for parameter in classifier.model.parameters())


def test_the_reduction_that_compute_loss_asks_for_is_not_set_on_a_loss_that_others_may_be_using():
    seen = []

    class Watched(nn.CrossEntropyLoss):
        def forward(self, logits, y):
            seen.append((self.reduction, loss.reduction))
            return super().forward(logits, y)

    loss = Watched()
    classifier = classifier_of(network(), loss=loss)
    assert classifier.compute_loss(X, Y, reduction="none").shape == (64,)
    assert seen[-1] == ("none", "mean")
    assert classifier.loss is loss


def through_the_model(classifier):
    module = None

    def gradient(part):
        nonlocal module
        module = module or qadv.as_module(classifier)
        x = torch.from_numpy(X[part]).requires_grad_()
        return torch.autograd.grad(module(x).logsumexp(1).sum(), x)[0].numpy()

    return gradient


def test_an_ensemble_and_its_members_have_one_lock_however_they_came_together():
    a, b, c = (classifier_of(network(seed)) for seed in range(3))
    first = qadv.EnsembleClassifier.of([a, b])
    second = qadv.EnsembleClassifier.of([c, b])
    locks = {lock_of(each.network) for each in (a, b, c, first, second, *first.members)}
    assert len(locks) == 1
    assert lock_of(network()) not in locks


def test_of_threads_that_evaluate_a_network_the_last_one_puts_its_mode_back():
    model = network().train()
    model[2].eval()  # frozen
    modes = [module.training for module in model.modules()]
    entered, first_left = threading.Event(), threading.Event()

    def evaluate():
        with evaluation_mode(model):
            entered.set()
            assert first_left.wait(10)
            seen.append([module.training for module in model.modules()])

    seen = []
    thread = threading.Thread(target=evaluate)
    with evaluation_mode(model):
        thread.start()
        assert entered.wait(10)
    first_left.set()
    thread.join()
    assert seen == [[False] * len(modes)]
    assert [module.training for module in model.modules()] == modes


def test_a_pass_that_is_interrupted_leaves_the_network_free():
    class Interrupted(nn.Module):
        now = False

        def forward(self, x):
            if self.now:
                raise KeyboardInterrupt
            return x

    first = Interrupted()
    classifier = classifier_of(nn.Sequential(first, *network()))
    alone = classifier.predict(X)
    for ask in (lambda: classifier.loss_gradient(X, Y), lambda: classifier.model(torch.from_numpy(X))):
        first.now = True
        with pytest.raises(KeyboardInterrupt):
            ask()
        first.now = False
        with ThreadPoolExecutor(1) as pool:
            np.testing.assert_allclose(pool.submit(classifier.predict, X).result(10), alone, rtol=1e-3, atol=1e-5)


def test_threads_get_a_network_in_the_order_in_which_they_ask():
    lock, order, threads = lock_of(network()), [], []

    def ask(index):
        with lock:
            order.append(index)

    lock.__enter__()
    for index in range(5):
        threads.append(threading.Thread(target=ask, args=[index]))
        threads[-1].start()
        while len(lock._queue) <= index + 1:
            time.sleep(0.001)
    with lock:  # it may ask again
        pass
    lock.__exit__()
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4]
