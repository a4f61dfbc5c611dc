"""Data sets that change another's test images: natural and systematic noise, by name."""

import contextlib
import importlib.util
import pickle
import sys
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

import qadv
from qadv.backbones.float_weights import load_state
from qadv.benchmark.names import faults
from qadv.benchmark.network_cells import made_trainer, training_images
from qadv.benchmark.study import Study
from qadv.datasets import Images
from qadv.datasets.changed import Changed
from qadv.datasets.corrupted import CORRUPTIONS, corrupted
from qadv.datasets.systematic import DECODERS, RESIZERS, decoded, resized
from qadv.errors import InvalidInputError, MissingRequirementError, UnknownNameError
from qadv.testing import NotApplicable, checks, run_check
from tests.photographs import photographs, picture

HAS_OPENCV = importlib.util.find_spec("cv2") is not None
needs_opencv = pytest.mark.skipif(not HAS_OPENCV, reason="the extra noise is not installed")


@pytest.fixture
def corruptions(monkeypatch):
    package = pytest.importorskip("imagecorruptions")
    shuffle = "_shuffle_pixels_njit_glass_blur"  # compiling it takes longer than all else
    monkeypatch.setattr(package.corruptions, shuffle, getattr(package.corruptions, shuffle).py_func)
    return package


def pictures(size=32, channels=3, number=6):
    x = np.stack([np.asarray(picture((90, 150, 200), (size, size), seed)) for seed in range(number)])
    x = x.transpose(0, 3, 1, 2)[:, :channels].astype(np.float32) / np.float32(255)
    y = np.arange(number) % 2
    return Images("drawn", x[: number // 2], y[: number // 2], x[number // 2 :], y[number // 2 :], ("a", "b"))


def test_only_what_is_tested_on_is_changed(digits):
    data = qadv.create("dataset", "resized:pillow-bilinear:digits")
    assert (data.name, data.classes) == ("resized:pillow-bilinear:digits", digits.classes)
    assert np.array_equal(data.take("train", 50)[0], digits.x_train[:50])
    x, y = data.take("test", 50)
    assert np.array_equal(y, digits.y_test[:50])
    assert 0.01 < np.abs(x - digits.x_test[:50]).mean() < 0.2
    assert (x.min(), x.dtype) == (0, np.float32)
    drawn, _ = data.take("test", 5, seed=1)
    assert np.array_equal(drawn[0], data.image("test", np.random.default_rng(1).permutation(360)[0]))
    others = [digits, qadv.create("dataset", "resized:pillow-box:digits")]
    others += [decoded(digits, name) for name in ("pillow", "torchvision")]  # alike to the bit
    assert len({each.digest() for each in [data, *others]}) == 5
    assert pickle.loads(pickle.dumps(data)).digest() == data.digest()
    twice = qadv.create("dataset", "decoded:torchvision:resized:pillow-box:digits")
    assert not np.array_equal(twice.image("test", 0), others[1].image("test", 0))


def test_a_network_trained_on_it_is_the_one_trained_on_the_other(digits):
    found = []
    for data in (digits, decoded(resized(digits, "pillow-box"), "pillow")):
        classifier = qadv.QuantizedClassifier.from_backbone(
            "mnist-cnn", "float", "float", input_shape=(1, 8, 8), nb_classes=10, image_size=8, width=2
        )
        load_state(classifier.model, found[0][0] if found else classifier.model.state_dict(), "")
        start = {name: tensor.clone() for name, tensor in classifier.model.state_dict().items()}
        trainer = made_trainer("dq", classifier, {"lr": 0.05}, seed=3, verbose=False)
        x, y = training_images(trainer, data, 60)
        trainer.fit(x, y, nb_epochs=1, batch_size=20)
        found.append((start, classifier.model.state_dict()))
    (start, first), (_, second) = found
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], start[name]) for name in first)


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("resized:pilow-box:digits", InvalidInputError, "got 'pilow-box'; did you mean pillow-box"),
        ("decoded:open-cv:digits", InvalidInputError, "one of pillow, .* did you mean opencv"),
        ("corrupted:gausian-noise:3:digits", InvalidInputError, "did you mean gaussian-noise"),
        ("corrupted:fog:6:digits", InvalidInputError, "severity: expected a whole number from 1 to 5, got 6"),
        ("corrupted:fog:mild:digits", InvalidInputError, "severity: .*, got 'mild'"),
        ("corrupted:fog:3:digits", InvalidInputError, r"28 px or more, digits has \(1, 8, 8\)"),
        ("corrupted:fog:3", InvalidInputError, "corrupted:fog:3: expected corrupted:CORRUPTION:SEVERITY:DATASET"),
        ("resized", InvalidInputError, "expected resized:RESIZER:DATASET"),
        ("resized:pillow-box:digts", UnknownNameError, "no dataset 'digts'; did you mean digits"),
        ("resised:pillow-box:digits", UnknownNameError, "no dataset 'resised'; did you mean resized"),
    ],
)
def test_what_is_wrong_in_a_name_is_said(name, error, said):
    with pytest.raises(error, match=said):
        qadv.create("dataset", name)


