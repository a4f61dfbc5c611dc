"""How many flipped bits bring ResNet-20 on CIFAR-10 to chance, per bit width, against random flips.

Usage: python examples/flips.py --data-dir DATA [--weights int:8 int:4 twn] [--seeds 0 1 2] [--out FOLDER]

DATA holds CIFAR-10 as .npz files and resnet20-cifar10.safetensors. Networks are calibrated on 1,024 training images, as
in qadv's docs/results.md, first and last layer's weights float; with --fine-tune one epoch of 12,800 images follows.
The search batch is drawn from the training images, and says when to stop; accuracy is on the first test images. The
same list is applied to the exported graph, which onnxruntime runs, and undone.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from qadv_weight_threats.bit_flip import BitFlipAttack, accuracy_after

import qadv
from qadv.deployment import apply_flips

MEAN_STD = (np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225]))
NB_RANGES, NB_TRAIN = 1024, 12800


def network(data, weights, activations, checkpoint, fine_tune):
    order = np.random.default_rng(0).permutation(len(data.x_train))
    calibration = qadv.Calibration(data.x_train[order[:NB_RANGES]], ranges="mse")
    classifier = qadv.QuantizedClassifier.from_backbone(
        "resnet20", weights, activations, calibration=calibration, checkpoint_path=checkpoint, preprocessing=MEAN_STD
    )
    if fine_tune:
        trainer = qadv.DefensiveQuantTrainer(classifier, beta=0.0, lr=0.01, augment="crop-flip", verbose=False)
        trainer.fit(data.x_train[order[:NB_TRAIN]], data.y_train[order[:NB_TRAIN]], nb_epochs=1)
    return classifier


def accuracy(classifier, x, y):
    return float((classifier.predict(x).argmax(1) == y).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--weights", nargs="+", default=["int:8", "int:4", "twn"])
    parser.add_argument("--activations", default="relu:8")
    parser.add_argument("--fine-tune", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--nb-images", type=int, default=128)
    parser.add_argument("--nb-test", type=int, default=1000)
    parser.add_argument("--nb-layers", type=int)
    parser.add_argument("--max-flips", type=int, default=60)
    parser.add_argument("--nb-random", type=int, default=100)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    data = qadv.create("dataset", "cifar10", data_dir=options.data_dir)
    checkpoint = options.data_dir / "resnet20-cifar10.safetensors"
    test = data.x_test[: options.nb_test], data.y_test[: options.nb_test]
    folder = options.out or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    networks = {}
    for seed in options.seeds:
        batch = np.sort(np.random.default_rng(seed).permutation(len(data.x_train))[: options.nb_images])
        x, y = data.x_train[batch], data.y_train[batch]
        for weights in options.weights:
            name = weights.replace(":", "")
            graph, listed, flipped = (folder / f"{name}{end}" for end in (".onnx", f"-{seed}.json", "-flipped.onnx"))
            if weights not in networks:
                networks[weights] = network(data, weights, options.activations, checkpoint, options.fine_tune)
                qadv.export(networks[weights], graph, "qcdq")
                print(weights, "without flips", accuracy(networks[weights], *test), flush=True)
            classifier = networks[weights]
            found = BitFlipAttack(classifier, options.max_flips, nb_layers=options.nb_layers).generate(x, y)
            drawn = BitFlipAttack(classifier, options.nb_random, random=True, seed=seed).generate(x[:1], y[:1])
            row = {"weights": weights, "seed": seed, "flips": len(found.flips), "stopped": found.stopped}
            row["accuracy on the batch"] = found.accuracy
            row["accuracy"] = accuracy_after(classifier, found.flips, *test)
            row[f"after {len(drawn.flips)} random flips"] = accuracy_after(classifier, drawn.flips, *test)
            found.save(listed, classifier)
            apply_flips(graph, listed, flipped)
            row["in onnxruntime"] = accuracy(qadv.QuantizedClassifier.from_file(flipped), *test)
            apply_flips(flipped, listed, flipped)
            row["undone to the byte"] = flipped.read_bytes() == graph.read_bytes()
            row["bits"] = [f"{each.layer} {each.bit}" for each in found.flips]
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
