"""What comes in another form than torch's is taken for what it is, or refused with what to write."""

from functools import partial

import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent, ProjectedGradientDescentPyTorch
from torch import nn

import qadv
from qadv.errors import InvalidInputError
from qadv.units import check_clip_values

SHAPE = (3, 4, 5)
X = np.random.default_rng(0).random((6, *SHAPE), dtype=np.float32)
Y = np.array([0, 1, 2, 3, 0, 1])


def classifier_of(model=None, **options):
    torch.manual_seed(0)
    model = model or nn.Sequential(nn.Flatten(), nn.Linear(60, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    options.setdefault("loss", nn.CrossEntropyLoss())
    return qadv.QuantizedClassifier(model, input_shape=SHAPE, nb_classes=4, device_type="cpu", **options)


@pytest.fixture(scope="module")
def classifier():
    return classifier_of()


def answers(classifier, x, y=Y, label=2):
    return {
        "predict": classifier.predict(x),
        "loss_gradient": classifier.loss_gradient(x, y),
        "class_gradient": classifier.class_gradient(x, label),
        "compute_loss": classifier.compute_loss(x, y),
        "get_activations": classifier.get_activations(x, "3"),
    }


FORMS = {
    "float64": lambda x: x.astype(np.float64),
    "longdouble": lambda x: x.astype(np.longdouble),
    "big-endian float32": lambda x: x.astype(">f4"),
    "big-endian float64": lambda x: x.astype(">f8"),
    "mirrored": lambda x: x[..., ::-1].copy()[..., ::-1],
    "images in reversed order": lambda x: x[::-1].copy()[::-1],
    "channels last in memory": lambda x: x.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2),
    "every second": lambda x: np.repeat(x, 2, axis=0)[::2],
    "read only": lambda x: np.frombuffer(x.tobytes(), np.float32).reshape(x.shape),
    "lists": lambda x: x.tolist(),
    "a list of images": list,
    "a subclass": lambda x: x.view(type("Images", (np.ndarray,), {})),
}


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("form", FORMS)
def test_images_are_what_they_are_in_any_form(classifier, form):
    x = FORMS[form](X)
    for name, answer in answers(classifier, X).items():
        other = answers(classifier, x)[name]
        np.testing.assert_allclose(other, answer, rtol=1e-5, atol=1e-7, err_msg=name)
    attack = qadv.load("attack", "r-fgsm")(classifier, eps=0.1, seed=0, verbose=False)
    np.testing.assert_allclose(attack.generate(x, Y), attack.generate(X, Y), atol=1e-6)


def test_half_precision_images_have_gradients_in_full(classifier):
    small = classifier_of(nn.Sequential(nn.Flatten(), nn.Linear(60, 4)).eval())
    with torch.no_grad():
        small.model[1].weight.mul_(1e-9)  # gradients that float16 can't hold
    x = X.astype(np.float16)
    gradient = small.loss_gradient(x, Y)
    assert gradient.dtype == np.float32
    np.testing.assert_array_equal(gradient, small.loss_gradient(x.astype(np.float32), Y))


def test_a_value_that_float32_cannot_hold_is_refused():
    unlimited = classifier_of(clip_values=None)
    x = X.astype(np.longdouble)
    x[2, 0, 0, 0] = 1e300
    with pytest.raises(InvalidInputError, match="1 of 6 images have NaN or infinite values"):
        unlimited.predict(x)


@pytest.mark.parametrize(
    ("made", "what"),
    [
        (lambda: np.ma.masked_less(X, 0.5), r"x\.filled\(0\)"),
        (lambda: X.astype(object), "got dtype object"),
        (lambda: X.astype(complex), "got dtype complex"),
        (lambda: (255 * X).astype(np.uint8), r"\(x / 255\)\.astype\('float32'\)"),
    ],
)
def test_what_is_no_array_of_floats_is_refused_with_what_to_write(classifier, made, what):
    with pytest.raises(InvalidInputError, match=what):
        classifier.predict(made())


ONE_HOT = np.eye(4)[Y]
LABELS = {
    **{
        name: Y.astype(name) for name in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "uint64", ">i4", ">i8")
    },
    "whole floats": Y.astype(np.float32),
    "longdouble": Y.astype(np.longdouble),
    "a list": Y.tolist(),
    "a column": Y[:, None],
    "reversed": Y[::-1].copy()[::-1],
    **{
        f"one-hot {name}": ONE_HOT.astype(name) for name in ("bool", "int8", "uint64", ">i4", ">f4", "f2", "longdouble")
    },
    "one-hot reversed": ONE_HOT[::-1].copy()[::-1],
    "one-hot lists": ONE_HOT.tolist(),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_are_what_they_are_in_any_form(classifier, kind):
    y = LABELS[kind]
    expected, found = answers(classifier, X, Y, label=Y), answers(classifier, X, y, label=y)
    for name, answer in expected.items():
        np.testing.assert_array_equal(found[name], answer, err_msg=name)


@pytest.mark.parametrize(
    "y", [torch.tensor(Y, dtype=torch.int32), torch.tensor(ONE_HOT, dtype=torch.bool), torch.tensor(Y)[:, None]]
)
def test_labels_may_be_tensors_of_any_type(classifier, y):
    x = torch.from_numpy(X)
    expected = classifier.loss_gradient(x, torch.tensor(Y))
    assert torch.equal(classifier.loss_gradient(x, y), expected)
    np.testing.assert_array_equal(classifier.loss_gradient(X, y), expected.numpy())


@pytest.mark.parametrize("batch_size", [0, -3, 2.5, True])
def test_a_batch_size_that_is_none_is_refused(classifier, batch_size):
    for ask in (classifier.predict, partial(classifier.get_activations, layer=0)):
        with pytest.raises(InvalidInputError, match="batch_size: expected a whole number of at least 1"):
            ask(X, batch_size=batch_size)


def test_a_range_that_is_set_later_is_the_one_that_images_are_checked_by():
    classifier = classifier_of()
    classifier.set_params(clip_values=(0, 255))
    classifier.predict(255 * X)
    classifier.set_params(clip_values=(0, 1))
    with pytest.raises(InvalidInputError, match="expected values from 0 to 1"):
        classifier.predict(255 * X)
    with pytest.raises(InvalidInputError, match="clip_values"):
        classifier.set_params(clip_values=(1, 0))


@pytest.mark.parametrize("label", [[0, 1], np.zeros((2, 3)), 4, 1.5, -1, "2"])
def test_a_class_that_is_none_is_refused(classifier, label):
    with pytest.raises(InvalidInputError, match=r"label: expected .*labels"):
        classifier.class_gradient(X, label)


# ranges of pixels

LOW = np.array([0.0, 0.1, 0.2], dtype=np.float32).reshape(3, 1, 1)
HIGH = np.array([1.0, 0.9, 0.8], dtype=np.float32).reshape(3, 1, 1)


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (LOW, HIGH),
        (LOW.ravel(), HIGH.ravel()),
        (np.broadcast_to(LOW, SHAPE), np.broadcast_to(HIGH, SHAPE)),
        (LOW.tolist(), HIGH.tolist()),
    ],
)
def test_a_range_for_each_channel_or_pixel_is_kept_by_arts_attacks(low, high):
    classifier = classifier_of(clip_values=(low, high))
    x = np.clip(X, LOW, HIGH)
    for kind in (FastGradientMethod, ProjectedGradientDescent, ProjectedGradientDescentPyTorch):
        adversarial = kind(classifier, eps=0.5, eps_step=0.5).generate(x, Y)
        assert (adversarial >= LOW - 1e-6).all()
        assert (adversarial <= HIGH + 1e-6).all()
        for channel, ends in enumerate(zip(LOW.ravel(), HIGH.ravel(), strict=True)):
            found = adversarial[:, channel].min(), adversarial[:, channel].max()
            np.testing.assert_allclose(found, ends, atol=1e-6)


