"""Images that come batch by batch are worth what arrays are, and no more than a batch of them is held."""

from pathlib import Path

import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod
from art.data_generators import PyTorchDataGenerator
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import qadv
from qadv.benchmark.given import Given
from qadv.benchmark.network_cells import network_cell
from qadv.benchmark.plan import plan
from qadv.benchmark.study_file import read_study
from qadv.errors import InvalidInputError
from qadv.estimators import door
from qadv.evaluation import accuracy, attack_classifier
from qadv.trainers import LoopTrainer
from tests.benchmark.studies import write_tiny
from tests.photographs import photographs

N = 50


@pytest.fixture
def pair(digits):
    return digits.take("test", N)


def sources(x, y):
    tensors = TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    loader = DataLoader(tensors, batch_size=16)
    return {
        "dataset": tensors,
        "loader": loader,
        "subset": Subset(tensors, range(len(x))),
        "generator": PyTorchDataGenerator(loader, len(x), 16),
    }


def test_predictions_and_accuracy_are_those_of_arrays(trained, pair, digits):
    x, y = pair
    expected = trained.predict(x, batch_size=16)
    right = float((expected.argmax(1) == y).mean())
    assert right == accuracy(trained, x, y)
    for source in (*sources(x, y).values(), digits.samples("test", N), DataLoader(list(torch.from_numpy(x)), 16)):
        assert np.array_equal(trained.predict(source, batch_size=16), expected)
        if not isinstance(getattr(source, "dataset", None), list):  # which has no labels
            assert accuracy(trained, source, batch_size=16) == right


class Noted(Dataset):
    """Images that note when they are read."""

    def __init__(self, events):
        self.events = events

    def __len__(self):
        return 100

    def __getitem__(self, index):
        self.events.append("read")
        return torch.full((1, 8, 8), 0.5), 0


def test_no_more_than_a_batch_is_read_before_it_is_used(make_classifier):
    classifier, events = make_classifier(), []
    handle = classifier.model.register_forward_hook(lambda *_: events.append("asked"))
    for use in (
        lambda data: classifier.predict(data, batch_size=20),
        lambda data: accuracy(classifier, data, batch_size=20),
        lambda data: LoopTrainer(classifier, verbose=False).fit(data, batch_size=20, nb_epochs=1),
    ):
        events.clear()
        use(Noted(events))
        reads = " ".join(events).split("asked")
        assert max(part.count("read") for part in reads) == 20
        assert " ".join(events).count("read") == 100
    handle.remove()


def test_arrays_are_prepared_batch_by_batch(make_classifier, monkeypatch):
    classifier, sizes = make_classifier(preprocessing=(0.5, 0.5)), []
    prepare = door.prepare
    monkeypatch.setattr(door, "prepare", lambda *given: sizes.append(len(given[1])) or prepare(*given))
    classifier.predict(np.zeros((70, 1, 8, 8), np.float32), batch_size=32)
    assert sizes == [32, 32, 6]


def test_calibration(pair):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)).eval()
    found = [
        qadv.quantize(network, "int:4", "relu:4", calibration=given)(torch.from_numpy(pair[0]))
        for given in (pair[0], *sources(*pair).values())
    ]
    assert all(torch.equal(other, found[0]) for other in found[1:])


def test_trainings(make_classifier, digits):
    def weights(x, y=None, **options):
        classifier = make_classifier()
        trainer = LoopTrainer(classifier, lr=0.1, seed=3, verbose=False)
        trainer.fit(x, y, nb_epochs=2, batch_size=16, **options)
        return torch.cat([p.detach().flatten() for p in classifier.model.parameters()]), trainer.history

    x, y = digits.take("train", 240)
    validation = digits.take("test", 100)
    _, expected = weights(x, y, validation_data=validation)
    given = sources(x, y)
    results = {}
    for name in ("dataset", "loader"):
        learned, history = weights(given[name], validation_data=sources(*validation)[name])
        torch.manual_seed(99)
        assert torch.equal(learned, weights(given[name])[0]), "the trainer's seed decides the order"
        assert history[-1]["loss"] < history[0]["loss"] < 3
        results[name] = learned
    assert not torch.equal(results["dataset"], results["loader"]), "a dataset is shuffled"
    trainer = LoopTrainer(make_classifier(), lr=0.1, seed=3, verbose=False)
    trainer.fit_generator(given["generator"], nb_epochs=1, validation_data=sources(*validation)["generator"])
    assert set(trainer.history[0]) == set(expected[0])

    # the same network, validated on the same images
    found = []
    for source in (validation, *sources(*validation).values()):
        trainer = LoopTrainer(make_classifier(), lr=1e-9, seed=3, verbose=False)
        trainer.fit(x[:4], y[:4], validation_data=source, nb_epochs=1)
        found.append([trainer.history[0][key] for key in ("val_loss", "val_accuracy")])
    assert np.allclose(found, found[0], rtol=1e-5)


