"""Training as ART users expect it: contract, options, history, and resuming to the bit after a kill."""

import copy
import errno
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from art.data_generators import NumpyDataGenerator
from art.defences.preprocessor import SpatialSmoothing
from art.defences.trainer import Trainer
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, Subset, TensorDataset

import qadv
from qadv.errors import FileFormatError, InvalidInputError, StorageError, TrainingError, UnsupportedModelError
from qadv.files import read_tensors, write_tensors
from qadv.trainers.augment import crop_flip
from qadv.trainers.checkpoint import TrainingState
from qadv.trainers.loop_trainer import LoopTrainer
from qadv.trainers.objective import Objective
from qadv.trainers.options import LoopOptions
from tests.blur import Blur
from tests.interrupted import noisy, stopped_after

QUIET = {"verbose": False, "lr": 0.05}


def fit(classifier, digits, nb_epochs=2, beta=2e-3, **options):
    trainer = qadv.DefensiveQuantTrainer(classifier, beta=beta, **{**QUIET, **options})
    trainer.fit(digits.x_train[:400], digits.y_train[:400], nb_epochs=nb_epochs, batch_size=64)
    return trainer


def same_state(first, second):
    a, b = first.model.state_dict(), second.model.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_it_is_an_art_trainer_that_learns_real_images(make_classifier, digits):
    classifier = make_classifier()
    trainer = qadv.DefensiveQuantTrainer(classifier, beta=2e-3, **QUIET)
    assert isinstance(trainer, Trainer)
    validation = (digits.x_test, np.eye(10)[digits.y_test])
    trainer.fit(digits.x_train, np.eye(10)[digits.y_train], validation_data=validation, batch_size=64, nb_epochs=10)
    assert trainer.get_classifier() is classifier
    assert not classifier.model.training
    last = trainer.history[-1]
    assert last["val_accuracy"] > 0.93
    assert last["val_accuracy"] == (classifier.predict(digits.x_test).argmax(1) == digits.y_test).mean()
    assert [entry["epoch"] for entry in trainer.history] == list(range(10))
    for key in ("loss", "penalty", "accuracy", "lr", "seconds", "val_loss", "orthogonality_error", "spectral_norm_bn"):
        assert key in last
    json.dumps(trainer.history)


def test_the_regulariser_makes_weights_orthogonal(make_classifier, digits):
    vanilla = fit(make_classifier(), digits, beta=0.0, nb_epochs=10).history[-1]
    defended = fit(make_classifier(), digits, beta=5e-2, nb_epochs=10).history[-1]
    assert defended["orthogonality_error"] < 0.5 * vanilla["orthogonality_error"]
    assert defended["spectral_norm"]["12"] < vanilla["spectral_norm"]["12"]
    assert defended["penalty"] > 0
    assert "penalty" not in vanilla


