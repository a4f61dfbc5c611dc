"""Attacked images beside the clean ones."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays

from qadv.benchmark.attack_cells import IMAGES
from qadv.benchmark.report.content import Example, Gallery, Note, Section
from qadv.benchmark.report.embedding import embedded_image
from qadv.benchmark.report.results import Network, StudyResults
from qadv.benchmark.report.worst_case import ball_of
from qadv.benchmark.store import Store
from qadv.errors import QadvError

_EXAMPLES, _NETWORKS = 4, 12


def example_section(results: StudyResults, store: Store) -> Section | None:
    """Returns the first attacked images of each network under one attack; `None` where there are none to show.

    The attack is the first one within a ball that is made on the network itself, else the first one.
    """
    own = [name for name, attack in results.study.attacks.items() if attack.source is None]
    bounded = [name for name in own if ball_of(results, name) is not None]
    for name in [*bounded[1:2], *bounded[:1], *own]:  # the first is often one step: the second shows more
        found = [gallery for n in results.networks[:_NETWORKS] for gallery in _gallery(results, store, n, name)]
        if found:
            note = (
                "The difference is magnified: grey is no change, black and white are the largest change of the image."
            )
            return Section("Example images", (Note(f"The first images under {name}. {note}"), *found))
    return None


def _gallery(results: StudyResults, store: Store, network: Network, name: str) -> Iterator[Gallery]:
    for cell in results.attacked(network, name)[:1]:
        if not cell.there:
            return
        try:
            arrays = load_arrays(store.read(cell.key).files[IMAGES])
            images, clean = arrays["images"], arrays.get("clean", np.empty(0))
        except (QadvError, SafetensorError, KeyError):
            return
        if images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) != len(cell.record["right"]):
            return
        answers = _answers(cell.record)
        examples = [
            _example(images[index], clean[index] if index < len(clean) else None, *answers[index])
            for index in range(min(_EXAMPLES, len(images)))
        ]
        yield Gallery(results.seed_label(cell.axes, cell.place["seed"]), tuple(examples))


def _answers(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns a caption and a tone for each image."""
    names = record.get("class_names")
    found = []
    for index, right in enumerate(record["right"]):
        was_right = record["clean_right"][index]
        end, tone = ("broken", "bad") if was_right else ("wrong without an attack", "muted")
        if right:
            end, tone = "withstood", "good"
        if "classes" in record:
            shown = (record[key][index] for key in ("labels", "clean_classes", "classes"))
            true, before, after = (names[each] if names else each for each in shown)
            end = f"true {true}; predicted {before}, attacked {after}: {end}"
        found.append((end, tone))
    return found


def _example(image: Any, clean: Any, caption: str, tone: str) -> Example:
    pictures = {"attacked": image}
    if clean is not None:
        largest = float(np.abs(image - clean).max()) or 1.0
        magnified = 0.5 + (image - clean) / (2 * largest)
        pictures = {"clean": clean, "attacked": image, f"difference × {0.5 / largest:.2g}": magnified}
    return Example({label: embedded_image(picture) for label, picture in pictures.items()}, caption, tone)
