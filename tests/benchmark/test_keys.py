"""Keys of cells stay what they are: a results' folder of today is found again by the qadv of tomorrow."""

import pytest

from qadv.benchmark import plan as plan_module
from qadv.benchmark.cells import digest
from qadv.benchmark.given import read_dataset
from qadv.benchmark.plan import plan
from qadv.benchmark.study_file import read_study

STUDY = """
title = "all that a study can say"
datasets = ["digits"]
seeds = [0, 4294967295]
nb_train = 200
nb_test = 24

[backbones.small]
backbone = "mnist-cnn"
options = { image_size = 8, width = 4 }
checkpoint = "weights.safetensors"
mean = [0.5]
std = 0.25
[backbones.test_resnet]

[quantizers.float]
[quantizers.w4a4]
weights = "int:4"
activations = "relu6:4"
calibration = 32
[quantizers.layers]
weights = { "*" = "sq(bwn)" }
skip_first_last = false
after_training = true

[defenses.none]
trainer = "dq"
options = { beta = 0.0, lr = "1/20", adversary = { attack = "pgd", eps = "8/255" }, lr_schedule = { 2 = 0.5 } }
fit = { nb_epochs = 4, batch_size = 16, nb_train = 100 }
optimizer = { name = "Adam", options = { lr = 0.001 } }
[defenses.tuned]
start = { defense = "none", quantizer = "w4a4" }
start_seed = 7
transformers = ["mu-law", { name = "ptq", options = { weights = "int:4" }, calibration = 16 }]
preprocessors = [{ name = "bit-depth", options = { bit_depth = 3 } }]
[defenses.both]
members = ["float", "w4a4"]
of = "none"
ensemble = { combine = "votes" }

[attacks.fgsm]
attack = "FastGradientMethod"
options = { eps = "2/10" }
source = "each"
[attacks.DeepFool]
nb_test = 8
max_l2 = "1/2"
probabilities = true
[attacks.moved]
attack = "spsa"
source = { quantizer = "float" }
coalesce = true
itself = true

[measures.error-amplification]
attack = "fgsm"
[measures.curve]
diagnostic = "accuracy-curve"
options = { eps = [0.1, 0.2] }
attack = "fgsm"
nb_test = 4
[measures.agreement]
diagnostic = "weight-error"
[measures.gradient-similarity]
attack = "DeepFool"
attacked = true
[measures.transfer-matrix]
attacks = ["fgsm", "moved"]
[measures.audit]

[[grid]]
backbones = ["small"]
[[grid]]
backbones = ["test_resnet"]
quantizers = ["float"]
defenses = ["none"]
"""
KEYS = {
    "network": (20, "6f587d9d9a0e0aa49a823bd623aaf701"),
    "clean": (20, "34f333a1cbf56c3374bf0222e8ad243b"),
    "attack": (48, "529e7df28f4fd67dad939e0ad9c81a0c"),
    "transfer": (192, "e393665b82d412d7827c977495614f86"),
    "measure": (84, "bc1914f28e34435540b9c57e9432e5ac"),
}


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    (folder / "study.toml").write_text(STUDY)
    (folder / "weights.safetensors").write_bytes(b"weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_module, "versions", lambda: {"qadv": "0"})
        return plan(read_study(folder / "study.toml"), {"digits": read_dataset("digits", None)[0]}, folder)


@pytest.mark.parametrize("kind", ["network", "clean", "attack", "transfer", "measure"])
def test_the_same_study_has_the_same_keys(kind, cells):
    """One hash over the keys of each kind; whoever changes one on purpose says so in the changelog."""
    found = {cell.label: cell.key for cell in cells if cell.kind == kind}
    assert (len(found), digest(found)) == KEYS[kind]