def test_a_range_given_as_arrays_of_one_value_is_that_range():
    for low, high in [(np.zeros(SHAPE), np.ones(SHAPE)), ([0], [1]), (np.float64(0), np.array(1.0))]:
        assert classifier_of(clip_values=(low, high)).clip_values == (0.0, 1.0)


@pytest.mark.parametrize(
    "clip_values",
    [
        (np.zeros(4), np.arange(1, 5)),
        (np.zeros((3, 1, 1)), np.array([1.0, 2.0, 0.0]).reshape(3, 1, 1)),
        (np.zeros((4, 4)), np.arange(1, 17).reshape(4, 4)),
        (np.array([]), np.array([])),
        (0, [[1], [1, 2]]),
        (np.nan, 1),
        (LOW, np.full(SHAPE, np.nan)),
    ],
)
def test_a_range_that_fits_no_image_is_refused(clip_values):
    with pytest.raises(InvalidInputError, match=r"clip_values: expected two numbers .* or two arrays that broadcast"):
        classifier_of(clip_values=clip_values)


def test_one_value_for_each_channel_is_not_guessed_where_it_might_be_one_for_each_column():
    with pytest.raises(InvalidInputError, match="arrays of shapes"):
        check_clip_values((np.zeros(3), np.arange(1, 4)), (3, 5, 3))


