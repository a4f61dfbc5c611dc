"""Data sets of photographs: read when asked for, as timm's config says; what is no plain picture is named."""

import pickle
import shutil
import struct
import warnings
import zlib

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageFile

import qadv
from qadv.backbones.standardisation import keep_picture_settings
from qadv.errors import FileFormatError, InvalidInputError, PictureWarning, StorageError
from tests.photographs import COLOURS, photographs, picture

SHAPE = (3, 8, 8)


@pytest.fixture
def folder(tmp_path):
    return photographs(tmp_path / "fruit")


def opened(folder, **options):
    return qadv.create("dataset", f"image-folder:{folder}", **{"input_shape": SHAPE, **options})


def quiet(call):
    """Returns what a call gives, which has to give no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return call()


def test_photographs_are_a_data_set_like_any_other(folder):
    data = opened(folder)
    assert (data.name, data.classes, data.input_shape) == ("fruit", tuple(COLOURS), SHAPE)
    x, y = quiet(lambda: data.take("train"))
    assert x.shape == (12, *SHAPE)
    assert (x.dtype, y.dtype) == (np.float32, np.int64)
    assert 0 <= x.min() < 0.2 < 0.7 < x.max() <= 1
    assert np.bincount(y).tolist() == [4, 4, 4]
    for image, label in zip(x, y, strict=True):
        assert np.abs(image.mean((1, 2)) * 255 - COLOURS[data.classes[label]]).max() < 20, "image and label fit"
    assert (np.diff(y) < 0).any(), "the first ones are of several classes, though files are listed by class"
    batches = list(data.loader("test", batch_size=4, workers=1))
    assert [len(labels) for _, labels in batches] == [4, 2]
    assert np.array_equal(torch.cat([images for images, _ in batches]).numpy(), data.take("test")[0])
    drawn = data.take("train", 5, seed=1)
    assert np.array_equal(drawn[0], data.take("train", 5, seed=1)[0])
    assert not np.array_equal(drawn[0], data.take("train", 5)[0])
    assert pickle.loads(pickle.dumps(data)).digest() == data.digest()


def test_nothing_is_decoded_before_it_is_asked_for(folder, monkeypatch):
    decoded = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: decoded.append(self) or load(self))
    data = opened(folder)
    data.digest(), data.samples("train"), data.loader("test")
    assert not decoded
    data.take("train", 2)
    assert decoded


def test_the_digest_is_that_of_the_files_and_of_how_they_are_seen(folder):
    before = opened(folder).digest()
    assert opened(folder).digest() == before
    assert opened(folder, input_shape=(3, 9, 9)).digest() != before
    assert opened(folder, seed=1).digest() != before, "another order"
    path = folder / "val" / "pear" / "0.jpg"
    path.write_bytes(path.read_bytes() + b"\0")
    assert opened(folder).digest() != before


def test_images_are_resized_and_cropped_as_the_network_says(folder):
    config = timm.get_pretrained_cfg("resnet10t")
    settings = opened(folder, input_shape=None, network="resnet10t").settings
    assert settings["input_size"] == config.input_size
    assert (settings["crop_pct"], settings["interpolation"]) == (config.crop_pct, config.interpolation)

    network = timm.create_model("resnet10t", num_classes=3)
    network.pretrained_cfg = {**network.pretrained_cfg, "crop_pct": 0.5, "interpolation": "nearest"}
    data = opened(folder, network=network)
    expected = timm.data.create_transform(
        (3, 8, 8), interpolation="nearest", crop_pct=0.5, mean=(0, 0, 0), std=(1, 1, 1)
    )
    for name in ("0.jpg", "1.png"):
        seen = expected(Image.open(folder / "train" / "plum" / name).convert("RGB")).numpy()
        assert any(np.array_equal(seen, image) for image in data.take("train")[0])


def test_a_file_keeps_how_photographs_are_resized(folder, tmp_path):
    def network():
        return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 3))

    said = {"crop_pct": 0.5, "interpolation": "nearest", "crop_mode": "center"}
    model = network()
    model.pretrained_cfg = {**said, "crop_border_pixels": None}
    model = qadv.quantize(model, "int:8", "float", skip_first_last=False)
    made = qadv.QuantizedClassifier(model, torch.nn.CrossEntropyLoss(), SHAPE, 3)
    made.save(tmp_path / "net.safetensors")
    qadv.export(made, tmp_path / "net.packed.safetensors")
    seen = qadv.create("dataset", "image-folder", data_dir=folder, classifier=made)
    assert {name: seen.settings[name] for name in said} == said
    for again in (
        qadv.QuantizedClassifier.load(tmp_path / "net.safetensors", model=network()),
        qadv.QuantizedClassifier.load(tmp_path / "net.packed.safetensors", model=network()),
        qadv.EnsembleClassifier.of([made, made]),
    ):
        data = qadv.create("dataset", "image-folder", data_dir=folder, classifier=again)
        assert np.array_equal(data.take("test")[0], seen.take("test")[0])


@pytest.mark.parametrize("wrong", [{"crop_pct": 1e-9}, {"interpolation": "random"}, {"crop_mode": ["center"]}])
def test_a_file_says_nothing_that_can_not_be_done(wrong):
    with pytest.raises(InvalidInputError, match=next(iter(wrong))):
        keep_picture_settings(torch.nn.Identity(), wrong)


def test_a_classifier_gets_images_of_its_shape_and_only_its_classes(folder):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 6 * 6, 3))
    make = lambda count: qadv.QuantizedClassifier(network[:count], torch.nn.CrossEntropyLoss(), (3, 6, 6), 3)  # noqa: E731
    classifier = make(2)
    assert qadv.create("dataset", "image-folder", data_dir=folder, classifier=classifier).input_shape == (3, 6, 6)
    shutil.rmtree(folder / "train" / "plum")
    shutil.rmtree(folder / "val" / "plum")
    with pytest.raises(InvalidInputError, match="'fruit' has 2 classes, apple, pear …, the network 3"):
        qadv.create("dataset", "image-folder", data_dir=folder, classifier=classifier)


def test_a_network_that_does_not_say_how_it_sees_photographs_is_named(folder):
    with pytest.warns(PictureWarning, match="Identity does not say how photographs become its images"):
        opened(folder, network=torch.nn.Identity())


def test_one_folder_is_split_by_a_seed(tmp_path):
    folder = photographs(tmp_path, [("", 5)])
    data = opened(folder)
    assert np.bincount(data.labels("train")).tolist() == [4, 4, 4]
    assert np.bincount(data.labels("test")).tolist() == [1, 1, 1]
    assert opened(folder).digest() == data.digest() != opened(folder, seed=1).digest()
    assert len(opened(folder, test_share=0.6).labels("test")) == 9
    (tmp_path / "train").mkdir()
    for name in COLOURS:
        (tmp_path / name).rename(tmp_path / "train" / name)
    assert len(opened(tmp_path).labels("train")) == 12, "train/ alone is split, too"
    with pytest.raises(InvalidInputError, match=r"can't be split, 0\.01 of each class to test"):
        opened(tmp_path, test_share=0.01)


def test_grey_networks_see_grey(folder):
    with pytest.warns(PictureWarning, match="of 12 pictures 12 mode RGB .* are read as L"):
        assert opened(folder, input_shape=(1, 8, 8)).take("train")[0].shape == (12, 1, 8, 8)


def turned(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(path, exif=exif)


def transparent(path):
    image = picture().convert("RGBA")
    image.putalpha(100)
    image.save(path)


def cut(path):
    picture(size=(99, 99)).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:-2000])


def deep_png(path):
    """A colour picture of 16 bits in a channel, which Pillow reads as its upper 8."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + bytes(range(24)) for _ in range(4))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


