"""What `qadv train` does and prints."""

from pathlib import Path

from qadv.benchmark.names import check_options
from qadv.benchmark.network_cells import made_trainer, training_images
from qadv.command_options import TrainOptions
from qadv.commands.given import accuracy, check_out, keep_classes, network_and_data, tell
from qadv.console import Console
from qadv.errors import InvalidInputError
from qadv.estimators.fingerprint import fingerprint
from qadv.named_options import options_of
from qadv.units import to_range


def run_train(options: TrainOptions) -> None:
    """Trains a classifier and saves it; beside it stands the checkpoint, from which the run goes on."""
    settings = options_of(options.settings or ())
    check_options("trainer", options.trainer, settings)
    check_out(options.out, options.model)
    checkpoint = Path(f"{options.out}.checkpoint")
    if checkpoint.exists() and not options.resume:
        raise InvalidInputError(
            f"there is a run already, {checkpoint}: --resume goes on with it, or delete it to start anew"
        )
    classifier, data = network_and_data(options, untrained=True)
    keep_classes(classifier, data)
    given = {"checkpoint": checkpoint, "seed": options.seed, "verbose": not options.as_json}
    given["start"] = fingerprint(classifier)
    before = accuracy(classifier, data, options, "before")
    trainer = made_trainer(options.trainer, classifier, settings, **given)
    if classifier.clip_values in (None, (0.0, 1.0)):
        x, y = training_images(trainer, data, options.nb_train)
    else:
        x, y = data.take("train", options.nb_train)
        x = to_range(x, classifier.clip_values)
    try:
        trainer.fit(x, y, nb_epochs=options.epochs, batch_size=options.batch_size)
    except KeyboardInterrupt:
        Console(stderr=True, soft_wrap=True, markup=False).print(
            f"interrupted: the same command with --resume goes on from {checkpoint}"
        )
        raise
    classifier.save(options.out)
    figures = {"before": before, "after": accuracy(classifier, data, options, "after")}
    report = {"out": str(options.out), "accuracy": figures, "history": list(getattr(trainer, "history", []))}
    shown = ", ".join(f"{100 * figure:.2f} % {when}" for when, figure in figures.items())
    tell(options, report, f"Accuracy on test images: {shown}. Wrote {options.out}")
