"""How many flipped bits bring ResNet-20 on CIFAR-10 to chance, per bit width, against random flips.

Usage: python examples/flips.py --data-dir DATA --weights int:8 [--fine-tune] [--seeds 0 1 2] [--out FOLDER]

DATA holds CIFAR-10 as .npz files and resnet20-cifar10.safetensors. Networks are calibrated on 1,024 training images, as
in qadv's docs/results.md, activations `relu:8`, first and last layer's weights float; with --fine-tune one epoch of
12,800 images follows. The search batch is drawn from the training images; accuracy is on the first test images.
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


def in_file(classifier, found, data, nb_test, folder):
    """Returns the accuracy of the exported graph in onnxruntime, before, with the same flips, and undone."""
    graph, listed = folder / "net.onnx", folder / "flips.json"
    qadv.export(classifier, graph, "qcdq")
    found.save(listed, classifier)
    apply_flips(graph, listed, folder / "flipped.onnx")
    apply_flips(folder / "flipped.onnx", listed, folder / "back.onnx")
    assert (folder / "back.onnx").read_bytes() == graph.read_bytes()
    opened = (qadv.QuantizedClassifier.from_file(folder / name) for name in ("net.onnx", "flipped.onnx"))
    x, y = data.x_test[:nb_test], data.y_test[:nb_test]
    return [float((each.predict(x).argmax(1) == y).mean()) for each in opened]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--weights", default="int:8")
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
    classifier = network(data, options.weights, options.activations, checkpoint, options.fine_tune)
    x_test, y_test = data.x_test[: options.nb_test], data.y_test[: options.nb_test]
    rows = []
    for seed in options.seeds:
        batch = np.random.default_rng(seed).permutation(len(data.x_train))[: options.nb_images]
        x, y = data.x_train[np.sort(batch)], data.y_train[np.sort(batch)]
        attack = BitFlipAttack(classifier, options.max_flips, nb_layers=options.nb_layers)
        found = attack.generate(x, y, x_test, y_test)
        drawn = BitFlipAttack(classifier, options.nb_random, random=True, seed=seed).generate(x, y, x[:1], y[:1])
        random = accuracy_after(classifier, drawn.flips, x_test, y_test)
        row = {"weights": options.weights, "seed": seed, "flips": len(found.flips), "stopped": found.stopped}
        row |= {"accuracy": found.accuracy, "random": {str(len(drawn.flips)): random}}
        with tempfile.TemporaryDirectory() as folder:
            row["onnx"] = in_file(classifier, found, data, options.nb_test, Path(folder))
        row["bits"] = [each.bit for each in found.flips]
        row["layers"] = [each.layer for each in found.flips]
        rows.append(row)
        print(json.dumps(row), flush=True)
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            found.save(options.out / f"{options.weights.replace(':', '')}-{seed}.json", classifier)


if __name__ == "__main__":
    main()