CHANGED = {
    "1 grey": lambda path: picture().convert("L").save(path),
    "1 mode CMYK": lambda path: picture().convert("CMYK").save(path, "JPEG"),
    "1 mode P": lambda path: picture().convert("P").save(path),
    "1 mode RGBA": lambda path: picture().convert("RGBA").save(path),
    "1 turned as EXIF says": turned,
}
REFUSED = {
    "no picture; JPEG, PNG": lambda path: path.write_text("to do"),
    "expected one picture, got 2": lambda path: picture().save(path, save_all=True, append_images=[picture(seed=1)]),
    "transparent": transparent,
    "8 bits in a channel, got mode I": lambda path: Image.fromarray(np.eye(9, dtype=np.uint16)).save(path),
    "8 bits in a channel, got mode RGB of": deep_png,
    "8 bits in a channel, got mode RGB of more": lambda path: path.write_bytes(b"P6\n4 4\n4095\n" + bytes(96)),
}


def test_what_is_changed_in_reading_is_said(folder):
    for number, write in enumerate(CHANGED.values()):
        write(folder / "train" / "pear" / f"changed{number}.png")
    data = opened(folder)
    with pytest.warns(PictureWarning) as said:
        x, _ = data.take("train")
    assert len(quiet(lambda: data.take("train"))[0]) == len(x), "said once"
    text = str(said[0].message)
    for number, change in enumerate(CHANGED):
        assert f"{change} ({folder}/train/pear/changed{number}.png)" in text
    assert len(x) == 17


