"""Plans: which cells a study has, and what their keys depend on."""

import json
import re

import numpy as np
import pytest

import qadv
from qadv.benchmark import cells as cells_module
from qadv.benchmark import plan as plan_module
from qadv.benchmark.compute import compute
from qadv.benchmark.cost import _training
from qadv.benchmark.given import Given
from qadv.benchmark.network_cells import load_network, untrained
from qadv.benchmark.study_file import StudyError
from qadv.components import Attack, Quantizer
from qadv.plugins import PluginInfo
from qadv.registry import create, default_registry
from tests.benchmark.studies import TINY, planned, write_tiny


def kinds(cells):
    return {kind: sum(cell.kind == kind for cell in cells) for kind in {cell.kind for cell in cells}}


def test_a_study_is_the_product_of_its_axes(tmp_path):
    cells = planned(write_tiny(tmp_path))
    # 2 quantizers × 2 defenses; each attacked, its images given to the 3 others; one measure each, one of all
    assert kinds(cells) == {"network": 4, "clean": 4, "attack": 4, "transfer": 12, "measure": 5}


def test_each_cell_comes_after_those_it_needs(tmp_path):
    seen = set()
    for cell in planned(write_tiny(tmp_path)):
        assert set(cell.needs) <= seen
        seen.add(cell.key)


def test_grids_restrict_the_product_and_starts_come_along(tmp_path):
    text = TINY.replace("[small]\n", '[[grid]]\nquantizers = ["w4a4"]\ndefenses = ["tuned"]\n[small]\n')
    cells = planned(write_tiny(tmp_path, text))
    networks = [cell.place for cell in cells if cell.kind == "network"]
    assert [(n["quantizer"], n["defense"]) for n in networks] == [("float", "none"), ("w4a4", "tuned")]
    assert kinds(cells) == {"network": 2, "clean": 1, "attack": 1, "measure": 2}


def test_the_plan_is_the_same_twice_and_its_specs_are_plain(tmp_path):
    path = write_tiny(tmp_path)
    first, second = planned(path), planned(path)
    assert [cell.key for cell in first] == [cell.key for cell in second]
    for cell in first:
        assert cells_module.digest(json.loads(json.dumps(cell.spec.model_dump()))) == cell.key


def keys_by_label(tmp_path, text=TINY):
    return {cell.label: cell.key for cell in planned(write_tiny(tmp_path, text))}


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        # an attack's option changes what it makes and what is made of that, and no network
        ('"2/10"', '"1/20"', {"fgsm", "error-amplification"}),
        ("lr = 0.01", "lr = 0.02", {"tuned"}),
        ("lr = 0.05", "lr = 0.06", {"none", "tuned"}),
        ("nb_test = 24", "nb_test = 23", {"clean images", "fgsm", "error-amplification", "gradient-similarity"}),
        ("nb_train = 200", "nb_train = 201", {""}),
        ("seeds = [0]", "seeds = [1]", {""}),
        ('title = "tiny"', 'title = "other"', set()),
        (
            "[defenses.tuned]",
            '[defenses.more]\nstart = "tuned"\ntransformers = ["mu-law"]\n[defenses.tuned]',
            {"gradient-similarity"},
        ),
    ],
)
def test_keys_depend_on_what_determines_the_result(tmp_path, old, new, changes):
    before, after = keys_by_label(tmp_path), keys_by_label(tmp_path, TINY.replace(old, new, 1))
    changed = {label for label, key in before.items() if after.get(label) != key}
    if "gradient-similarity" in changes and len(changes) == 1:  # one more network: only what is on all of them
        assert {label.split(" ")[0] for label in changed} == {"gradient-similarity"}
    elif changes == {"tuned"} or changes == {"none", "tuned"}:
        assert changed >= {label for label in before if "tuned" in label}
        untouched = {label for label in before if "tuned" not in label and "of 4 networks" not in label}
        assert changed.isdisjoint(untouched) == (changes == {"tuned"})
    else:
        expected = {label for label in before if any(part in label for part in changes)}
        assert changed == expected


def test_keys_depend_on_versions_and_plugins(tmp_path, monkeypatch):
    before = keys_by_label(tmp_path)
    monkeypatch.setattr(plan_module, "versions", lambda: {"torch": "0.0"})
    assert not set(before.values()) & set(keys_by_label(tmp_path).values())


@pytest.mark.parametrize("scheme", ["mine:4", "edited/mine:4", "sq(mine:4)"])
def test_the_plugin_of_a_scheme_is_in_the_key_also_inside_another_scheme(scheme, tmp_path, monkeypatch):
    mine = PluginInfo(
        "edited", "main", "1.0", components=[Quantizer(name="mine", target="qadv.quantization.uniform:Int")]
    )
    monkeypatch.setattr(default_registry(), "plugins", [*default_registry().plugins, mine])
    cells = planned(write_tiny(tmp_path, TINY.replace('weights = "int:4"', f'weights = "{scheme}"')))
    plugins = {cell.place["quantizer"]: list(cell.spec.plugins) for cell in cells if cell.kind == "network"}
    assert plugins == {"float": [], "w4a4": ["edited"]}


