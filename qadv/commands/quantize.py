"""What `qadv quantize` does and prints."""

import sys

import numpy as np
from tqdm.auto import tqdm

from qadv.command_options import QuantizeOptions
from qadv.commands.given import accuracy, check_out, is_shown, keep_classes, network_and_data, tell
from qadv.frontends.summary import summarize
from qadv.quantization.calibration import Calibration
from qadv.transformers.post_training_quantization import PostTrainingQuantization
from qadv.units import to_range


def run_quantize(options: QuantizeOptions) -> None:
    """Quantizes a classifier, prints what became of each layer, and its accuracy before and after."""
    check_out(options.out, options.model)
    classifier, data = network_and_data(options)
    keep_classes(classifier, data)
    schemes, quantized, calibration = (options.weights, options.activations), classifier, None
    if schemes != ("float", "float"):
        if options.calibrate:
            shown = is_shown(options)
            samples = data.samples("train", options.calibrate, options.seed)
            read = tqdm(samples, desc="images to calibrate with", unit="image", disable=not shown)
            images = to_range(np.stack([image.numpy() for image, _ in read]), classifier.clip_values)
            calibration = Calibration(images, verbose=shown)
        quantized = PostTrainingQuantization(classifier, *schemes, not options.all_layers, calibration)()
    pair = {"before": classifier, "after": quantized}
    figures = {when: accuracy(each, data, options, when) for when, each in pair.items()}
    quantized.save(options.out)
    summary = summarize(quantized)
    report = {"out": str(options.out), "accuracy": figures, **summary.to_dict()}
    before, after = (f"{100 * figure:.2f} %" for figure in figures.values())
    nb_test = min(options.nb_test, len(data.labels("test")))
    said = f"Accuracy on {nb_test:,} test images: {before} before, {after} after. Wrote {options.out}"
    tell(options, report, summary.table() if sys.stdout.isatty() else str(summary), said)