def test_a_turned_picture_is_read_upright(folder):
    path = folder / "train" / "pear" / "turned.png"
    wide = np.zeros((8, 16, 3), dtype=np.uint8)
    wide[:, :8] = 255  # left half white; to be turned clockwise
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(wide).save(path, exif=exif)
    with pytest.warns(PictureWarning, match="turned"):
        x, _ = opened(folder, input_shape=(3, 16, 8)).take("train")
    upright = np.zeros((3, 16, 8), dtype=np.float32)
    upright[:, :8] = 1
    assert any(np.abs(image - upright).mean() < 0.2 for image in x)


@pytest.mark.parametrize(("said", "write"), REFUSED.items(), ids=list(REFUSED))
def test_what_is_no_plain_picture_is_named_and_left_out_only_if_told_to(said, write, folder):
    path = folder / "train" / "pear" / "bad.png"
    write(path)
    with pytest.raises(FileFormatError, match=rf"'fruit', train: {path}.*{said}.*skip_bad=True \(--skip-bad\)"):
        opened(folder).take("train", 1)
    with pytest.warns(PictureWarning, match=f"'fruit', train: left out: {path}.*{said}"):
        assert len(opened(folder, skip_bad=True).labels("train")) == 12
    assert len(quiet(lambda: opened(folder).labels("test"))) == 6


def test_a_damaged_picture_is_named_when_it_is_read(folder):
    path = folder / "train" / "pear" / "cut.jpg"
    cut(path)
    data = quiet(lambda: opened(folder))
    with pytest.raises(FileFormatError, match=rf"{path} is no whole picture: OSError.*truncated.*--skip-bad"):
        data.take("train")
    with pytest.raises(FileFormatError, match=f"{path} is no whole picture"):
        list(data.loader("train", workers=1))
    with pytest.warns(PictureWarning, match=f"left out: {path} is no whole picture"):
        assert len(opened(folder, skip_bad=True).take("train")[0]) == 12


def test_the_preview_that_phones_add_is_no_second_picture(folder):
    picture().save(folder / "train" / "pear" / "phone.jpg", "MPO", save_all=True, append_images=[picture(seed=1)])
    assert len(quiet(lambda: opened(folder).take("train"))[0]) == 13


def test_hidden_files_and_folders_are_not_looked_at(folder):
    (folder / "train" / ".cache").mkdir()
    (folder / "train" / "pear" / ".DS_Store").write_text("")
    assert len(quiet(lambda: opened(folder).labels("train"))) == 12


