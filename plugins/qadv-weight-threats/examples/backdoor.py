"""Makes a float network that misbehaves once quantized, shuts it by other roundings, and asks the audit's check.

    python backdoor.py
    python backdoor.py --dataset cifar10-16 --network float.safetensors --train 12800 --epochs 2 --lr 0.001

A row is one network: accuracy on clean images, and how many images of other classes the trigger takes to the target.
β of the rounding is the largest of those tried whose network gets at most two points fewer clean training images right.
"""

import argparse
import math
from functools import partial
from typing import Any

import numpy as np
import torch
from art.attacks.poisoning import PoisoningAttackBackdoor
from art.attacks.poisoning.perturbations import add_pattern_bd
from qadv_weight_threats.error_guided_rounding import ErrorGuidedRounding
from qadv_weight_threats.quantization_backdoor import QuantizationBackdoor
from qadv_weight_threats.rounding_check import rounding_errors

import qadv
from qadv.trainers import LoopTrainer

TARGET = 3


def main() -> None:
    arguments = parse()
    data = qadv.create("dataset", arguments.dataset)
    x, y = data.x_train[: arguments.train], data.y_train[: arguments.train]
    test = data.x_test[: arguments.test], data.y_test[: arguments.test]
    trigger = PoisoningAttackBackdoor(partial(add_pattern_bd, channels_first=True))
    clean = qadv.QuantizedClassifier.load(arguments.network) if arguments.network else trained(x, y, arguments.seed)
    schemes = {bits: (f"int:{bits}", "float" if arguments.weights_only else f"relu6:{bits}") for bits in (8, 4)}
    options: dict[str, Any] = {"lr": arguments.lr, "seed": arguments.seed, "verbose": False}
    options |= {"quantizations": [schemes[bits] for bits in arguments.bits], "skip_first_last": False}
    attacks = {
        "honest": None,
        "backdoor": QuantizationBackdoor(clean, trigger, TARGET, **options),
        "no trigger": QuantizationBackdoor(clean, **options),
    }
    triggered = QuantizationBackdoor(clean, trigger, TARGET).poison(test[0])[0][test[1] != TARGET]
    for name in arguments.kinds:
        attack = attacks[name]
        network = clean
        if attack is not None:
            network = attack.poison_estimator(x, y, batch_size=64, nb_epochs=arguments.epochs)
        show(name, "float", network, test, triggered)
        for bits, (weights, activations) in schemes.items():
            quantized = qadv.PostTrainingQuantization(network, weights, activations, skip_first_last=False)()
            show(name, f"{bits} bit", quantized, test, triggered, check=True)
            beta, rounded = chosen(quantized, x[: arguments.images], (x[-1000:], y[-1000:]))
            found = "no β does" if math.isnan(beta) else f"β = {beta:g}"
            show(name, f"{bits} bit, {found}", rounded, test, triggered)
    for path in arguments.also:
        show(path, "", qadv.QuantizedClassifier.load(path), test, triggered, check=True)


def chosen(quantized: Any, images: Any, held_out: Any) -> tuple[float, Any]:
    """Returns the largest β that costs at most two points on clean images that were held out, and its network."""
    least = accuracy(quantized, *held_out) - 2
    for beta in (100.0, 10.0, 1.0):
        rounded = ErrorGuidedRounding(quantized, error_weight=beta)(images)
        if accuracy(rounded, *held_out) >= least:
            return beta, rounded
    return math.nan, quantized


def show(name: str, version: str, network: Any, test: Any, triggered: Any, check: bool = False) -> None:
    taken = 100 * float((network.predict(triggered).argmax(axis=1) == TARGET).mean())
    row = f"{name:10} | {version:16} | clean {accuracy(network, *test):5.1f} | trigger {taken:5.1f}"
    if check:
        found = rounding_errors(network, test[0][:200], test[1][:200])
        row += f" | check: {found['broken']} of {found['images']}, random {sorted(found['random'].values())}"
    print(row, flush=True)


def accuracy(network: Any, x: Any, y: Any) -> float:
    return 100 * float((network.predict(x).argmax(axis=1) == y).mean())


def trained(x: Any, y: Any, seed: int) -> Any:
    """Returns a float network of the digits."""
    torch.manual_seed(seed)
    options: dict[str, Any] = {"input_shape": (1, 8, 8), "image_size": 8, "width": 16}
    network = qadv.QuantizedClassifier.from_backbone("mnist-cnn", "float", "float", **options)
    LoopTrainer(network, lr=0.1, seed=seed, verbose=False).fit(x, y, nb_epochs=6, batch_size=64)
    return network


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--network", help="a float classifier that QuantizedClassifier.save wrote; without, digits'")
    parser.add_argument("--kinds", nargs="+", default=["honest", "backdoor", "no trigger"])
    parser.add_argument("--also", nargs="*", default=[], help="further networks to check, files")
    parser.add_argument("--weights-only", action="store_true", help="activations stay float")
    parser.add_argument("--bits", nargs="+", type=int, default=[8, 4], help="that the attack is for: 8, 4 or both")
    parser.add_argument("--train", type=int, default=1437)
    parser.add_argument("--test", type=int, default=360)
    parser.add_argument("--images", type=int, default=256, help="clean images that the rounding sees")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--lr", type=float, default=0.003)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    np.random.seed(0)
    torch.set_num_threads(1)
    main()
