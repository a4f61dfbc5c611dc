"""What a study can say of attacked images: how far they may be, where they come from, and who is measured on them."""

from pathlib import Path

import numpy as np
import pytest

from qadv.benchmark.attack_cells import adversarial_images
from qadv.benchmark.bench import run_cells
from qadv.benchmark.compute import plain
from qadv.benchmark.engines import InProcess
from qadv.benchmark.given import Given
from qadv.benchmark.names import faults
from qadv.benchmark.network_cells import load_network
from qadv.benchmark.plan import plan
from qadv.benchmark.store import Store
from qadv.benchmark.study_file import read_study
from qadv.diagnostics.ensemble_agreement import ensemble_agreement

STUDY = """
title = "attacked images"
datasets = ["digits"]
nb_train = 400
nb_test = 40

[backbones.mnist-cnn]
options = { image_size = 8, width = 8 }

[quantizers.float]
[quantizers.w2]
weights = "int:2"
[quantizers.w4]
weights = "int:4"

[defenses.trained]
trainer = "dq"
options = { beta = 0.0, lr = 0.1, lr_schedule = { "2" = 0.1 }, augment = "none" }
fit = { nb_epochs = 3, batch_size = 50 }

[defenses.ensemble]
members = ["float", "w2", "w4"]
of = "trained"
ensemble = { combine = "vote" }

[attacks.ddn]
options = { max_iter = 20 }

[attacks.near]
attack = "ddn"
options = { max_iter = 20 }
max_l2 = 0.8

[attacks."fgsm on w2"]
attack = "FastGradientMethod"
options = { eps = 0.2 }
source = { quantizer = "w2", defense = "trained" }

[measures.clean]
diagnostic = "ensemble-agreement"
options = { m = 3 }

[measures.attacked]
diagnostic = "ensemble-agreement"
options = { m = 3 }
attack = "fgsm on w2"
attacked = true

[[grid]]
quantizers = ["w4"]
defenses = ["trained"]
attacks = ["ddn", "near"]
measures = []

[[grid]]
quantizers = ["float"]
defenses = ["ensemble"]
attacks = ["fgsm on w2"]
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "study.toml"
    path.write_text(STUDY)
    return read_study(path)


@pytest.fixture(scope="module")
def finished(study, digits, tmp_path_factory):
    """The finished cells by measure or label."""
    cells = plan(study, {"digits": digits}, None)
    store = Store(tmp_path_factory.mktemp("out"))
    with store.locked():
        result = run_cells(
            list({c.key: c for c in cells}.values()), store, InProcess(Given(None, Path(store.scratch)), 1)
        )
    assert not result.failed, result.failed
    return {c.place.get("measure") or c.label: store.read(c.key) for c in cells}


def test_images_too_far_away_count_as_not_found(finished, digits):
    every, near = finished["ddn on w4 · trained"], finished["near on w4 · trained"]
    x = digits.x_test[:40]
    far = np.array(every.record["l2"]) > 0.8
    assert 0 < far.sum() < 40
    images = adversarial_images(near)
    assert np.array_equal(images[far], x[far])
    assert np.array_equal(images[~far], adversarial_images(every)[~far])
    assert np.array_equal(np.array(near.record["right"])[far], np.array(every.record["clean_right"])[far])
    assert near.record["accuracy"] > every.record["accuracy"]


def test_a_record_has_the_predicted_classes(finished, digits):
    record = finished["ddn on w4 · trained"].record
    assert [c == y for c, y in zip(record["classes"], digits.y_test[:40].tolist(), strict=True)] == record["right"]


def test_a_diagnostic_can_take_attacked_images_from_another_network(finished, digits):
    images = adversarial_images(finished["fgsm on w2 on w2 · trained"])
    ensemble, y = load_network(finished["network float · ensemble"]), digits.y_test[:40]
    expected = {"attacked": images, "clean": digits.x_test[:40]}
    for name, x in expected.items():
        assert finished[name].record["result"] == plain(ensemble_agreement(ensemble, x, y, 3).to_dict())
    assert finished["attacked"].record["result"] != finished["clean"].record["result"]


def test_epochs_of_a_schedule_may_be_text(finished):
    history = finished["network w4 · trained"].record["history"]
    assert [round(entry["lr"], 6) for entry in history] == [0.1, 0.1, 0.01]


def test_the_bound_is_in_the_key_only_where_there_is_one(study, digits):
    specs = {
        c.place["attack"]: c.spec.attack.model_dump()
        for c in plan(study, {"digits": digits}, None)
        if c.kind == "attack"
    }
    assert specs["near"]["max_l2"] == 0.8
    assert "max_l2" not in specs["ddn"]


def test_faults_of_what_is_published_and_measured(tmp_path):
    more = """
[measures.nothing]
diagnostic = "ensemble-agreement"
attacked = true

[[published]]
dataset = "cifar1000"
source = { quantizer = "w3" }
accuracy = { clean = 90.0 }
distances = { nowhere = [1.0, 0.1] }

[published.measured]
nothing = { prediction_rat = 0.5, accuracy = 0.5 }
"""
    (tmp_path / "study.toml").write_text(STUDY + more)
    found = dict(faults(read_study(tmp_path / "study.toml").study))
    assert found["measures", "nothing", "attacked"] == "it takes attacked images: say attack = …"
    assert "no entry 'w3'" in found["published", 0, "source", "quantizer"]
    assert "cifar100" in found["published", 0, "dataset"]
    assert "no entry 'nowhere'" in found["published", 0, "distances"]
    assert "'prediction_rat'; did you mean prediction_rate?" in found["published", 0, "measured", "nothing"]


@pytest.mark.parametrize(
    ("diagnostic", "more", "field", "said"),
    [
        ("logit-statistics", 'attack = "near"', "attack", "attacked = true gives it the attack's images"),
        ("gradient-similarity", 'attack = "near"', "attack", "takes none; attacked = true"),
        ("error-amplification", 'attack = "near"\nattacked = true', "attacked", "compares with the attack's images by"),
        ("logit-statistics", 'attacks = ["near"]', "attacks", "logit-statistics takes none"),
    ],
)
def test_what_is_said_of_attacks_and_has_no_effect_is_refused(diagnostic, more, field, said, tmp_path):
    (tmp_path / "study.toml").write_text(f'{STUDY}\n[measures.idle]\ndiagnostic = "{diagnostic}"\n{more}\n')
    found = dict(faults(read_study(tmp_path / "study.toml").study))
    assert said in found["measures", "idle", field]
