"""Images made on another network: that it is another one, and that its seeds reach all that it draws."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load
from safetensors.torch import save_file

import qadv
from qadv.benchmark.attack_cells import transfer_cell
from qadv.benchmark.cells import Finished
from qadv.benchmark.compute import compute
from qadv.benchmark.given import Given, read_dataset
from qadv.benchmark.plan import plan
from qadv.benchmark.study_file import StudyError, read_study
from tests.benchmark.studies import planned, write_tiny

STUDY = """
title = "substitutes"
datasets = ["digits"]
nb_train = 48
nb_test = 8

[backbones.mnist-cnn]
options = { image_size = 8, width = 4 }

[quantizers.float]

[defenses.target]
trainer = "dq"
options = { beta = 0.0, lr = 0.01 }
fit = { nb_epochs = 1, batch_size = 16 }

[defenses.substitute]
trainer = "dq"
options = { beta = 0.0, lr = 0.01 }
fit = { nb_epochs = 1, batch_size = 16 }
start_seed = 1

[attacks.black-box]
attack = "FastGradientMethod"
options = { eps = 0.1 }
source = { defense = "substitute" }

[[grid]]
defenses = ["target"]
"""
SAME = STUDY.replace("start_seed = 1\n", "")
ALLOWED = SAME.replace("source = {", "itself = true\nsource = {")
TAKES_OVER = SAME.replace('trainer = "dq"', 'start = "substitute"', 1).replace(
    'options = { beta = 0.0, lr = 0.01 }\nfit = { nb_epochs = 1, batch_size = 16 }\n', "", 1
)  # fmt: skip


def by_kind(cells, kind):
    return [cell for cell in cells if cell.kind == kind]


def test_a_second_network_of_the_same_settings_is_another_cell(tmp_path):
    cells = planned(write_tiny(tmp_path, STUDY))
    assert [network.spec.seed for network in by_kind(cells, "network")] == [0, 1]
    (transfer,) = by_kind(cells, "transfer")
    made = next(cell for cell in cells if cell.key == transfer.spec.made)
    assert made.spec.network != transfer.spec.network
    assert not transfer.spec.itself


def test_seeds_are_added_and_stay_seeds(tmp_path):
    text = STUDY.replace('datasets = ["digits"]', 'datasets = ["digits"]\nseeds = [4294967295]')
    assert [cell.spec.seed for cell in by_kind(planned(write_tiny(tmp_path, text)), "network")] == [4294967295, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SAME, "target would be attacked from substitute, which has the same weights, and not from a second network"),
        (TAKES_OVER, "target would be attacked from substitute, which has the same weights"),
        (
            SAME.replace("[attacks", 'preprocessors = ["bit-depth"]\n[attacks', 1),
            "target would be attacked from substitute, which has the same weights",
        ),
        (STUDY.replace('["target"]', '["substitute"]'), "substitute would be attacked from itself"),
        (
            STUDY + 'attacks = []\n\n[measures.error-amplification]\nattack = "black-box"\n[[grid]]\n'
            'defenses = ["substitute"]\nattacks = []\n',
            "substitute would be attacked from itself",
        ),
    ],
    ids=["trained the same", "taken over", "behind a preprocessor", "itself", "of a measure"],
)  # fmt: skip
def test_a_source_that_is_its_target_is_refused_with_its_line(tmp_path, text, message):
    with pytest.raises(StudyError, match=message) as refused:
        planned(write_tiny(tmp_path, text))
    line = text.splitlines().index('source = { defense = "substitute" }') + 1
    assert f"tiny.toml:{line}: attacks.black-box.source" in str(refused.value)
    assert "say itself = true" in str(refused.value)


def test_a_source_that_is_its_target_can_be_asked_for(tmp_path):
    (made,) = by_kind(planned(write_tiny(tmp_path, ALLOWED)), "attack")
    (transfer,) = by_kind(planned(write_tiny(tmp_path, ALLOWED)), "transfer")
    assert made.spec.network == transfer.spec.network
    assert transfer.spec.itself


def test_a_quantized_network_is_another_one_than_its_float_start(tmp_path):
    text = TAKES_OVER.replace("[defenses.target]", '[quantizers.w4]\nweights = "int:4"\n[defenses.target]').replace(
        'source = { defense = "substitute" }', 'source = { quantizer = "float", defense = "substitute" }'
    )
    (transfer,) = by_kind(planned(write_tiny(tmp_path, text + 'quantizers = ["w4"]\n')), "transfer")
    assert not transfer.spec.itself


def computed(path, data_dir):
    """Computes a study on digits; returns its cells and what became of them, by key."""
    file = read_study(path)
    cells = plan(file, {"digits": read_dataset("digits", data_dir)[0]}, data_dir)
    found = {}
    for cell in cells:
        if cell.kind != "transfer":
            found[cell.key] = compute(cell.spec, found, Given(data_dir, data_dir))
    return cells, found


@pytest.mark.parametrize("checkpoint", [False, True], ids=["from scratch", "from a checkpoint"])
def test_the_substitute_has_other_weights_than_its_target(tmp_path, checkpoint):
    text = STUDY
    if checkpoint:  # it overwrites the new weights that the seed decides: the order of the images is left
        net = qadv.create("backbone", "mnist-cnn", nb_classes=10, in_channels=1, image_size=8, width=4)
        save_file(net.state_dict(), tmp_path / "start.safetensors")
        text = STUDY.replace("width = 4 }", 'width = 4 }\ncheckpoint = "start.safetensors"')
    cells, found = computed(write_tiny(tmp_path, text), tmp_path)
    target, substitute = (
        load(found[cell.key].files["network.safetensors"]) for cell in cells if cell.kind == "network"
    )
    for name, weights in target.items():
        if name.endswith("weight"):
            assert not np.array_equal(weights, substitute[name]), name


def test_equal_weights_are_refused_when_the_images_are_given_to_the_network(tmp_path):
    """Whatever made them equal: here a file under two names."""
    net = qadv.create("backbone", "mnist-cnn", nb_classes=10, in_channels=1, image_size=8, width=4)
    for name in ("one", "two"):
        save_file(net.state_dict(), tmp_path / f"{name}.safetensors")
    text = """
