"""What `qadv attack` does and prints."""

import csv
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qadv.attacks.families import family_of, refusal
from qadv.benchmark.made_attacks import made_attack
from qadv.benchmark.names import check_options
from qadv.command_options import AttackOptions
from qadv.commands.given import is_shown, network_and_data, one_class, tell, test_images
from qadv.errors import InvalidInputError, QadvError, StorageError
from qadv.evaluation import Outcome, attack_classifier
from qadv.files import write_atomically
from qadv.modes import class_names
from qadv.named_options import options_of
from qadv.random_states import seeded
from qadv.registry import load
from qadv.tables import number, percent, text_table
from qadv.units import limits


def run_attack(options: AttackOptions) -> None:
    """Attacks a classifier, prints what the attack found, and writes the images."""
    settings = options_of(options.settings or ())
    if (family := family_of(load("attack", options.attack))) != "evasion":
        raise InvalidInputError(
            f"{refusal(options.attack, family)}, in a study or from Python; see docs/attacks/families.md"
        )
    check_options("attack", options.attack, settings)
    if options.out is not None:
        try:
            options.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"can't write in {options.out}: {error.strerror or error}") from error
    classifier, data = network_and_data(options)
    x, y = test_images(classifier, data, options.nb_test)
    attack = made_attack(options.attack, settings, classifier, verbose=is_shown(options))
    try:
        with seeded(options.seed):
            result, adversarial = attack_classifier(options.attack, attack, classifier, x, y)
    except QadvError:
        raise
    except (TypeError, ValueError, NotImplementedError) as error:  # of ART's attacks
        raise InvalidInputError(f"attack {options.attack}, {len(x)} images: {error}") from error
    report: dict[str, Any] = result.to_dict()
    if options.out is not None:
        report["as_png"] = write_images(
            options.out, classifier, x, y, adversarial, class_names(classifier.model) or data.classes
        )
    shown = {
        "accuracy": percent(result.clean_accuracy),
        "under attack": percent(result.adversarial_accuracy),
        **({"of the PNG files": percent(report["as_png"])} if "as_png" in report else {}),
        "mean L2": number(result.mean_l2, 4),
        "mean L∞": number(result.mean_linf, 4),
        "seconds": f"{result.seconds:.1f}",
    }
    title = f"{options.attack}, {result.samples} images; distances are means over the successes"
    wrote = [] if options.out is None else [f"Wrote {len(x):,} images and images.csv to {options.out}"]
    notes = one_class(options.model, classifier, x, y)
    tell(options, report, text_table(title, list(shown), [list(shown.values())]), *notes, *wrote)


def write_images(
    folder: Path, classifier: Any, x: NDArray[Any], y: NDArray[np.int64], adversarial: NDArray[Any], classes: Any
) -> float:
    """Writes adversarial images as PNG files of 8 bits, and a table with a row for each, in place of an older run's.

    Returns:
        The accuracy on what was written: rounding may have undone the attack, or found more.
    """
    low, high = limits(classifier.clip_values)
    low, high = (0.0, 1.0) if classifier.clip_values is None else (low, high)
    rounded = np.clip(np.rint((adversarial - low) / (high - low) * 255), 0, 255).astype(np.uint8)
    written = (low + (high - low) * (rounded / np.float32(255))).astype(np.float32)
    clean = classifier.predict(x).argmax(1)
    outcome = Outcome.of(classifier, x, y, written, clean == y)
    rows: list[list[Any]] = [["file", "class", "clean", "adversarial", "l2", "linf"]]
    names = [*classes, "abstains"]  # the last of an ensemble that may
    for index, image in enumerate(rounded):
        name = f"{index:05}.png"
        content = io.BytesIO()
        Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(content, "PNG")
        write_atomically(folder / name, content.getvalue())
        named = [names[label] for label in (y[index], clean[index], outcome.classes[index])]
        rows.append([name, *named, f"{outcome.distance(2)[index]:.6g}", f"{outcome.distance(np.inf)[index]:.6g}"])
    for left in _written(folder) - {row[0] for row in rows}:
        (folder / left).unlink(missing_ok=True)
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    write_atomically(folder / "images.csv", text.getvalue().encode())
    return float(outcome.right.mean())


def _written(folder: Path) -> set[str]:
    """Returns the names of the images that an older run wrote, as its table has them."""
    try:
        with open(folder / "images.csv", newline="", encoding="utf-8") as file:
            return {row[0] for row in csv.reader(file) if row and re.fullmatch(r"\d{5,}\.png", row[0])}
    except (OSError, UnicodeDecodeError, csv.Error):
        return set()
