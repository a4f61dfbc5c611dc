"""Early stopping: a planted collapse is seen on held-out images, and the weights before it are kept."""

import numpy as np
import pytest
import torch
from torch.utils.data import Subset

from qadv.benchmark.names import faults
from qadv.benchmark.study import Study
from qadv.errors import FileFormatError, InvalidInputError
from qadv.files import read_tensors, write_tensors
from qadv.preprocessors.bit_depth import BitDepthReduction
from qadv.trainers.early_stop import ROBUST, best_epoch
from qadv.trainers.loop_trainer import LoopTrainer
from qadv.trainers.objective import Objective

HELD, TRAINED, EPOCHS = 100, 400, 6
WATCH = {"nb_images": HELD, "eps": 0.1, "max_iter": 2}


class Collapse(Objective):
    """From an epoch on, teaches each class as the next one; with `stop`, an interruption instead."""

    def __init__(self, epoch, stop=False):
        self.epoch, self.stop, self.begun = epoch, stop, False

    def __repr__(self):
        return f"Collapse({self.epoch})"

    def step(self, network, step, nb_steps):
        self.begun = step * EPOCHS >= self.epoch * nb_steps
        if self.begun and self.stop:
            raise KeyboardInterrupt

    def inputs(self, network, x, y):
        if self.begun:
            y.copy_((y + 1) % 10)
        return x


def fit(classifier, digits, objectives=(), nb_epochs=EPOCHS, nb_images=TRAINED + HELD, early_stop=WATCH, **options):
    settings = {"lr": 0.1, "lr_schedule": "constant", "verbose": False, "early_stop": early_stop, **options}
    trainer = LoopTrainer(classifier, objectives, **settings)
    trainer.fit(digits.x_train[:nb_images], digits.y_train[:nb_images], batch_size=50, nb_epochs=nb_epochs)
    return trainer


def same(first, second):
    a, b = first.model.state_dict(), second.model.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def without_seconds(history):
    return [{**entry, "seconds": 0} for entry in history]


def test_a_collapse_ends_the_training_with_the_best_weights_and_a_resumed_run_is_the_same(
    make_classifier, digits, tmp_path
):
    whole, before, resumed = (make_classifier(seed=seed) for seed in (0, 0, 5))
    with pytest.warns(UserWarning, match=r"under PGD on held-out images fell from .* with the weights of epoch"):
        history = fit(whole, digits, [Collapse(3)]).history
    robust = [entry[ROBUST] for entry in history]
    assert len(history) == 4, robust
    best = best_epoch(history)
    assert robust[best] == max(robust[:3]) > robust[3] + 0.2
    assert history[3]["accuracy"] > 0.3, "its own figures look well"
    held = digits.x_train[TRAINED : TRAINED + HELD], digits.y_train[TRAINED : TRAINED + HELD]
    assert history[best]["val_accuracy"] == (whole.predict(held[0]).argmax(1) == held[1]).mean()

    fit(before, digits, nb_epochs=best + 1, nb_images=TRAINED, early_stop=None)  # what is held out is not trained on
    assert same(whole, before)

    path = tmp_path / "run.ckpt"
    with pytest.raises(KeyboardInterrupt):
        fit(make_classifier(), digits, [Collapse(3, stop=True)], checkpoint=path)
    for _ in range(2):  # the second time it has ended
        with pytest.warns(UserWarning, match="the training ends"):
            again = fit(resumed, digits, [Collapse(3)], checkpoint=path).history
        assert without_seconds(again) == without_seconds(history)
        assert same(whole, resumed)
    with pytest.raises(FileFormatError, match=r"another run .*early_stop: saved .*, now"):
        fit(resumed, digits, [Collapse(3)], checkpoint=path, early_stop={**WATCH, "eps": 0.2})
    tensors, header = read_tensors(path)
    write_tensors(path, {name: tensor for name, tensor in tensors.items() if not name.startswith("best.")}, header)
    with pytest.raises(FileFormatError, match=r"damaged .*best epoch's state"):
        fit(resumed, digits, [Collapse(3)], checkpoint=path)


def test_without_a_limit_the_training_goes_on_and_the_best_weights_are_kept(make_classifier, digits):
    going_on, short = make_classifier(), make_classifier()
    history = fit(going_on, digits, [Collapse(2)], nb_epochs=4, early_stop={**WATCH, "drop": 1}).history
    assert len(history) == 4
    fit(short, digits, nb_epochs=best_epoch(history) + 1, nb_images=TRAINED, early_stop=None)
    assert best_epoch(history) < 2
    assert same(going_on, short)