def test_a_study_says_which_part_of_a_name_is_wrong():
    study = Study.model_construct(datasets=["digits", "resized:pillow-box:digts"])
    for field in Study.model_fields:
        if field != "datasets":
            object.__setattr__(study, field, {} if field not in ("grid", "published") else [])
    ((place, said),) = faults(study)
    assert place == ("datasets", 1)
    assert "did you mean digits" in said


def test_photographs_are_resized_in_place_of_what_the_network_says(tmp_path):
    from timm.data import create_transform

    folder = photographs(tmp_path / "fruit")
    data = qadv.create("dataset", f"resized:pillow-nearest:image-folder:{folder}", input_shape=(3, 8, 8))
    plain = qadv.create("dataset", f"image-folder:{folder}", input_shape=(3, 8, 8))
    assert data.settings == plain.settings
    files = [plain.parts["test"].name(index) for index in range(6)]
    seen = create_transform((3, 8, 8), interpolation="nearest", crop_pct=0.875, mean=(0, 0, 0), std=(1, 1, 1))
    for place, file in enumerate(files):
        assert np.array_equal(data.image("test", place), seen(Image.open(file)).numpy())
    assert np.array_equal(data.take("train")[0], plain.take("train")[0])
    inverted = resized(Changed("inverted", plain, partial(np.subtract, np.float32(1))), "pillow-nearest")
    assert np.array_equal(inverted.image("test", 0), 1 - data.image("test", 0)), "what was changed before is so still"
    for again in ("resized:pillow-box:resized:pillow-nearest", "decoded:torchvision:resized:pillow-box:decoded:pillow"):
        with pytest.raises(InvalidInputError, match=f"photographs are {again[:7]} once; its name says it twice"):
            qadv.create("dataset", f"{again}:image-folder:{folder}", input_shape=(3, 8, 8))


@pytest.mark.parametrize(
    "decoder", ["torchvision", *(pytest.param(d, marks=needs_opencv) for d in ("opencv", "ffmpeg"))]
)
def test_photographs_stay_upright_and_in_their_colours_whoever_decodes_them(decoder, tmp_path):
    folder = photographs(tmp_path / "fruit", parts=(("train", 4), ("val", 2)))
    for name in ("apple", "pear", "plum"):
        path = folder / "val" / name / "0.jpg"
        tall = Image.new("RGB", (20, 14), (200, 40, 40))
        tall.paste((20, 40, 200), (0, 0, 20, 7))  # blue on top
        exif = tall.getexif()
        exif[0x0112] = 6
        tall.save(path, exif=exif)
    with pytest.warns(qadv.errors.PictureWarning, match="turned"):
        plain = qadv.create("dataset", f"image-folder:{folder}", input_shape=(3, 14, 14)).take("test")[0]
    with pytest.warns(qadv.errors.PictureWarning, match="turned"):
        data = qadv.create("dataset", f"decoded:{decoder}:image-folder:{folder}", input_shape=(3, 14, 14))
    found = data.take("test")[0]
    assert np.abs(found - plain).mean() < 0.03
    assert np.abs(found[..., ::-1] - plain).mean() > 0.1, "turned the other way round it would be seen"
    if decoder == "ffmpeg":
        assert not np.array_equal(found, plain)


@needs_opencv
def test_programs_differ_and_grey_stays_grey():
    data, grey = pictures(), pictures(channels=1)
    for functions, change in ((DECODERS, decoded), (RESIZERS, resized)):
        for name in functions:
            x = change(data, name).image("test", 0)
            assert x.shape == data.input_shape
            assert 0 < np.abs(x - data.x_test[0]).mean() < 0.1, name
            assert change(grey, name).image("test", 0).shape == grey.input_shape
    ffmpeg, pillow = (decoded(data, name).image("test", 0) for name in ("ffmpeg", "pillow"))
    assert np.abs(ffmpeg - pillow).mean() > 0.5 / 255


def test_without_the_extra_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    for name in ("decoded:opencv:digits", "resized:opencv-area:digits"):
        with pytest.raises(MissingRequirementError, match=r"cv2 .*pip install 'qadv\[noise\]'"):
            qadv.create("dataset", name)