def test_attacks_audit_and_diagnostics(trained, pair, short, only_checks):
    only_checks(lambda number: number == 1)
    fgsm = lambda classifier, eps=0.1: FastGradientMethod(classifier, eps=eps)  # noqa: E731
    measures = {
        "attack": lambda x, y: attack_classifier("FGSM", fgsm(trained), trained, x, y)[1],
        "audit": lambda x, y: qadv.audit(trained, x, y, eps=0.1, verbose=False).worst_case.robust,
        "curve": lambda x, y: qadv.accuracy_curve(trained, x, y, (0, 0.1), fgsm).accuracy,
        "transfer": lambda x, y: qadv.transfer_matrix({"a": trained}, x, y, {"FGSM": fgsm}).accuracy,
        "similarity": lambda x, y: qadv.gradient_similarity({"a": trained}, x, y).similarity,
        "by eps": lambda x, y: qadv.amplification_by_eps(trained, x, y, (0, 0.1), fgsm).distance,
        "layers": lambda x, y: qadv.error_amplification(trained, x, x).distance,
    }
    for name, measure in measures.items():
        expected = measure(*pair)
        for source in sources(*pair).values():
            assert np.array_equal(measure(source, None), expected), name


class WithClasses(TensorDataset):
    classes = ("cat", "dog")


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield torch.zeros(1, 8, 8), 0


def test_what_does_not_fit_is_refused(make_classifier, pair, digits, monkeypatch):
    x, y = pair
    classifier, given = make_classifier(), sources(x, y)
    trainer = LoopTrainer(classifier, verbose=False)
    tensors = torch.from_numpy(x), torch.from_numpy(y)
    two = DataLoader(Subset(WithClasses(*tensors), range(10)))
    for use in (
        trainer.fit,
        lambda source: accuracy(classifier, source),
        lambda source: qadv.audit(classifier, source),
    ):
        with pytest.raises(InvalidInputError, match="x has 2 classes, cat, dog …, the network 10"):
            use(two)
        with pytest.raises(InvalidInputError, match=r"data set 'digits': give data.samples\('test'\)"):
            use(digits)
        with pytest.raises(InvalidInputError, match="labels"):
            use(DataLoader(list(tensors[0]), 16))
    with pytest.raises(InvalidInputError, match="y: expected None, since labels come with x"):
        trainer.fit(given["loader"], y)
    with pytest.raises(InvalidInputError, match="y: expected None, since labels come with x"):
        qadv.audit(classifier, given["loader"], y)
    with pytest.raises(InvalidInputError, match=r"got dtype uint8; convert to float32: \(x / 255\)"):
        classifier.predict(TensorDataset((255 * tensors[0]).byte()))
    with pytest.raises(InvalidInputError, match=r"expected batches \(images, labels\) of tensors, got dict"):
        classifier.predict(DataLoader([{"image": image} for image in tensors[0]]))
    with pytest.raises(InvalidInputError, match="expected a loader that knows its length"):
        trainer.fit(DataLoader(Endless(), 4))
    with pytest.raises(InvalidInputError, match="fit takes arrays; of qadv's trainers any takes these"):
        qadv.QuantizedClassifier(
            classifier.model, classifier.loss, (1, 8, 8), 10, optimizer=torch.optim.SGD(classifier.model.parameters())
        ).fit(given["loader"])
    monkeypatch.setattr("qadv.sources._MOST_BYTES", x[:20].nbytes)
    with pytest.raises(InvalidInputError, match="x: more than 32 images to be held at once; give fewer"):
        qadv.audit(classifier, given["loader"])


@pytest.mark.filterwarnings("ignore")
def test_a_study_trains_on_photographs_without_holding_them(tmp_path, monkeypatch):
    name = f"image-folder:{photographs(tmp_path / 'fruit')}"
    data = qadv.create("dataset", name, input_shape=(1, 8, 8))
    text = (
        write_tiny(tmp_path)
        .read_text()
        .replace('"digits"', f'"{name}"')
        .replace("4, batch_size = 16", "1, batch_size = 4")
    )
    file = read_study(write_tiny(tmp_path, text), False)
    cells = plan(file, {name: data}, None)
    cell = next(c for c in cells if c.kind == "network" and not c.needs)
    monkeypatch.setattr(Given, "images", lambda self, wanted: data)
    monkeypatch.setattr(type(data), "take", lambda *_: pytest.fail("held"))
    made = network_cell(cell.spec, {}, Given(None, Path(tmp_path)))
    assert len(made.record["history"]) == 1