def test_one_step_is_the_equation(digits):
    """One SGD step on one batch, by hand: W - lr (∂CE + β/2 ∂Σ‖WWᵀ - I‖²)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))
    x, y = digits.x_train[:32], digits.y_train[:32]
    twin = copy.deepcopy(model)
    weight = twin[1].weight
    penalty = (weight @ weight.T - torch.eye(10)).square().sum()
    loss = nn.functional.cross_entropy(twin((torch.from_numpy(x) - 0.3) / 0.5), torch.from_numpy(y)) + 0.1 / 2 * penalty
    loss.backward()
    classifier = qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, preprocessing=(0.3, 0.5))
    trainer = qadv.DefensiveQuantTrainer(
        classifier, beta=0.1, lr=0.2, momentum=0.0, weight_decay=0.0, lr_schedule="constant", verbose=False
    )
    trainer.fit(x, y, batch_size=32, nb_epochs=1)
    torch.testing.assert_close(model[1].weight, weight.detach() - 0.2 * weight.grad, rtol=1e-5, atol=1e-6)


def test_seeds_repeat_and_leave_the_global_random_states_alone(make_classifier, digits):
    first, second, other = (make_classifier() for _ in range(3))
    options = {"augment": lambda x: x + 0.01 * torch.rand(1) * np.random.rand()}
    before = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    fit(first, digits, seed=1, **options)
    assert (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before
    torch.manual_seed(99)
    np.random.seed(99)
    fit(second, digits, seed=1, **options)
    fit(other, digits, seed=2, **options)
    assert same_state(first, second)
    assert not same_state(first, other)


def test_a_resumed_run_equals_an_uninterrupted_one(make_classifier, digits, tmp_path):
    options = {"augment": noisy, "lr_schedule": "cosine"}
    whole = make_classifier()
    history = fit(whole, digits, nb_epochs=4, **options).history
    interrupted = make_classifier()
    with stopped_after(2 * 7 + 3):  # in the middle of the third epoch
        fit(interrupted, digits, nb_epochs=4, checkpoint=tmp_path / "run.ckpt", **options)
    resumed = make_classifier(seed=5)  # other start weights: all comes from the checkpoint
    again = fit(resumed, digits, nb_epochs=4, checkpoint=tmp_path / "run.ckpt", **options).history
    assert same_state(whole, resumed)
    for mine, theirs in zip(again, history, strict=True):
        assert {**mine, "seconds": 0} == {**theirs, "seconds": 0}


def from_source(classifier, source, nb_epochs, checkpoint=None):
    options = {"lr": 0.05, "lr_schedule": "constant", "seed": 0, "verbose": False, "checkpoint": checkpoint}
    qadv.DefensiveQuantTrainer(classifier, **options).fit(source, nb_epochs=nb_epochs, batch_size=32)
    return classifier


@pytest.mark.parametrize("where", ["loader", "sampler"])
def test_a_loader_with_a_generator_of_its_own_goes_on_where_it_was(where, make_classifier, digits, tmp_path):
    def loader():
        data, own = TensorDataset(*map(torch.from_numpy, (digits.x_train[:96], digits.y_train[:96]))), torch.Generator()
        own.manual_seed(3)
        given = (
            {"generator": own, "shuffle": True}
            if where == "loader"
            else {"sampler": RandomSampler(data, generator=own)}
        )
        return DataLoader(data, 32, **given)

    whole = from_source(make_classifier(), loader(), 3)
    from_source(make_classifier(), loader(), 2, tmp_path / "run.ckpt")
    resumed = from_source(make_classifier(seed=5), loader(), 3, tmp_path / "run.ckpt")
    assert same_state(whole, resumed)


def test_a_checkpoint_of_other_data_is_refused_whatever_they_come_in(make_classifier, digits, tmp_path):
    x, y = torch.from_numpy(digits.x_train[:64]), torch.from_numpy(digits.y_train[:64])

    class Own(Dataset):
        """It may be read in workers alone."""

        def __init__(self, images, labels):
            self.images, self.targets, self.read = images, labels.tolist(), 0

        def __len__(self):
            return len(self.images)

        def __getitem__(self, index):
            self.read += 1
            return self.images[index], self.targets[index]

    for name, kind in (("a", TensorDataset), ("b", Own)):
        path = tmp_path / f"{name}.ckpt"
        from_source(make_classifier(), kind(x, y), 1, path)
        from_source(make_classifier(), kind(x, y), 1, path)
        others = [
            kind(x, 9 - y),
            DataLoader(kind(x, 9 - y), 32),
            Subset(kind(x, y), range(1, 64)),
            kind(x[:34], y[:34]),
        ]
        for other in [*others, kind(1 - x, y)] if kind is TensorDataset else others:
            with pytest.raises(FileFormatError, match=r"another run \(data: "):
                from_source(make_classifier(), other, 1, path)
    own = Own(x, y)
    from_source(make_classifier(), own, 1, tmp_path / "c.ckpt")
    assert own.read == 64, "once in the epoch, and not for its digest"


SCRIPT = """
import sys, torch, qadv
torch.set_num_threads(1)
torch.manual_seed(0)
data = qadv.create("dataset", "digits")
classifier = qadv.QuantizedClassifier.from_backbone("mnist-cnn", input_shape=(1, 8, 8), image_size=8, width=8)
trainer = qadv.DefensiveQuantTrainer(classifier, lr=0.05, verbose=False, checkpoint=sys.argv[1])
trainer.fit(data.x_train, data.y_train, nb_epochs=4, batch_size=64)
classifier.save(sys.argv[2])
"""


@pytest.mark.slow
def test_a_killed_process_resumes_to_the_bit(tmp_path, monkeypatch):
    def finish(name):
        """Runs the script in this process."""
        monkeypatch.setattr(sys, "argv", ["", str(tmp_path / f"{name}.ckpt"), str(tmp_path / f"{name}.safetensors")])
        exec(SCRIPT, {})
        return (tmp_path / f"{name}.safetensors").read_bytes()

    files = [str(tmp_path / f"killed.{ending}") for ending in ("ckpt", "safetensors")]
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, *files])
    deadline = time.monotonic() + 300
    while not (tmp_path / "killed.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed.safetensors").exists(), "it was killed before its end"
    assert finish("killed") == finish("whole")


def test_a_finished_checkpoint_is_not_trained_again(make_classifier, digits, tmp_path):
    first = make_classifier()
    fit(first, digits, checkpoint=tmp_path / "run.ckpt")
    before = (tmp_path / "run.ckpt").read_bytes()
    second = make_classifier(seed=3)
    assert len(fit(second, digits, checkpoint=tmp_path / "run.ckpt").history) == 2
    assert same_state(first, second)
    assert (tmp_path / "run.ckpt").read_bytes() == before


def test_a_finished_run_goes_on_for_more_epochs_as_one_of_that_length(make_classifier, digits, tmp_path):
    options = {"checkpoint": tmp_path / "run.ckpt", "lr_schedule": "constant"}
    whole, extended = make_classifier(), make_classifier()
    fit(whole, digits, nb_epochs=3, lr_schedule="constant")
    fit(make_classifier(), digits, nb_epochs=2, **options)
    history = fit(extended, digits, nb_epochs=3, **options).history
    assert [entry["epoch"] for entry in history] == [0, 1, 2]
    assert same_state(whole, extended)


def test_checkpoints_of_other_runs_and_damaged_ones_are_refused(make_classifier, digits, tmp_path):
    path = tmp_path / "run.ckpt"
    fit(make_classifier(), digits, checkpoint=path)
    with pytest.raises(FileFormatError, match=r"another run \(objectives: .*beta=0.002.*beta=0.5.*Delete it"):
        fit(make_classifier(), digits, checkpoint=path, beta=0.5)
    with pytest.raises(FileFormatError, match="nb_epochs: saved 2, now 1"):
        fit(make_classifier(), digits, checkpoint=path, nb_epochs=1)
    make_classifier().save(tmp_path / "net.safetensors")
    with pytest.raises(FileFormatError, match="is not a checkpoint of qadv"):
        fit(make_classifier(), digits, checkpoint=tmp_path / "net.safetensors")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(FileFormatError, match="not a whole safetensors file"):
        fit(make_classifier(), digits, checkpoint=path)


def test_a_checkpoint_notes_the_settings_of_each_group_of_parameters(make_classifier, digits, tmp_path):
    def classifier(weight_decay):
        model = make_classifier().model
        weights, *others = model.parameters()
        groups = [{"params": [weights]}, {"params": others, "weight_decay": weight_decay}]
        optimizer = torch.optim.SGD(groups, lr=0.1)
        return qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=optimizer)

    fit(classifier(0.0), digits, checkpoint=tmp_path / "run.ckpt")
    fit(classifier(0.0), digits, checkpoint=tmp_path / "run.ckpt")
    with pytest.raises(FileFormatError, match=r"another run \(optimizer: .*'weight_decay': 0.01"):
        fit(classifier(0.01), digits, checkpoint=tmp_path / "run.ckpt")


DAMAGED_HEADERS = {
    "more epochs than there are": lambda h, t: h.update(epochs_done=7),
    "fewer epochs than the history has": lambda h, t: h.update(epochs_done=1),
    "a text for the epochs": lambda h, t: h.update(epochs_done="2"),
    "no history": lambda h, t: h.pop("history"),
    "a history of something else": lambda h, t: h.update(history=[1, 2]),
    "no run": lambda h, t: h.update(run=None),
    "no optimizer": lambda h, t: h.pop("optimizer"),
    "other groups": lambda h, t: h["optimizer"].update(param_groups=[]),
    "other parameters": lambda h, t: h["optimizer"]["param_groups"][0].update(params=[0]),
    "states of other parameters": lambda h, t: h["optimizer"].update(numbers={"99": {"step": 1}}),
    "a state that is missing": lambda h, t: t.pop("optimizer.1.momentum_buffer"),
    "a state of another shape": lambda h, t: t.update({"optimizer.1.momentum_buffer": torch.zeros(1)}),
    "a state of another type": lambda h, t: t.update({"optimizer.1.momentum_buffer": torch.zeros(8).to(torch.int8)}),
    "a state that is no number": lambda h, t: t["optimizer.1.momentum_buffer"].fill_(torch.nan),
    "a weight that is no number": lambda h, t: t["model.0.weight"].fill_(torch.inf),
}


@pytest.mark.filterwarnings("ignore:.*has no digest")
@pytest.mark.parametrize("file_format", [1, 2])
def test_a_damaged_checkpoint_is_refused_and_changes_nothing(file_format, tmp_path):
    def training():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 2))
        return TrainingState(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))

    state, run = training(), {"nb_epochs": 3}
    state.model(torch.ones(1, 3)).sum().backward()
    state.optimizer.step()
    state.save(tmp_path / "whole", run, 2, [{"epoch": 0}, {"epoch": 1}])
    assert training().resume(tmp_path / "whole", run) == (2, [{"epoch": 0}, {"epoch": 1}])
    for what, damage in DAMAGED_HEADERS.items():
        if file_format == 1 and "a state" in what and "number" not in what:
            continue  # the first format had no list of the optimizer's tensors
        tensors, header = read_tensors(tmp_path / "whole")
        damage(header, tensors)
        if file_format == 1:
            header["format"] = "qadv-checkpoint/1"
            save_file(tensors, tmp_path / "file", {"qadv": json.dumps(header)})
        else:
            write_tensors(tmp_path / "file", tensors, header)
        resumed, fresh = training(), training()
        with pytest.raises(FileFormatError, match=r"(is|was) damaged|does not fit Sequential"):
            resumed.resume(tmp_path / "file", run)
        assert same_state(resumed, fresh), what
        assert not resumed.optimizer.state, what


def test_a_full_disk_during_a_checkpoint_keeps_the_last_one(make_classifier, digits, tmp_path, monkeypatch):
    calls = []
    fsync = os.fsync

    def full_later(descriptor):
        calls.append(1)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full_later)
    path = tmp_path / "run.ckpt"
    with pytest.raises(StorageError, match="No space left on device"):
        fit(make_classifier(), digits, nb_epochs=3, checkpoint=path)
    monkeypatch.setattr(os, "fsync", fsync)
    assert os.listdir(tmp_path) == ["run.ckpt"]
    whole, resumed = make_classifier(), make_classifier()
    fit(whole, digits, nb_epochs=3)
    fit(resumed, digits, nb_epochs=3, checkpoint=path)
    assert same_state(whole, resumed)


def test_adam_resumes_too(make_classifier, digits, tmp_path):
    def with_adam(seed=0):
        model = make_classifier(seed=seed).model
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        return qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=optimizer)

    whole = with_adam()
    fit(whole, digits, nb_epochs=2)
    resumed = with_adam()

    class StopError(Exception):
        pass

    class StopAfterOne(Objective):
        def __repr__(self):
            return "StopAfterOne()"

        def measure(self, network):
            self.done = getattr(self, "done", 0) + 1
            if self.done == 2 and self.stops:
                raise StopError
            return {}

    for stops in (True, False):
        objective = StopAfterOne()
        objective.stops = stops
        trainer = qadv.DefensiveQuantTrainer(resumed, checkpoint=tmp_path / "run.ckpt", **QUIET)
        trainer.objectives.append(objective)
        try:
            trainer.fit(digits.x_train[:400], digits.y_train[:400], nb_epochs=2, batch_size=64)
        except StopError:
            resumed = with_adam(seed=4)
    assert same_state(whole, resumed)


def test_a_checkpoint_belongs_to_its_network(make_classifier, digits, tmp_path):
    fit(make_classifier("int:4", "relu6:4"), digits, checkpoint=tmp_path / "run.ckpt")
    with pytest.raises(FileFormatError, match=r"quantization: saved .*int:4.*now .*bwn"):
        fit(make_classifier("bwn", "relu6:4"), digits, checkpoint=tmp_path / "run.ckpt")


def test_schedulers_resume_with_their_milestones(make_classifier, digits, tmp_path):
    def train(nb_stops, seed=0):
        model = make_classifier(seed=seed).model
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        classifier = qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=optimizer)
        trainer = qadv.DefensiveQuantTrainer(classifier, verbose=False, checkpoint=tmp_path / f"{nb_stops}.ckpt")

        class Stopping(torch.optim.lr_scheduler.MultiStepLR):
            def step(self, *args):
                if nb_stops and seed == 0 and self.last_epoch == 2:
                    raise KeyboardInterrupt
                super().step(*args)

        scheduler = Stopping(optimizer, [1, 3], 0.1)
        trainer.fit(digits.x_train[:200], digits.y_train[:200], nb_epochs=5, scheduler=scheduler)
        return trainer

    whole = train(0)
    with pytest.raises(KeyboardInterrupt):
        train(1)
    resumed = train(1, seed=7)
    assert [entry["lr"] for entry in resumed.history] == [entry["lr"] for entry in whole.history]
    assert same_state(whole.get_classifier(), resumed.get_classifier())


def test_the_users_optimizer_is_left_as_it_was_and_obeyed(make_classifier, digits):
    model = make_classifier().model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    classifier = qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=optimizer)
    fit(classifier, digits)
    assert optimizer.param_groups[0]["lr"] == 0.1
    optimizer.param_groups[0]["lr"] = 0.01
    assert fit(classifier, digits, lr_schedule="constant").history[-1]["lr"] == 0.01
    other = torch.optim.lr_scheduler.StepLR(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1), 1)
    with pytest.raises(InvalidInputError, match="steps a different optimizer"):
        qadv.DefensiveQuantTrainer(classifier, **QUIET).fit(digits.x_train, digits.y_train, scheduler=other)


def test_plateau_schedulers_see_the_loss(make_classifier, digits):
    model = make_classifier().model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    classifier = qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=optimizer)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, threshold=1e9, patience=0)
    trainer = qadv.DefensiveQuantTrainer(classifier, verbose=False)
    trainer.fit(digits.x_train[:200], digits.y_train[:200], nb_epochs=3, scheduler=scheduler)
    assert trainer.history[-1]["lr"] < 0.1


def test_upkeep_runs_in_plain_art_classifiers_too(digits):
    from art.estimators.classification import PyTorchClassifier

    from qadv.backbones.aggregation import ConvexSum

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.add = nn.Linear(64, 10), nn.Linear(64, 10), ConvexSum()

        def forward(self, x):
            return self.add(self.a(x.flatten(1)), self.b(x.flatten(1)))

    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0)
    plain = PyTorchClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=optimizer, clip_values=(0, 1))
    fit(plain, digits)
    assert model.add.coefficients.min() >= 0
    assert model.add.coefficients.sum().item() == pytest.approx(1, abs=1e-6)


def test_the_history_of_finished_epochs_survives_an_interruption(make_classifier, digits):
    class Interrupt(Objective):
        epochs = 0

        def measure(self, network):
            self.epochs += 1
            if self.epochs == 3:
                raise KeyboardInterrupt
            return {}

    trainer = LoopTrainer(make_classifier(), [Interrupt()], **QUIET)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(digits.x_train[:100], digits.y_train[:100], nb_epochs=5)
    assert [entry["epoch"] for entry in trainer.history] == [0, 1]


def test_schedulers_of_any_kind_are_stepped_each_epoch(make_classifier, digits):
    class Counter:
        steps = 0

        def step(self):
            self.steps += 1

    counter = Counter()
    trainer = qadv.DefensiveQuantTrainer(make_classifier(), **QUIET)
    trainer.fit(digits.x_train[:200], digits.y_train[:200], nb_epochs=3, scheduler=counter)
    assert counter.steps == 3
    assert {entry["lr"] for entry in trainer.history} == {0.05}

    model = make_classifier().model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    classifier = qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=optimizer)
    trainer = qadv.DefensiveQuantTrainer(classifier, verbose=False)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2], 0.5)
    trainer.fit(digits.x_train[:200], digits.y_train[:200], nb_epochs=3, scheduler=scheduler)
    assert [entry["lr"] for entry in trainer.history] == [0.1, 0.05, 0.025]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("step", [1, 1, 1, 0.2, 0.2, 0.2, 0.04, 0.04, 0.008, 0.008]),
        ({3: 0.1, 5: 0.1}, [1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01, 0.01]),
        (lambda progress: 1 - progress, [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]),
        ("cosine", [(1 + np.cos(np.pi * i / 10)) / 2 for i in range(10)]),
    ],
)
def test_learning_rate_schedules(schedule, expected):
    options = LoopOptions(lr_schedule=schedule)
    np.testing.assert_allclose([options.lr_factor(epoch * 3, 3, 10) for epoch in range(10)], expected, rtol=1e-6)


def test_crop_flip_gives_each_crop_and_mirror_image():
    x = torch.arange(2 * 3 * 6 * 6, dtype=torch.float32).reshape(2, 3, 6, 6)
    padded = torch.nn.functional.pad(x, (2,) * 4).numpy()

    def crops(image):
        plain = [image[:, top : top + 6, left : left + 6] for top in range(5) for left in range(5)]
        return {crop.tobytes() for crop in plain} | {crop[..., ::-1].tobytes() for crop in plain}

    allowed = [crops(padded[0]), crops(padded[1])]
    seen: list[set[bytes]] = [set(), set()]
    for _ in range(600):
        for index, image in enumerate(crop_flip(x, padding=2).numpy()):
            seen[index].add(image.tobytes())
    assert seen == allowed
    assert [len(s) for s in seen] == [50, 50]


def test_generators_of_art(make_classifier, digits):
    generator = NumpyDataGenerator(digits.x_train[:400], np.eye(10)[digits.y_train[:400]], batch_size=50)
    trainer = qadv.DefensiveQuantTrainer(make_classifier(), **QUIET)
    trainer.fit_generator(generator, nb_epochs=6)
    assert trainer.history[-1]["accuracy"] > 0.8
    with pytest.raises(InvalidInputError, match="expected an ART DataGenerator"):
        trainer.fit_generator([1, 2, 3])


def test_preprocessing_runs_inside_the_loop(make_classifier, digits):
    blurred = make_classifier(preprocessing_defences=Blur(), preprocessing=(0.3, 0.5))
    assert fit(blurred, digits, nb_epochs=8).history[-1]["accuracy"] > 0.7
    numpy_only = make_classifier(preprocessing_defences=SpatialSmoothing(channels_first=True, apply_fit=True))
    with pytest.raises(InvalidInputError, match="SpatialSmoothing works on numpy arrays"):
        fit(numpy_only, digits)


def test_objectives_compose(make_classifier, digits):
    class Darker(Objective):
        def inputs(self, network, x, y):
            assert x.min() >= 0
            self.seen = True
            return x * 0.9

        def terms(self, network, x, y, logits):
            return {"constant": torch.tensor(1.5)}

    darker = Darker()
    trainer = LoopTrainer(make_classifier(), [darker], **QUIET)
    trainer.fit(digits.x_train[:200], digits.y_train[:200], nb_epochs=1)
    assert darker.seen
    assert trainer.history[0]["constant"] == pytest.approx(1.5)


def test_a_loss_that_is_not_finite_stops_with_epoch_step_and_layer(make_classifier, digits):
    classifier = make_classifier("float", "float")
    with torch.no_grad():
        classifier.model[4].weight[0, 0, 0, 0] = float("inf")
    with pytest.raises(TrainingError, match=r"epoch 0, step 0.*not finite: 4 \(its parameters\)"):
        fit(classifier, digits)
    assert not classifier.model.training


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta": -1}, "beta: expected a finite number of at least 0, got -1"),
        ({"beta": float("nan")}, "beta: expected a finite number"),
        ({"lr": 0}, "lr: expected a finite number"),
        ({"momentum": 1.0}, "momentum: expected"),
        ({"lr_schedule": "linear"}, "lr_schedule: expected one of constant, cosine, one-cycle, step"),
        ({"augment": "rotate"}, "augment: expected one of crop-flip, none"),
        ({"seed": -1}, "seed: expected a whole number of at least 0"),
        ({"lr_schedule": None}, "lr_schedule: expected a name"),
        ({"augment": 5}, "augment: expected None"),
        (
            {"learning_rate": 0.1},
            "unexpected keyword argument 'learning_rate'; options: adversary, sq_ratios, early_stop, lr",
        ),
    ],
)
def test_wrong_options(arguments, message, make_classifier):
    with pytest.raises(InvalidInputError, match=message):
        qadv.DefensiveQuantTrainer(make_classifier(), **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nb_epochs": 0}, "nb_epochs: expected a whole number of at least 1"),
        ({"batch_size": 0}, "batch_size: expected a whole number of at least 2"),
        ({"batchsize": 3}, "fit takes no argument batchsize"),
        ({"scheduler": 3}, r"scheduler: expected an object with .step\(\)"),
        ({"x": np.zeros((4, 8, 8), np.float32)}, "expected float images of shape"),
        ({"y": [1, 2, 3, 44]}, "got labels from 1 to 44"),
        ({"validation_data": (np.zeros((4, 1, 8, 8), np.float32), [1])}, r"validation_data\[1\]: expected 4 labels"),
        ({"x": np.zeros((1, 1, 8, 8), np.float32), "y": [1]}, "at least 2 images"),
        ({"validation_data": np.zeros((4, 1, 8, 8), np.float32)}, r"expected a pair \(images, labels\)"),
    ],
)
def test_wrong_arguments_of_fit(change, message, make_classifier):
    arguments = {"x": np.zeros((4, 1, 8, 8), np.float32), "y": [0, 1, 2, 3], "nb_epochs": 1}
    trainer = qadv.DefensiveQuantTrainer(make_classifier(), **QUIET)
    with pytest.raises(InvalidInputError, match=message):
        trainer.fit(**{**arguments, **change})


def test_a_classifier_of_another_framework_is_refused():
    with pytest.raises(InvalidInputError, match="expected an ART PyTorchClassifier, got str"):
        qadv.DefensiveQuantTrainer("classifier")


def test_a_last_batch_of_one_image_does_no_harm(make_classifier, digits):
    trainer = qadv.DefensiveQuantTrainer(make_classifier(), **QUIET)
    trainer.fit(digits.x_train[:65], digits.y_train[:65], batch_size=64, nb_epochs=1)
    assert len(trainer.history) == 1


def test_one_cycle_is_the_factor_of_torch():
    lr = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        lr, 1.0, total_steps=101, final_div_factor=1e9, cycle_momentum=False
    )
    options = LoopOptions(lr_schedule="one-cycle")
    for step in range(100):
        assert abs(options.lr_factor(step, 10, 10) - scheduler.get_last_lr()[0]) < 0.05  # of which a step moves as much
        lr.step()
        scheduler.step()


def test_statistics_that_move_beside_frozen_parameters_are_told(make_classifier, digits):
    classifier = make_classifier()
    norm = next(module for module in classifier.network.modules() if isinstance(module, nn.BatchNorm2d))
    for parameter in norm.parameters():
        parameter.requires_grad_(False)
    before = norm.running_mean.clone()
    with pytest.warns(UserWarning, match=r"are frozen, their running statistics are not.*freeze_batch_norm_2d"):
        fit(classifier, digits)
    assert not torch.equal(norm.running_mean, before)
    norm.train = lambda mode=True: norm
    norm.eval()
    norm.training = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(classifier, digits)


def shifted(x, by):
    return x + by


class Shift(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, x):
        return x + self.by


class Call:
    def __init__(self, by):
        self.by = by

    def __call__(self, x):
        return x + self.by


def lambda_of(by):
    return lambda x: x + by


def weighted(by):
    return nn.CrossEntropyLoss(weight=torch.linspace(1, 1 + by, 10))


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("loss", weighted),
        ("loss", lambda by: nn.CrossEntropyLoss(label_smoothing=by)),
        ("augment", lambda_of),
        ("augment", lambda by: partial(shifted, by=by)),
        ("augment", Shift),
        ("augment", Call),
        ("lr_schedule", lambda by: lambda progress: 1 - by * progress),
        ("clip_values", lambda by: (0.0, 1.0 + by)),
        ("scheduler", lambda by: partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=by)),
    ],
    ids=lambda given: getattr(given, "__name__", given),
)
def test_what_changes_the_result_is_another_run_and_the_same_made_anew_is_not(name, made, digits, tmp_path):
    def run(by):
        torch.manual_seed(0)
        net, given = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), {name: made(by)}
        settings = {"clip_values": (0.0, 1.0)} | {k: given.pop(k) for k in ("loss", "clip_values") if k in given}
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        loss = settings.pop("loss", nn.CrossEntropyLoss())
        classifier = qadv.QuantizedClassifier(net, loss, (1, 8, 8), 10, optimizer=optimizer, **settings)
        scheduler = {"scheduler": given.pop(name)(optimizer)} if name == "scheduler" else {}
        trainer = LoopTrainer(classifier, checkpoint=tmp_path / "run.ckpt", verbose=False, **given)
        trainer.fit(digits.x_train[:64], digits.y_train[:64], batch_size=32, nb_epochs=1, **scheduler)

    run(0.5)
    run(0.5)
    with pytest.raises(FileFormatError, match=f"is the checkpoint of another run .{name}: saved"):
        run(0.25)


class Cut(nn.Module):
    """Rounds in integers, without a straight-through step."""

    def forward(self, x):
        return x.detach().mul(8).to(torch.int8).float() / 8


def test_parameters_that_no_gradient_reaches_are_told(digits):
    def trainer(*layers):
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), *layers)
        classifier = qadv.QuantizedClassifier(network, nn.CrossEntropyLoss(), (1, 8, 8), 10)
        return LoopTrainer(classifier, **QUIET)

    data = digits.x_train[:64], digits.y_train[:64]
    with pytest.warns(UserWarning, match=r"no gradient has reached 1\.bias, 1\.weight: the training leaves them"):
        trainer(Cut(), nn.Linear(8, 10)).fit(*data, nb_epochs=1)
    with pytest.raises(
        UnsupportedModelError, match=r"no parameter of the network has a gradient.*before it is converted"
    ):
        trainer(nn.Linear(8, 10), Cut()).fit(*data, nb_epochs=1)
    with warnings.catch_warnings(action="error"):
        trainer(nn.Linear(8, 10)).fit(*data, nb_epochs=1)


def test_a_rest_of_one_image_is_no_step_of_a_loader_either(digits):
    lrs = []
    for source in (None, TensorDataset(torch.from_numpy(digits.x_train[:65]), torch.from_numpy(digits.y_train[:65]))):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        classifier = qadv.QuantizedClassifier(net, nn.CrossEntropyLoss(), (1, 8, 8), 10)
        trainer = LoopTrainer(classifier, lr=0.1, verbose=False)
        data = (digits.x_train[:65], digits.y_train[:65]) if source is None else (source,)
        trainer.fit(*data, batch_size=32, nb_epochs=2)
        lrs.append([entry["lr"] for entry in trainer.history])
    assert lrs[0] == lrs[1]


def test_the_validation_loss_is_that_of_all_its_images_at_once(digits):
    order = np.argsort(digits.y_test[:300])
    x, y = digits.x_test[:300][order], digits.y_test[:300][order]
    loss = nn.CrossEntropyLoss(weight=torch.tensor([20.0] + [1.0] * 9))
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    classifier = qadv.QuantizedClassifier(net, loss, (1, 8, 8), 10)
    trainer = LoopTrainer(classifier, verbose=False)
    trainer.fit(digits.x_train[:64], digits.y_train[:64], (x, y), batch_size=32, nb_epochs=1)
    with torch.no_grad():
        expected = loss(net(torch.from_numpy(x)), torch.from_numpy(y)).item()
    assert trainer.history[-1]["val_loss"] == pytest.approx(expected, rel=1e-6)
