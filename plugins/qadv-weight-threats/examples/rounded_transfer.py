"""Makes adversarial images for a fleet of one network at several precisions, and counts on which they hold.

    python rounded_transfer.py FLOAT.safetensors 8BIT.safetensors 4BIT.safetensors 2BIT.safetensors --dataset cifar10-16

Of PGD from each network, and of RoundedTransfer on all and on the first alone: how many percent of the images are
misclassified by each network, and by all of them, as 8-bit images. Images that all networks classify correctly count.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from art.attacks.evasion import ProjectedGradientDescent
from qadv_weight_threats.rounded_transfer import RoundedTransfer

import qadv


def main() -> None:
    arguments = parse()
    data = qadv.create("dataset", arguments.dataset)
    networks = {Path(path).stem: qadv.QuantizedClassifier.load(path) for path in arguments.networks}
    x, y = data.x_test[: 2 * arguments.nb_test], data.y_test[: 2 * arguments.nb_test]
    right = np.all([network.predict(x).argmax(axis=1) == y for network in networks.values()], axis=0)
    x, y = x[right][: arguments.nb_test], y[right][: arguments.nb_test]
    first, *others = networks.values()
    pgd: dict[str, Any] = {"eps": 8 / 255, "eps_step": 2 / 255, "max_iter": arguments.steps, "verbose": False}
    own: dict[str, Any] = {"max_iter": arguments.steps, "verbose": False}
    print(f"{len(x)} images, percent misclassified: {', '.join(networks)}, all")
    for seed in arguments.seeds:
        np.random.seed(seed)
        attacks = {
            f"PGD from {name}": ProjectedGradientDescent(network, num_random_init=1, **pgd)
            for name, network in networks.items()
        }
        attacks["RoundedTransfer on all"] = RoundedTransfer(first, others=others, seed=seed, **own)
        attacks["RoundedTransfer on first"] = RoundedTransfer(first, seed=seed, **own)
        for name, attack in attacks.items():
            found = in_8_bits(attack.generate(x, y), x)
            broken = np.array([network.predict(found).argmax(axis=1) != y for network in networks.values()])
            shares = 100 * np.append(broken.mean(axis=1), broken.all(axis=0).mean())
            print(f"seed {seed}, {name}: {' '.join(f'{share:.1f}' for share in shares)}", flush=True)


def in_8_bits(found: Any, x: Any) -> Any:
    """Returns the nearest 8-bit images in the ball of 8/255, which holds some for each pixel."""
    return (np.clip(np.round(255 * found), np.ceil(255 * x - 8 - 1e-3), np.floor(255 * x + 8 + 1e-3)) / 255).astype(
        "f4"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--dataset", default="cifar10-16")
    parser.add_argument("--nb-test", type=int, default=500)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    return parser.parse_args()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