def test_classes_that_differ_between_the_parts(folder):
    (folder / "val" / "plum").rename(folder / "val" / "prune")
    with pytest.raises(InvalidInputError, match=r"val: expected the classes of train; it has prune, .* train has plum"):
        opened(folder)
    with pytest.warns(PictureWarning, match="val: left out prune, no classes of train"):
        data = opened(folder, skip_bad=True)
    assert data.classes == tuple(COLOURS)
    with pytest.warns(PictureWarning, match="test: no picture of plum"):
        assert sorted(data.labels("test")) == [0, 0, 1, 1], "as in train"


def test_a_class_without_pictures(folder):
    for part in ("train", "val"):
        (folder / part / "fig").mkdir()
    with pytest.raises(FileFormatError, match="'fruit', train: no picture of fig; if that is meant, say skip_bad=True"):
        opened(folder).labels("train")
    with pytest.warns(PictureWarning, match="no picture of fig"):
        assert set(opened(folder, skip_bad=True).labels("train")) == {0, 2, 3}


def test_a_part_of_another_name_is_no_class(folder):
    (folder / "val").rename(folder / "valid")
    with pytest.raises(InvalidInputError, match="has train, valid: train has folders of classes, and what to test on"):
        opened(folder)


def test_folders_that_are_none(tmp_path):
    with pytest.raises(StorageError, match="image-folder: expected a folder with train/CLASS"):
        qadv.create("dataset", "image-folder")
    with pytest.raises(StorageError, match=r"there is no folder .*missing"):
        opened(tmp_path / "missing")
    with pytest.raises(StorageError, match=f"two folders of classes or more in {tmp_path}, got none"):
        opened(tmp_path)


def test_the_variable_names_the_folder_where_nothing_else_does(folder, monkeypatch):
    monkeypatch.setenv("QADV_DATA_DIR", str(folder))
    assert qadv.create("dataset", "image-folder", input_shape=SHAPE).name == "fruit"
    monkeypatch.setenv("QADV_DATA_DIR", "nowhere")
    assert opened(folder, data_dir="nowhere").name == "fruit", "the one that stands with the name"
    with pytest.raises(StorageError, match=r"no file other/mnist\.npz"):
        qadv.create("dataset", "mnist", data_dir="other")


def test_data_sets_of_hugging_face_on_the_disk(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(COLOURS))})
    made = {
        part: datasets.Dataset.from_dict(
            {
                "image": [picture(c, seed=i) for c in COLOURS.values() for i in range(n)],
                "label": np.arange(3).repeat(n),
            },
            features=features,
        )
        for part, n in (("train", 5), ("test", 2))
    }
    datasets.DatasetDict(made).save_to_disk(tmp_path / "both")
    made["train"].save_to_disk(tmp_path / "one")
    for name, sizes in (("both", (15, 6)), ("one", (12, 3))):
        data = qadv.create("dataset", f"huggingface:{tmp_path / name}", input_shape=SHAPE)
        assert data.classes == tuple(COLOURS)
        assert tuple(len(data.labels(part)) for part in ("train", "test")) == sizes
        x, y = data.take("train")
        for image, label in zip(x, y, strict=True):
            assert np.abs(image.mean((1, 2)) * 255 - COLOURS[data.classes[label]]).max() < 20
        assert pickle.loads(pickle.dumps(data)).digest() == data.digest()
    with pytest.raises(StorageError, match="huggingface: there is no folder"):
        qadv.create("dataset", "huggingface:nowhere")


def test_a_picture_of_two_colours_in_words_is_read(folder):
    (folder / "train" / "pear" / "words.pbm").write_bytes(b"P1\n2 2\n0 1 1 0\n")
    with pytest.warns(PictureWarning, match="1 grey"):
        assert len(opened(folder).take("train")[0]) == 13
