"""Data sets, diagnostics and checks of audits that break one rule each are caught."""

import contextlib
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from qadv.datasets import Images
from qadv.diagnostics import Finding
from qadv.errors import StorageError
from qadv.estimators.checks import check_images, check_labels
from qadv.testing import ConformanceError, NotApplicable, checks, conformance, run_check
from tests.planted import Offenders

DATASETS = Offenders("dataset")


def stripes(data_dir=None):
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    x = rng.random((40, 1, 8, 8), dtype=np.float32) / 2
    x[y == 1, :, ::2] += np.float32(0.5)
    return Images("stripes", x[:30], y[:30], x[30:], y[30:], ("plain", "striped"))


test_sound_dataset = conformance("dataset", stripes)


def changed(**changes):
    return dataclasses.replace(stripes(), **changes)


@DATASETS.breaks("contract", "tuple")
def arrays_only(data_dir=None):
    return stripes().x_train, stripes().y_train


@DATASETS.breaks("contract", "('plain', 'plain')")
def classes_twice(data_dir=None):
    return changed(classes=("plain", "plain"))


@DATASETS.breaks("shape-and-dtype", "(8, 8, 1)")
def one_part_channels_last(data_dir=None):
    images = stripes()
    return dataclasses.replace(images, x_train=images.x_train.reshape(30, 8, 8, 1))


@DATASETS.breaks("shape-and-dtype", "float64")
def doubles(data_dir=None):
    return changed(x_test=stripes().x_test.astype(np.float64))


@DATASETS.breaks("range-of-pixels", "to 255")
def up_to_255(data_dir=None):
    return changed(x_train=(255 * stripes().x_train / stripes().x_train.max()).astype(np.float32))


@DATASETS.breaks("range-of-pixels", "to 0.00")
def divided_twice(data_dir=None):
    return changed(x_train=stripes().x_train / 255)


@DATASETS.breaks("labels", "15 others, as 2")
def counts_from_one(data_dir=None):
    return changed(y_train=stripes().y_train + 1)


@DATASETS.breaks("labels", "none of [1]")
def sorted_before_the_split(data_dir=None):
    return changed(y_train=0 * stripes().y_train)


@DATASETS.breaks("parts-are-apart", "100.0%")
def trained_images_in_the_test(data_dir=None):
    return changed(x_test=stripes().x_train[:10].copy())


class Turned(Images):
    def image(self, part, index):
        return super().image(part, -1 - index)


@DATASETS.breaks("order", "others")
def takes_and_loads_in_two_orders(data_dir=None):
    return Turned(**vars(stripes()))


_KEPT = stripes()


@DATASETS.breaks("own-arrays", "what was written")
def kept(data_dir=None):
    return Images("kept", _KEPT.x_train, _KEPT.y_train, _KEPT.x_test, _KEPT.y_test, _KEPT.classes)


class Lazy(Images):
    def __reduce__(self):
        raise TypeError("holds an open file")


@DATASETS.breaks("pickling", "holds an open file")
def with_a_handle(data_dir=None):
    return Lazy(**vars(stripes()))


@DATASETS.breaks("bad-input", "failed")
def says_nothing(data_dir=None):
    if data_dir is not None:
        raise StorageError("failed")
    return stripes()


def filed(data_dir=None):
    """A data set that reads a file, written as the scaffold's template says."""
    if data_dir is None or not (data_dir / "stripes.npy").is_file():
        raise StorageError(f"filed: there is no file {data_dir}/stripes.npy; give its folder as data_dir")
    return changed(x_train=stripes().x_train + np.load(data_dir / "stripes.npy"))


def test_a_data_set_that_reads_files_passes_where_the_files_are_and_is_skipped_elsewhere(tmp_path, monkeypatch):
    for check in checks("dataset"):
        if check.name in ("listed", "light"):  # of what is installed
            continue
        if check.name not in ("bad-input", "bad-options", "unknown-options"):
            with pytest.raises(NotApplicable, match=r"it reads files: .*data_dir=FOLDER\), or set QADV_DATA_DIR"):
                run_check(check, "dataset", filed)
        else:
            with contextlib.suppress(NotApplicable):
                run_check(check, "dataset", filed)
    np.save(tmp_path / "stripes.npy", np.float32(0))
    with pytest.raises(ConformanceError, match=r"there is no file nowhere/stripes\.npy"):
        run_check("contract", "dataset", filed, data_dir=Path("nowhere"))
    run_check("contract", "dataset", filed, data_dir=tmp_path)
    monkeypatch.setenv("QADV_DATA_DIR", str(tmp_path))
    for check in checks("dataset"):
        with contextlib.suppress(NotApplicable):
            run_check(check, "dataset", filed)


