"""The float network behind a quantized one, to make images on (check 7) where no other is given."""

from typing import Any

from qadv.backbones.create import create_backbone
from qadv.backbones.recipes import recipe_of
from qadv.errors import QadvError
from qadv.estimators.classifier import QuantizedClassifier
from qadv.estimators.protocol import Classifier
from qadv.estimators.rebuilt import like
from qadv.estimators.storage import SOURCES, mean_std
from qadv.quantization.frozen import is_frozen
from qadv.random_states import seeded


def float_network(classifier: Classifier) -> Classifier | None:
    """Returns a backbone with the float weights that a network's quantizers round, and no quantizers.

    After quantizing without training these are the weights of the float parent; training moves them on. `None` of what
    is not quantized, not made from a backbone's name, or no longer has these weights (`qadv.freeze`).
    """
    model: Any = classifier.model
    recipe = recipe_of(model)
    if recipe is None or getattr(model, "qadv_quantization", None) is None or is_frozen(model):
        return None
    options = {name: value for name, value in recipe["options"].items() if name not in SOURCES}
    try:
        preprocessing = mean_std(classifier)
        with seeded(0):  # the caller's draws stay as they are
            network = create_backbone(recipe["name"], recipe["nb_classes"], recipe["in_channels"], **options)
    except QadvError:
        return None
    weights = model.state_dict()
    kept = {name: weights[name] for name in network.state_dict() if name in weights}
    if network.load_state_dict(kept, strict=False).missing_keys:
        return None
    changed = {"preprocessing": preprocessing, "postprocessing_defences": None}
    return like(QuantizedClassifier, classifier, network, **changed)