def test_an_attack_that_is_also_a_source_is_computed_once(tmp_path):
    again = '[attacks.same]\nattack = "FastGradientMethod"\noptions = { eps = 0.2 }\n[small]\n'
    cells = planned(write_tiny(tmp_path, TINY.replace("[small]\n", again)))
    assert kinds(cells)["attack"] == 4


OTHER_FAMILIES = """
[attacks.copycat]
attack = "CopycatCNN"
options = { batch_size_fit = 16, nb_epochs = 1 }

[measures.extraction]
attacks = ["copycat"]

[measures.membership-inference]
"""


def test_attacks_that_make_no_images_are_run_by_the_measures_that_name_them(tmp_path):
    text = TINY.partition("[defenses.tuned]")[0] + OTHER_FAMILIES
    cells = planned(write_tiny(tmp_path, text))
    assert kinds(cells) == {"network": 2, "clean": 2, "measure": 4}
    done, given = {}, Given(None, tmp_path)
    for cell in cells:
        if cell.place["quantizer"] == "w4a4":
            done[cell.key] = compute(cell.spec, done, given)
    copied, members = (done[cell.key].record["result"] for cell in cells if cell.label.endswith("of w4a4"))
    assert (copied["attacks"], copied["nb_queries"], copied["samples"]) == (["copycat"], [12], 12)
    (network,) = (cell for cell in cells if cell.label == "network w4a4")
    classifier, digits = load_network(done[network.key]), create("dataset", "digits")
    right = classifier.predict(digits.x_train[12:24]).argmax(1) == digits.y_train[12:24]
    assert (members["members"], members["samples"]) == (right.mean(), 12)


def test_the_plugin_of_an_attack_that_a_measure_runs_is_in_its_key(tmp_path, monkeypatch):
    found = []
    for version in ("1.0", "1.1"):
        attack = Attack(name="mine", target="art.attacks.extraction:CopycatCNN")
        mine = PluginInfo("edited", "main", version, components=[attack])
        with monkeypatch.context() as patch:
            patch.setattr(default_registry(), "plugins", [*default_registry().plugins, mine])
            cells = planned(write_tiny(tmp_path, TINY + OTHER_FAMILIES.replace('"CopycatCNN"', '"edited/mine"')))
        found.append({cell.label: cell.key for cell in cells})
    changed = {label for label in found[0] if found[0][label] != found[1][label]}
    assert changed == {label for label in found[0] if label.startswith("extraction of ")} != set()


TRAINED = """
title = "trained on some"
datasets = ["digits"]
seeds = [0]
nb_train = 200
nb_test = 16
[backbones.mnist-cnn]
options = { image_size = 8, width = 2 }
[quantizers.float]
[quantizers.w4a4]
weights = "int:4"
activations = "relu6:4"
[defenses.few]
trainer = "dq"
options = { early_stop = { nb_images = 10, max_iter = 1 } }
fit = { nb_epochs = 1, nb_train = 40 }
[defenses.quantized]
start = "few"
[defenses.tuned]
start = "few"
trainer = "dq"
fit = { nb_epochs = 1, nb_train = 20 }
[defenses.all]
trainer = "dq"
fit = { nb_epochs = 1 }
[defenses.ensemble]
members = ["float", "w4a4"]
of = "few"
[defenses.untrained]
[measures.membership-inference]
[[grid]]
quantizers = ["w4a4"]
"""


def test_members_are_the_images_that_a_network_or_its_start_was_trained_on(tmp_path):
    cells = {cell.label: cell for cell in planned(write_tiny(tmp_path, TRAINED))}
    told = {label: cell.spec.nb_trained for label, cell in cells.items() if cell.kind == "measure"}
    of = "membership-inference of w4a4 · "
    assert told == {of + "few": 30, of + "quantized": 30, of + "tuned": 30, of + "ensemble": 30, of + "all": None,
                    of + "untrained": None}  # fmt: skip
    needed, done, given = [of + "quantized"], {}, Given(None, tmp_path)
    by_key = {cell.key: cell for cell in cells.values()}
    for cell in needed_first(cells[needed[0]], by_key):
        done[cell.key] = compute(cell.spec, done, given)
    assert done[cells[of + "quantized"].key].record["result"]["samples"] == 8
    cut = cells[of + "quantized"].spec.model_copy(update={"nb_trained": 10})
    assert compute(cut, done, given).record["result"]["samples"] == 5


def needed_first(cell, by_key):
    """A cell behind all that it needs."""
    return [each for key in cell.needs for each in needed_first(by_key[key], by_key)] + [cell]


