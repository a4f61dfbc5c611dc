"""Networks of timm's own classes are made again by name, if what is made is the same network."""

import pytest
import timm
import torch
from torch import nn

import qadv
from qadv.backbones.recipes import recipe_of


@pytest.mark.parametrize(
    ("name", "options", "made_with"),
    [
        ("mobilenetv2_035", {"num_classes": 4, "drop_rate": 0.2, "drop_path_rate": 0.1}, {}),
        ("resnet10t", {"num_classes": 3, "in_chans": 1}, {}),
        ("vit_tiny_patch16_224", {"num_classes": 5, "img_size": 32, "depth": 12}, {"img_size": [32, 32]}),
    ],
)
def test_what_timm_made_has_a_recipe(name, options, made_with):
    recipe = recipe_of(timm.create_model(name, **options))
    channels = options.get("in_chans", 3)
    expected = {"nb_classes": options["num_classes"], "in_channels": channels, "options": made_with}
    assert recipe == {"name": f"timm/{name}", **expected}


def changed_epsilon(network):
    network.bn1.eps = 0.1


def changed_forward(network):
    network.forward = lambda x: x


def changed_head(network):
    network.fc = nn.Linear(network.num_features, 7)


def changed_layer(network):
    network.act1 = nn.SiLU()


@pytest.mark.parametrize("change", [changed_epsilon, changed_forward, changed_head, changed_layer])
def test_what_was_changed_since_has_none(change):
    network = timm.create_model("resnet10t", num_classes=3)
    change(network)
    assert recipe_of(network) is None


def test_a_network_of_anothers_class_has_none():
    class Mine(type(timm.create_model("resnet10t"))):
        def forward(self, x):
            return super().forward(x) * 2

    network = timm.create_model("resnet10t")
    network.__class__ = Mine
    assert recipe_of(network) is None


def test_what_is_saved_is_loaded_by_name(tmp_path):
    network = timm.create_model("resnet10t", num_classes=3).eval()
    floating = qadv.open_classifier(network, input_shape=(3, 32, 32))
    assert not hasattr(network, "qadv_backbone"), "the user's module stays as it is"
    x = torch.rand(2, 3, 32, 32).numpy()
    quantized = qadv.PostTrainingQuantization(floating, "int:4", "relu6:4")(x)
    quantized.save(tmp_path / "net.safetensors")
    loaded = qadv.open_classifier(tmp_path / "net.safetensors")
    assert (loaded.predict(x) == quantized.predict(x)).all()
    for classifier in (floating, loaded):
        assert repr(classifier).startswith("QuantizedClassifier.from_backbone('timm/resnet10t'")