title = "one file, two names"
datasets = ["digits"]
nb_test = 8
[backbones.one]
backbone = "mnist-cnn"
checkpoint = "one.safetensors"
options = { image_size = 8, width = 4 }
[backbones.two]
backbone = "mnist-cnn"
checkpoint = "two.safetensors"
options = { image_size = 8, width = 4 }
[attacks.black-box]
attack = "FastGradientMethod"
options = { eps = 0.1 }
source = { backbone = "two" }
[[grid]]
backbones = ["one"]
"""
    cells, found = computed(write_tiny(tmp_path, text), tmp_path)
    (transfer,) = by_kind(cells, "transfer")
    given = Given(tmp_path, tmp_path)
    with pytest.raises(qadv.errors.InvalidInputError, match=r"the very weights of this one.* start_seed"):
        transfer_cell(transfer.spec, found, given)
    asked_for = transfer_cell(transfer.spec.model_copy(update={"itself": True}), found, given).record
    made = found[transfer.spec.made].record
    assert asked_for["accuracy"] == made["accuracy"]
    made_elsewhere = {
        **found,
        transfer.spec.made: Finished(made | {"made_on": "0"}, found[transfer.spec.made].files),
    }
    assert transfer_cell(transfer.spec, made_elsewhere, given).record["accuracy"] == made["accuracy"]


def test_the_fingerprint_is_that_of_layers_and_numbers():
    from qadv.estimators.fingerprint import fingerprint

    def classifier(activations="relu6:4", seed=0, change=0.0, **options):
        torch.manual_seed(seed)
        made = qadv.QuantizedClassifier.from_backbone(
            "mnist-cnn", "float", activations, input_shape=(1, 8, 8), image_size=8, width=4, **options
        )
        with torch.no_grad():
            next(made.model.parameters()).view(-1)[0].add_(change)
        return made

    same = fingerprint(classifier())
    assert fingerprint(classifier(preprocessing=(0.5, 0.5))) == same
    for other in (classifier(seed=1), classifier(change=1e-3), classifier("relu6:3"), classifier("float")):
        assert fingerprint(other) != same
