"""One network as simulation, ONNX file and LiteRT file: accuracy, agreement, PGD on each, asked of all.

python side_by_side.py --data-dir DATA [--network float.safetensors] [--nb-samples 10000]
"""

import argparse
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from art.attacks.evasion import ProjectedGradientDescent

import qadv

NB_ATTACKED, EPS = 100, 2 / 255
ENDS = {"onnx": ".onnx", "litert": ".tflite"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="with cifar10 and resnet20-cifar10.safetensors")
    parser.add_argument("--network", type=Path, help="a float network that qadv saved, in place of the ResNet-20 there")
    parser.add_argument("--nb-samples", type=int, default=10000)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    data = qadv.create("dataset", "cifar10", data_dir=options.data_dir)
    x, y, some = data.x_test[: options.nb_samples], data.y_test[: options.nb_samples], data.x_train[:256]
    print("| bits | asked | accuracy | class of the simulation | twin: to the bit | twin: same class | after PGD |")
    print("|---|---|---|---|---|---|---|")
    for bits, activations in ((8, "relu6:8"), (4, "relu:4")):
        if options.network is not None:
            start = qadv.QuantizedClassifier.load(options.network)
            simulation = qadv.PostTrainingQuantization(start, f"int:{bits}", activations)(some)
        else:
            simulation = qadv.QuantizedClassifier.from_backbone(
                "resnet20", f"int:{bits}", activations, input_shape=(3, 32, 32), calibration=some,
                checkpoint_path=options.data_dir / "resnet20-cifar10.safetensors",
                preprocessing=((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            )  # fmt: skip
        classifiers = {"simulation": simulation}
        with TemporaryDirectory() as folder:
            for to, end in ENDS.items():
                path = Path(folder, f"net{end}")
                qadv.export(simulation, path, to=to, images=some)
                classifiers[to] = qadv.QuantizedClassifier.from_file(path)
        expected = simulation.predict(x).argmax(1)
        for name, classifier in classifiers.items():
            logits = classifier.predict(x)
            accuracy, same = (logits.argmax(1) == y).mean(), (logits.argmax(1) == expected).mean()
            row = [bits, name, f"{accuracy:.2%}", f"{same:.2%}", "–", "–"]
            if name in ENDS:
                twin = qadv.QuantizedClassifier(classifier.network.twin, simulation.loss, (3, 32, 32), 10)
                found = twin.predict(x[:1000])
                row[4] = f"{(found == logits[:1000]).all(1).mean():.1%}"
                row[5] = f"{(found.argmax(1) == logits[:1000].argmax(1)).mean():.1%}"
            attack = ProjectedGradientDescent(classifier, eps=EPS, eps_step=EPS / 4, max_iter=10, verbose=False)
            images, labels = x[:NB_ATTACKED], y[:NB_ATTACKED]
            adversarial = attack.generate(images, labels)
            after = (np.mean(each.predict(adversarial).argmax(1) == labels) for each in classifiers.values())
            print("|", " | ".join(map(str, row)), "|", " / ".join(f"{share:.0%}" for share in after), "|", flush=True)


if __name__ == "__main__":
    main()