NEED_ONE_RANGE = {
    "attack": lambda net: qadv.load("attack", "r-fgsm")(net, eps=0.1, seed=0).generate(np.clip(X, LOW, HIGH), Y),
    "attack with a default length": lambda net: qadv.load("attack", "spsa")(net, max_iter=1).generate(X, Y),
    "trainer": lambda net: qadv.DefensiveQuantTrainer(net, verbose=False).fit(X, Y, nb_epochs=1),
    "as_module": qadv.as_module,
    "audit": lambda net: qadv.audit(net, np.clip(X, LOW, HIGH), Y, eps=0.1),
    "save": lambda net: net.save("never-written.safetensors"),
}


@pytest.mark.parametrize("name", NEED_ONE_RANGE)
def test_what_needs_one_range_says_so(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInputError, match="clip_values: expected one range for all pixels, got arrays"):
        NEED_ONE_RANGE[name](classifier_of(clip_values=(LOW, HIGH)))
    assert not list(tmp_path.iterdir())


# models and losses


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_of_another_precision_is_told_what_to_write(dtype):
    model = nn.Sequential(nn.Flatten(), nn.Linear(60, 4)).to(dtype)
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(InvalidInputError, match=rf"parameters are {name}; .* write model\.float\(\)"):
        classifier_of(model)


class Auxiliary(nn.Module):
    """Gives a second head's output while it is trained, as Inception does."""

    def __init__(self):
        super().__init__()
        self.main, self.other = nn.Linear(60, 4), nn.Linear(60, 4)

    def forward(self, x):
        x = x.flatten(1)
        return (self.main(x), self.other(x)) if self.training else self.main(x)


def test_a_model_that_gives_a_tuple_in_training_alone_is_refused_when_it_is_trained():
    model = Auxiliary()
    classifier = classifier_of(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    assert classifier.predict(X).shape == (6, 4)
    before = [parameter.clone() for parameter in model.parameters()]
    for train in (
        lambda: classifier.fit(X, Y, nb_epochs=1),
        lambda: qadv.DefensiveQuantTrainer(classifier, verbose=False).fit(X, Y, nb_epochs=1),
        lambda: classifier.loss_gradient(X, Y, training_mode=True),
    ):
        with pytest.raises(InvalidInputError, match=r"gives a tuple with 2 tensors.*aux_logits=False"):
            train()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(reduction="none"), nn.NLLLoss(reduction="none")])
def test_a_loss_without_reduction_is_told_what_to_write(loss):
    with pytest.raises(InvalidInputError, match=rf"got {type(loss).__name__}.* write {type(loss).__name__}\(\)"):
        classifier_of(loss=loss)


def test_a_loss_that_is_none_or_gives_many_numbers_is_refused():
    with pytest.raises(InvalidInputError, match=r"loss: expected e\.g"):
        classifier_of(loss=None)
    many = classifier_of(loss=lambda logits, y: nn.functional.cross_entropy(logits, y, reduction="none"))
    with pytest.raises(InvalidInputError, match=r"one number for a batch, got \(6,\)"):
        many.loss_gradient(X, Y)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_a_network_that_is_made_another_type_later_is_told_what_to_write(dtype):
    classifier = classifier_of()
    expected = classifier.predict(X)
    classifier.model.to(dtype)
    asked = [
        lambda: classifier.predict(X),
        lambda: classifier.loss_gradient(X, Y),
        lambda: classifier.class_gradient(X, 2),
        lambda: classifier.compute_loss(X, Y),
    ]
    for ask in asked:
        with pytest.raises(InvalidInputError, match=rf"are {str(dtype)[6:]}; .* write model\.float\(\)"):
            ask()
    classifier.model.float()
    np.testing.assert_allclose(classifier.predict(X), expected, atol=1e-2)