def test_an_attack_that_makes_no_images_needs_a_measure(tmp_path):
    text = TINY.partition("[defenses.tuned]")[0] + OTHER_FAMILIES.replace('["copycat"]', "[]")
    with pytest.raises(StudyError, match=r"tiny.toml:\d+.*'extraction'.*\[measures.NAME\] attacks = \['copycat'\]"):
        planned(write_tiny(tmp_path, text))


def test_starts_that_lead_in_a_circle_are_refused(tmp_path):
    text = TINY.replace("[defenses.none]", '[defenses.none]\nstart = "tuned"')
    with pytest.raises(StudyError, match="lead back"):
        planned(write_tiny(tmp_path, text))


def test_a_measure_that_compares_needs_an_attack(tmp_path):
    text = TINY.replace('[measures.error-amplification]\nattack = "fgsm"', "[measures.error-amplification]")
    with pytest.raises(StudyError, match="say attack"):
        planned(write_tiny(tmp_path, text))


def test_a_timm_backbone_is_standardised_by_itself_and_other_keys_stay(tmp_path):
    before = keys_by_label(tmp_path)
    stated = TINY.replace("[backbones.mnist-cnn]", "[backbones.mnist-cnn]\nmean = 0.0\nstd = 1.0")
    assert keys_by_label(tmp_path, stated) == before

    def backbone(more=""):
        text = TINY.replace("[backbones.mnist-cnn]", f"[backbones.test_resnet]{more}").replace(
            "options = { image_size = 8, width = 4 }", ""
        )
        return next(cell.spec.backbone for cell in planned(write_tiny(tmp_path, text)) if cell.kind == "network")

    assert (backbone().mean, backbone().std) == (None, None)
    assert (backbone("\nstd = 0.5").mean, backbone("\nmean = 0.5").std) == (0.0, 1.0)


@pytest.mark.parametrize("checkpoint", ["/dev/zero", "gone.safetensors", "."])
def test_a_checkpoint_that_is_no_file_is_refused_in_its_line(checkpoint, tmp_path):
    text = TINY.replace("[backbones.mnist-cnn]", f'[backbones.mnist-cnn]\ncheckpoint = "{checkpoint}"')
    with pytest.raises(StudyError, match=r"tiny\.toml:9: backbones\.mnist-cnn\.checkpoint: there is no file"):
        planned(write_tiny(tmp_path, text))


def test_the_estimate_of_feedback_learning_counts_its_searches(digits, tmp_path):
    options = {"rounds": 2, "nb_directions": 20, "nb_nearest": 5, "samples_per_class": [2, 4, 6]}
    given = ", ".join(f"{name} = {value}" for name, value in options.items())
    defense = (
        f'[defenses.none]\ntrainer = "feedback"\noptions = {{ {given} }}\nfit = {{ nb_epochs = 2 }}\n\n[defenses.tuned]'
    )
    text = re.sub(r"\[defenses\.none\].*\[defenses\.tuned\]", defense, TINY, flags=re.DOTALL)
    cell = next(cell for cell in planned(write_tiny(tmp_path, text)) if cell.label.startswith("network float · none"))
    classifier = untrained(cell.spec)
    rows = [0, 0]

    def count(module, inputs, output):
        rows[output.requires_grad] += len(output)

    hook = classifier.network.register_forward_hook(count)
    trainer = qadv.FeedbackTrainer(classifier, seed=0, verbose=False, **options)
    trainer.fit(digits.x_train[:200], digits.y_train[:200], nb_epochs=2, batch_size=32)
    hook.remove()
    assert rows[0] > 5 * 400  # the searches ask far more than the training
    assert 0.4 < _training(cell.spec) / (0.4 * rows[0] + rows[1]) < 2.5


def test_what_starts_from_a_defended_network_is_made_without_its_preprocessors(tmp_path):
    """They change no weight, so that what starts from it equals what starts from where it did."""
    text = (
        TINY.partition("[attacks.fgsm]")[0]
        + """
[defenses.squeezed]
start = "none"
preprocessors = [{ name = "mu-law-companding", options = { mu = 255.0 } }]

[defenses.from-squeezed]
start = "squeezed"
trainer = "dq"
options = { lr = 0.01 }
fit = { nb_epochs = 1, batch_size = 32 }
"""
    )
    made = planned(write_tiny(tmp_path, text))
    networks = [cell for cell in made if cell.kind == "network" and cell.place["quantizer"] == "w4a4"]
    cells = {cell.place["defense"]: cell for cell in networks}
    by_key, done, given = {cell.key: cell for cell in made}, {}, Given(None, tmp_path)
    for name in ("tuned", "from-squeezed"):
        for cell in needed_first(cells[name], by_key):
            done[cell.key] = compute(cell.spec, done, given)
    start = done[cells["from-squeezed"].spec.start]
    assert load_network(start).preprocessing_defences
    one, two = (load_network(done[cells[name].key]) for name in ("tuned", "from-squeezed"))
    assert two.preprocessing_defences is None
    for name, value in one.model.state_dict().items():
        np.testing.assert_array_equal(two.model.state_dict()[name], value, name)
