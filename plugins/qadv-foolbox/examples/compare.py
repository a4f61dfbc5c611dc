"""Foolbox through this plugin, against Foolbox itself on the same module and on a stock Brevitas network.

    python examples/compare.py --data-dir DATA [--nb-samples 16] [--rounds 5] [--attack NAME]

DATA holds CIFAR-10 as .npz files and resnet20-cifar10.safetensors. The plugin's network is a 4-bit ResNet-20 (int:4
weights, relu6:4 activations, calibrated on 256 training images); "Foolbox" attacks the same one, as
`as_foolbox` gives it; "on Brevitas" is the same float network with Brevitas's own 4-bit quantizers. The three take
turns in each round, on one thread, with the round's number as seed; processor time, medians of the ratios in a round.
"""

import argparse
import copy
import statistics
import time
from functools import partial
from pathlib import Path

import brevitas.nn as qnn
import foolbox
import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from brevitas.core.scaling import ScalingImplType
from brevitas.quant import Int8WeightPerChannelFloat, Uint8ActPerTensorFloatMaxInit
from qadv_foolbox import DDNAttack, L2CarliniWagnerAttack, L2DeepFoolAttack, LinfPGD, as_foolbox
from torch import nn

import qadv

MEAN_STD = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
EPS = 4 / 255
CASES = {
    "PGD-20": (LinfPGD, {"eps": EPS, "abs_stepsize": EPS / 4, "steps": 20}),
    "C&W-50": (L2CarliniWagnerAttack, {"binary_search_steps": 1, "steps": 50, "initial_const": 1.0}),
    "DDN-50": (DDNAttack, {"steps": 50}),
    "DeepFool-20": (L2DeepFoolAttack, {"steps": 20}),
}


class StockActivation(Uint8ActPerTensorFloatMaxInit):
    scaling_impl_type = ScalingImplType.CONST
    max_val = 6.0
    bit_width = 4


def stock_brevitas(model):
    """Returns a network with Brevitas's own layers and quantizers in place of all but its first and last layer."""
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d) and name not in (layers[0], layers[-1]):
            new = qnn.QuantConv2d(
                module.in_channels,
                module.out_channels,
                module.kernel_size,
                stride=module.stride,
                padding=module.padding,
                bias=module.bias is not None,
                weight_quant=Int8WeightPerChannelFloat,
                weight_bit_width=4,
            )
            new.load_state_dict(module.state_dict(), strict=False)
        elif isinstance(module, nn.ReLU):
            new = qnn.QuantReLU(act_quant=StockActivation)
        else:
            continue
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, new)
    return model.eval()


class Standardised(nn.Module):
    """What Foolbox attacks: images in [0, 1] in."""

    def __init__(self, network, mean, std):
        super().__init__()
        self.network, self.mean, self.std = network, mean, std

    def forward(self, x):
        return self.network((x - self.mean) / self.std)


def by_plugin(made, options, classifier, seed, x, y):
    return made(classifier, seed=seed, batch_size=len(x), verbose=False, **options).generate(x, y)


def by_foolbox(made, options, model, seed, x, y):
    words = np.random.SeedSequence([seed, 0]).generate_state(3)  # as the plugin seeds its first batch
    np.random.seed(int(words[0]))
    torch.manual_seed(int(words[2]))
    attack = made.theirs(**{name: value for name, value in options.items() if name != "eps"})
    return attack(model, torch.from_numpy(x), torch.from_numpy(y), epsilons=options.get("eps"))[1].numpy()


def score(predict, x, found, y):
    """Returns the success rate, and the mean L2 distance of the successes."""
    broken = predict(found).argmax(1) != y
    distance = np.linalg.norm((found - x).reshape(len(x), -1), axis=1)[broken]
    return f"{broken.mean():.0%} {distance.mean():.3f}" if broken.any() else "0%"


def main():
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--data-dir", type=Path, required=True)
    arguments.add_argument("--nb-samples", type=int, default=16)
    arguments.add_argument("--attack", choices=CASES, help="only this one")
    arguments.add_argument("--rounds", type=int, default=5)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    data = qadv.create("dataset", "cifar10", data_dir=given.data_dir)
    make = partial(
        qadv.QuantizedClassifier.from_backbone,
        "resnet20",
        checkpoint_path=given.data_dir / "resnet20-cifar10.safetensors",
        preprocessing=MEAN_STD,
        device_type="cpu",
    )
    ours = make("int:4", "relu6:4", calibration=data.x_train[:256])
    network = stock_brevitas(copy.deepcopy(make("float", "float").model))
    shape = {"input_shape": (3, 32, 32), "nb_classes": 10, "clip_values": (0.0, 1.0), "device_type": "cpu"}
    stock = PyTorchClassifier(network, nn.CrossEntropyLoss(), preprocessing=MEAN_STD, **shape)
    mean, std = (torch.tensor(each).reshape(3, 1, 1) for each in MEAN_STD)
    plain = foolbox.PyTorchModel(Standardised(network, mean, std).eval(), bounds=(0, 1), device="cpu")
    images, labels = data.x_test[:200], data.y_test[:200]
    right = (ours.predict(images).argmax(1) == labels) & (stock.predict(images).argmax(1) == labels)
    x, y = images[right][: given.nb_samples], labels[right][: given.nb_samples]
    print(f"{len(x)} images, seeds 0 to {given.rounds - 1}; success and mean L2 of the last round")
    print("| attack | plugin, s | plugin / Foolbox | plugin / on Brevitas | same images | plugin | on Brevitas |")
    print("|---|---|---|---|---|---|---|")
    for name, (made, options) in CASES.items():
        if given.attack not in (None, name):
            continue
        contestants = {
            "plugin": partial(by_plugin, made, options, ours),
            "Foolbox": partial(by_foolbox, made, options, as_foolbox(ours)),
            "on Brevitas": partial(by_foolbox, made, options, plain),
        }
        times = {each: [] for each in contestants}
        found, same = {}, True
        for seed in range(given.rounds):
            for each, run in contestants.items():
                started = time.process_time()
                found[each] = run(seed, x, y)
                times[each].append(time.process_time() - started)
            same &= bool((found["plugin"] == found["Foolbox"]).all())
        ratios = [
            statistics.median(a / b for a, b in zip(times["plugin"], times[each], strict=True))
            for each in ("Foolbox", "on Brevitas")
        ]
        scores = score(ours.predict, x, found["plugin"], y), score(stock.predict, x, found["on Brevitas"], y)
        row = [f"{statistics.median(times['plugin']):.2f}", *(f"{each:.2f}" for each in ratios), same, *scores]
        print("|", " | ".join(map(str, [name, *row])), "|", flush=True)


if __name__ == "__main__":
    main()
