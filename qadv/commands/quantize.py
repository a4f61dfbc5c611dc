"""What `qadv quantize` does and prints."""

import json

from rich.console import Console

from qadv.command_options import QuantizeOptions
from qadv.commands.given import accuracy, network_and_data
from qadv.frontends.summary import summarize
from qadv.transformers.post_training_quantization import PostTrainingQuantization
from qadv.units import to_range


def run_quantize(options: QuantizeOptions) -> None:
    """Quantizes a classifier, prints what became of each layer, and its accuracy before and after."""
    classifier, data = network_and_data(options)
    images = None
    if options.calibrate:
        images = to_range(data.take("train", options.calibrate, options.seed)[0], classifier.clip_values)
    schemes, quantized = (options.weights, options.activations), classifier
    if schemes != ("float", "float"):
        quantized = PostTrainingQuantization(classifier, *schemes, skip_first_last=not options.all_layers)(images)
    figures = {
        "before": accuracy(classifier, data, options, "before"),
        "after": accuracy(quantized, data, options, "after"),
    }
    quantized.save(options.out)
    summary = summarize(quantized)
    if options.as_json:
        print(json.dumps({"out": str(options.out), "accuracy": figures, **summary.to_dict()}, indent=1))
        return
    console = Console(soft_wrap=True, markup=False)
    console.print(summary.table() if console.is_terminal else str(summary), highlight=False)
    before, after = (f"{100 * figure:.2f} %" for figure in figures.values())
    nb_test = min(options.nb_test, len(data.labels("test")))
    console.print(f"Accuracy on {nb_test:,} test images: {before} before, {after} after. Wrote {options.out}")