test_dataset_caught = DATASETS.test()
test_all_dataset_checks_have_an_offender = DATASETS.test_all_checks_have_one()

DIAGNOSTICS = Offenders("diagnostic")


@dataclasses.dataclass(frozen=True)
class Margin:
    mean: float


def margin(classifier, x, y):
    """Mean logit of the class before the mean of all."""
    x = check_images(x, classifier.input_shape, classifier.clip_values)
    labels = check_labels(y, len(x), classifier.nb_classes)
    logits = classifier.predict(x)
    return Margin(float((logits[np.arange(len(x)), labels] - logits.mean(1)).mean()))


test_sound_diagnostic = conformance("diagnostic", margin)


@DIAGNOSTICS.breaks("contract", "['x', 'classifier', 'y']")
def images_first(x, classifier, y):
    return margin(classifier, x, y)


@DIAGNOSTICS.breaks("contract", "None")
def returns_nothing(classifier, x, y):
    margin(classifier, x, y)


@DIAGNOSTICS.breaks("contract", "give it as an option")
def needs_more(classifier, x, threshold):
    return margin(classifier, x, None)


@DIAGNOSTICS.breaks("classifiers-untouched", "the network")
def changes_weights(classifier, x, y):
    next(classifier.model.parameters()).data.add_(0.1)
    return margin(classifier, x, y)


@DIAGNOSTICS.breaks("classifiers-untouched", "the network")
def leaves_a_hook(classifier, x, y):
    classifier.model.register_forward_hook(lambda module, inputs, output: None)
    return margin(classifier, x, y)


class Bare:
    def __init__(self, mean):
        self.mean = mean


@DIAGNOSTICS.breaks("result", " at 0x")
def unreadable(classifier, x, y):
    return Bare(margin(classifier, x, y).mean)


@DIAGNOSTICS.breaks("result", "PicklingError")
def keeps_a_lambda(classifier, x, y):
    found = margin(classifier, x, y)
    return {"mean": found.mean, "again": max, "how": _Quiet()}


class _Quiet:
    def __repr__(self):
        return "how"

    def __reduce__(self):
        raise __import__("pickle").PicklingError("PicklingError")


@DIAGNOSTICS.breaks("bad-input", "as if nothing was wrong")
def takes_nan(classifier, x, y):
    return margin(classifier, np.nan_to_num(x), y)


@DIAGNOSTICS.breaks("bad-input", "as if nothing was wrong")
def cuts_to_the_labels(classifier, x, y):
    check_images(x, classifier.input_shape, classifier.clip_values)
    return margin(classifier, x[: len(y)], y)


test_diagnostic_caught = DIAGNOSTICS.test()
test_all_diagnostic_checks_have_an_offender = DIAGNOSTICS.test_all_checks_have_one()

AUDIT_CHECKS = Offenders("audit-check")


class Brighter:
    """Makes all pixels brighter by ε."""

    name = "brighter images"
    rule = "break nothing"

    def examine(self, case):
        gain = int(case.attack("brighter", lambda x, y: x + np.float32(case.eps), case.survivors).sum())
        return Finding.of(gain == 0, f"{gain} more", gain=gain)


test_sound_audit_check = conformance("audit-check", Brighter)


@AUDIT_CHECKS.breaks("contract", "None")
class HasNoRule(Brighter):
    rule = None


@AUDIT_CHECKS.breaks("contract", "bool")
class SaysYesOrNo(Brighter):
    def examine(self, case):
        return super().examine(case).verdict == "passed"


@AUDIT_CHECKS.breaks("plain-values", "not JSON serializable")
class KeepsAnArray(Brighter):
    def examine(self, case):
        return Finding.of(True, "survivors", left=case.survivors)


@AUDIT_CHECKS.breaks("classifiers-untouched", "the network")
class TurnsTheNetworkOver(Brighter):
    def examine(self, case):
        next(case.target.classifier.model.parameters()).data.neg_()
        return super().examine(case)


@AUDIT_CHECKS.breaks("nothing-left", "ZeroDivisionError")
class DividesByTheRest(Brighter):
    def examine(self, case):
        return Finding.of(True, f"{100 // int(case.survivors.sum())} % each")


test_audit_check_caught = AUDIT_CHECKS.test()
test_all_audit_check_checks_have_an_offender = AUDIT_CHECKS.test_all_checks_have_one()