def test_images_are_held_out_of_data_sets_and_taken_from_validation_data(make_classifier, digits):
    data = digits.samples("train", 160)
    trainer = LoopTrainer(make_classifier(), early_stop={**WATCH, "nb_images": 60}, lr=0.05, verbose=False)
    trainer.fit(data, batch_size=50, nb_epochs=1)
    (entry,) = trainer.history
    held = digits.x_train[100:160], digits.y_train[100:160]
    right = trainer.get_classifier().predict(held[0]).argmax(1) == held[1]
    assert entry["val_accuracy"] == pytest.approx(right.mean())
    assert entry[ROBUST] <= entry["val_accuracy"]
    given = LoopTrainer(make_classifier(), early_stop={**WATCH, "nb_images": 7}, lr=0.05, verbose=False)
    given.fit(digits.x_train[:100], digits.y_train[:100], held, batch_size=50, nb_epochs=1)
    assert given.history[0][ROBUST] * 7 == pytest.approx(round(given.history[0][ROBUST] * 7))
    assert given.history[0]["val_accuracy"] * 60 == pytest.approx(round(given.history[0]["val_accuracy"] * 60))


def test_what_can_not_be_held_out_is_refused(make_classifier, digits):
    x, y = digits.x_train[:40], digits.y_train[:40]
    trainer = LoopTrainer(make_classifier(), early_stop={"nb_images": 39}, verbose=False)
    with pytest.raises(InvalidInputError, match="nb_images = 39 of 40 training images can't be held out"):
        trainer.fit(x, y)
    trainer = LoopTrainer(make_classifier(), early_stop={"nb_images": 2}, verbose=False)
    order = np.argsort(y)
    with pytest.raises(InvalidInputError, match="the last 2 training images are of one class: shuffle them"):
        trainer.fit(x[order], y[order])
    with pytest.raises(InvalidInputError, match="of a loader or generator no images are held out; give validation"):
        trainer.fit(digits.loader("train"))
    for wrong, message in (
        (True, "early_stop: expected None, an EarlyStop or its arguments"),
        ({"patience": 3}, "early_stop: .*unexpected keyword argument 'patience'"),
        ({"eps": 2.0}, "eps: expected at most 1, the range of the pixels"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            LoopTrainer(make_classifier(), early_stop=wrong)


def test_study_files_say_it_as_a_table():
    study = {"title": "t", "datasets": ["digits"], "backbones": {"mnist-cnn": {}}}
    table = {"trainer": "dq", "fit": {"nb_epochs": 1}, "options": {"early_stop": {"nb_image": 3, "eps": "300/255"}}}
    found = dict(faults(Study.model_validate({**study, "defenses": {"d": table}})))
    assert list(found) == [("defenses", "d", "options", "early_stop")]
    assert "'nb_image'; did you mean nb_images?" in found.popitem()[1]


def test_a_run_goes_on_with_the_held_out_images_that_it_was_begun_with(make_classifier, digits, tmp_path):
    def run(nb_epochs, held, path=tmp_path / "run.ckpt"):
        options = {"lr": 0.05, "verbose": False, "checkpoint": path, "early_stop": {**WATCH, "nb_images": 20}}
        trainer = LoopTrainer(make_classifier(), **options)
        trainer.fit(digits.x_train[:100], digits.y_train[:100], held, batch_size=50, nb_epochs=nb_epochs)

    first, other = ((digits.x_train[i : i + 20], digits.y_train[i : i + 20]) for i in (100, 120))
    run(1, first)
    with pytest.raises(FileFormatError, match=r"another run .*validation: saved '.*', now"):
        run(2, other)
    parts = (Subset(digits.samples("train"), range(i, i + 20)) for i in (100, 120))
    run(1, next(parts), tmp_path / "part.ckpt")
    with pytest.raises(FileFormatError, match=r"another run .*validation: saved '.*', now"):
        run(2, next(parts), tmp_path / "part.ckpt")
    tensors, header = read_tensors(tmp_path / "run.ckpt")
    del header["run"]["validation"]
    write_tensors(tmp_path / "run.ckpt", tensors, header)
    run(2, other)  # an older checkpoint does not say it


def test_held_out_images_are_attacked_through_the_preprocessors_of_prediction(make_classifier, digits):
    class Counted(BitDepthReduction):
        calls = 0

        def forward(self, x, y=None):
            self.calls += 1
            return super().forward(x, y)

    defence = Counted(bit_depth=3, apply_fit=False)
    classifier = make_classifier(preprocessing_defences=[defence])
    trainer = LoopTrainer(classifier, early_stop={**WATCH, "nb_images": 20}, lr=0.05, verbose=False)
    defence.calls = 0
    trainer.fit(digits.x_train[:100], digits.y_train[:100], batch_size=80, nb_epochs=1)
    assert defence.calls == 1 + WATCH["max_iter"] + 1, "validation, each gradient of PGD, and its images"
