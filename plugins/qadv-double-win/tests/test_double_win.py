"""Random precision training: what is drawn, that attack and training share it, and that a run can be resumed."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from qadv_double_win.double_win import DoubleWinTrainer, RandomPrecision
from qadv_double_win.precision import HasPrecision, set_precision

import qadv
from qadv.errors import FileFormatError, InvalidInputError
from qadv.testing import digits_classifier

DATA = qadv.create("dataset", "digits")
X, Y = DATA.x_train[:128], DATA.y_train[:128]


def classifier(**options: Any) -> Any:
    torch.manual_seed(0)
    return qadv.QuantizedClassifier.from_backbone(
        "switchable-norm", "switchable:8", "switchable:8", input_shape=(1, 8, 8), backbone="mnist-cnn",
        precisions=[4, 8], image_size=8, width=4, device_type="cpu", **options,
    )  # fmt: skip


def trainer(given: Any, **options: Any) -> DoubleWinTrainer:
    settings = {"precisions": (4, 8), "eps": 0.1, "max_iter": 2, "lr": 0.05, "verbose": False, **options}
    return DoubleWinTrainer(given, **settings)


def test_draws_are_even_and_follow_from_seed_and_step_alone():
    drawn = [RandomPrecision((4, 5, 6, 7, 8), seed=3).precision(step) for step in range(2000)]
    assert drawn == [RandomPrecision((4, 5, 6, 7, 8), seed=3).precision(step) for step in range(2000)]
    assert drawn != [RandomPrecision((4, 5, 6, 7, 8), seed=4).precision(step) for step in range(2000)]
    counts = Counter(drawn)
    # χ² with 4 degrees of freedom is above 18.5 once in a thousand
    assert sum((counts[bits] - 400) ** 2 / 400 for bits in (4, 5, 6, 7, 8)) < 18.5


def test_attack_and_training_of_a_step_are_at_the_precision_that_was_drawn():
    given = classifier()
    seen: list[tuple[int, bool]] = []
    given.model[0].register_forward_hook(lambda module, *_: seen.append((precision_of(given), module.training)))
    made = trainer(given, seed=5)
    made.fit(X, Y, nb_epochs=2, batch_size=32)
    draws = [RandomPrecision((4, 8), seed=5).precision(step) for step in range(8)]
    # two passes of PGD in evaluation mode, then one in training mode, in each step
    assert seen == [(bits, training) for bits in draws for training in (False, False, True)]
    assert len(set(draws)) == 2
    assert precision_of(given) == 8  # afterwards, the highest
    assert [entry["precision"] for entry in made.history] == [draws[3], draws[7]]


def precision_of(given: Any) -> int:
    found = {module.precision for module in given.model.modules() if isinstance(module, HasPrecision)}
    (precision,) = found
    return precision


def test_it_minimises_the_loss_of_images_moved_within_eps():
    given = classifier()
    images = []
    forward = given.model.forward

    def keep(x: Any) -> Any:
        if given.model.training:
            images.append(x.detach().clone())
        return forward(x)

    given.model.forward = keep
    trainer(given, eps=0.07).fit(X[:32], Y[:32], nb_epochs=1, batch_size=32)
    (trained,) = images
    clean = torch.from_numpy(X[:32])
    distance = torch.cdist(trained.flatten(1), clean.flatten(1), p=float("inf")).min(1).values
    assert distance.max() <= 0.07 + 1e-6
    assert distance.min() > 0.03
    assert trained.min() >= 0
    assert trained.max() <= 1


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path):
    whole = classifier()
    trainer(whole).fit(X, Y, nb_epochs=3, batch_size=32)

    class StopError(Exception):
        pass

    parts = classifier()
    steps = iter(range(8))  # of 12

    def stop(*_: Any) -> None:
        if parts.model.training and next(steps, None) is None:
            raise StopError

    hook = parts.model.register_forward_pre_hook(stop)
    with pytest.raises(StopError):
        trainer(parts, checkpoint=tmp_path / "run.safetensors").fit(X, Y, nb_epochs=3, batch_size=32)
    hook.remove()
    resumed = classifier()
    trainer(resumed, checkpoint=tmp_path / "run.safetensors").fit(X, Y, nb_epochs=3, batch_size=32)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_a_checkpoint_of_other_precisions_is_refused(tmp_path):
    trainer(classifier(), checkpoint=tmp_path / "run.safetensors").fit(X, Y, nb_epochs=1, batch_size=64)
    other = trainer(classifier(), precisions=(4,), checkpoint=tmp_path / "run.safetensors")
    with pytest.raises(FileFormatError, match="another run"):
        other.fit(X, Y, nb_epochs=1, batch_size=64)


def test_it_learns_all_precisions_of_one_network():
    given = classifier()
    trainer(given, eps=0.02).fit(DATA.x_train[:600], DATA.y_train[:600], nb_epochs=6, batch_size=32)
    for bits in (4, 8):
        set_precision(given, bits)
        assert (given.predict(DATA.x_test).argmax(1) == DATA.y_test).mean() > 0.8


def test_networks_that_can_not_be_switched_are_refused_when_it_is_made():
    with pytest.raises(InvalidInputError, match="nothing in the network is switchable"):
        trainer(digits_classifier())
    with pytest.raises(InvalidInputError, match="has 4, 8 bits, got 6"):
        trainer(classifier(), precisions=(4, 6))
    with pytest.raises(InvalidInputError, match="2, 3, 4 bits, got 8"):
        trainer(digits_classifier("switchable:4", "switchable:4"))
    with pytest.raises(InvalidInputError, match="eps"):
        trainer(classifier(), eps=-1)


def test_the_step_of_the_attack_is_a_quarter_of_eps():
    assert trainer(classifier(), eps=0.2).adversary.eps_step == 0.05
    assert DoubleWinTrainer(classifier(), (4, 8)).adversary.eps_step == qadv.Share(2 / 255)
    assert trainer(classifier(), eps=0.2, eps_step=0.25, max_iter=1).adversary.eps_step == 0.25
    text = repr(trainer(classifier(), eps=0.2, seed=7))
    assert text.startswith("DoubleWinTrainer(precisions=(4, 8), eps=0.2, eps_step=0.05, max_iter=2, ")
    assert "seed=7" in text
    np.testing.assert_equal(eval(text.replace("DoubleWinTrainer(", "dict("))["max_iter"], 2)