def test_corruptions_are_those_of_imagecorruptions(corruptions):
    data = pictures()
    assert [name.replace("-", "_") for name in CORRUPTIONS] == corruptions.get_corruption_names()
    pixels = np.rint(data.x_test[1] * 255).astype(np.uint8).transpose(1, 2, 0)
    before = np.random.get_state()[1].copy()
    for name in CORRUPTIONS:
        x = corrupted(data, name, 3).image("test", 1)
        assert np.array_equal(x, corrupted(data, name, 3).image("test", 1)), f"{name}: another at the second time"
        assert (x.dtype, x.shape) == (np.float32, (3, 32, 32))
        assert 0 <= x.min() < x.max() <= 1
        if name in ("defocus-blur", "zoom-blur", "brightness", "contrast", "pixelate", "jpeg-compression"):
            expected = corruptions.corrupt(pixels, 3, name.replace("-", "_"))  # these draw nothing
            assert np.array_equal(np.rint(x * 255), expected.transpose(2, 0, 1)), name
        else:
            assert not np.array_equal(x, corrupted(data, name, 3, seed=1).image("test", 1)), f"{name}: the same draws"
    assert np.array_equal(np.random.get_state()[1], before)


def test_an_image_is_corrupted_alike_whoever_reads_it(corruptions):
    data = pictures()
    turned = Images("other", data.x_train, data.y_train, data.x_test[::-1], data.y_test[::-1], data.classes)
    one, two = (corrupted(each, "gaussian-noise", 3) for each in (data, turned))
    assert np.array_equal(one.image("test", 0), two.image("test", 2))
    noise = [one.image("test", index) - data.x_test[index] for index in range(2)]
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.1, "and others otherwise"
    assert one.digest() != corrupted(data, "gaussian-noise", 3, seed=1).digest()
    milder = corrupted(data, "gaussian-noise", 1).take("test")[0] - data.x_test
    assert milder.std() < 0.6 * (one.take("test")[0] - data.x_test).std()


def test_grey_images_of_28_pixels_are_corrupted_too(corruptions):
    grey = pictures(28, channels=1)
    noise = corrupted(grey, "gaussian-noise", 1).image("test", 0) - grey.x_test[0]
    assert abs(noise.std() - 0.08) < 0.008, "as strong as in colour"


def test_who_takes_no_batches_is_given_the_photographs_at_once(tmp_path):
    folder = photographs(tmp_path / "fruit")
    data = qadv.create("dataset", "image-folder", data_dir=folder, input_shape=(3, 8, 8))
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
    classifier = qadv.QuantizedClassifier(net, torch.nn.CrossEntropyLoss(), (3, 8, 8), 3)
    x, y = training_images(made_trainer("feedback", classifier, {}, verbose=False), data, 6)
    np.testing.assert_array_equal(x, data.take("train", 6)[0])
    assert len(y) == 6
    batches, none = training_images(made_trainer("dq", classifier, {}, verbose=False), data, 6)
    assert none is None
    assert len(batches) == 6


@pytest.mark.parametrize(("severity", "side"), [(3, 28), (4, 31), (5, 41), (4, 28), (5, 32)])
def test_motion_blur_that_darkens_small_images_says_so(severity, side, corruptions, recwarn):
    data = Images("even", *[np.full((1, 1, side, side), 0.8, np.float32), np.zeros(1, np.int64)] * 2, ["one"])
    blurred = [corrupted(data, "motion-blur", severity, seed=seed).image("test", 0).mean() for seed in range(6)]
    told = any("images get darker" in str(each.message) for each in recwarn)
    assert told == (min(blurred) < 0.8 - 0.009)


def test_a_name_takes_the_seed_of_its_corruption(corruptions, tmp_path):
    x, y = np.random.default_rng(0).integers(0, 256, (10, 1, 28, 28), np.uint8), np.arange(10, dtype=np.uint8)
    np.savez(tmp_path / "mnist.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    data = qadv.create("dataset", "mnist", data_dir=tmp_path)
    one, two = (qadv.create("dataset", "corrupted:shot-noise:2:mnist", data_dir=tmp_path, seed=s) for s in (0, 5))
    assert np.array_equal(two.image("test", 0), corrupted(data, "shot-noise", 2, seed=5).image("test", 0))
    with pytest.raises(InvalidInputError, match="the data set takes no seed"):
        qadv.create("dataset", "mnist", data_dir=tmp_path, seed=5)
    assert not np.array_equal(one.image("test", 0), two.image("test", 0))


def test_corrupted_holds_to_the_kit(corruptions):
    options = {"images": pictures(number=60), "corruption": "fog", "severity": 2}
    for check in checks("dataset"):
        if check.name in (
            "contract",
            "shape-and-dtype",
            "range-of-pixels",
            "own-arrays",
            "order",
            "pickling",
            "random-state",
        ):
            with contextlib.suppress(NotApplicable):
                run_check(check, "dataset", "corrupted", **options)
