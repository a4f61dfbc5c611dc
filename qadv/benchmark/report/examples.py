"""Attacked images beside the clean ones."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays

from qadv.benchmark.attack_cells import IMAGES
from qadv.benchmark.report.content import Example, Gallery, Note, Section
from qadv.benchmark.report.embedding import embedded_image
from qadv.benchmark.report.readable import readable_names
from qadv.benchmark.report.results import Network, StudyResults
from qadv.benchmark.report.worst_case import ball_of
from qadv.benchmark.store import Store
from qadv.errors import QadvError

_EXAMPLES, _NETWORKS = 4, 12
MAGNIFIED = 10


def example_section(results: StudyResults, store: Store) -> Section | None:
    """Returns the first attacked images of each network under one attack; `None` where there are none to show.

    The attack is the first one within a ball that is made on the network itself, else the first one.
    """
    own = [name for name, attack in results.study.attacks.items() if attack.source is None]
    bounded = [name for name in own if ball_of(results, name) is not None]
    for name in [*bounded[1:2], *bounded[:1], *own]:  # the first is often one step: the second shows more
        found = [gallery for n in results.networks[:_NETWORKS] for gallery in _gallery(results, store, n, name)]
        if found:
            note = f"The difference is magnified {MAGNIFIED} times; grey is no change."
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
        examples = [
            _of_record(images[index], clean[index] if index < len(clean) else None, cell.record, index)
            for index in range(min(_EXAMPLES, len(images)))
        ]
        yield Gallery(readable_names(results)[network.axes], tuple(examples))


def _of_record(image: Any, clean: Any, record: Mapping[str, Any], index: int) -> Example:
    end, tone = ("broken", "bad") if record["clean_right"][index] else ("wrong without an attack", "muted")
    if record["right"][index]:
        end, tone = "withstood", "good"
    if "classes" not in record:
        return Example(_pictures(image, clean), end, tone)
    sure = record.get("sure", ())
    sure = sure[index] if index < len(sure) else (None, None)
    answers = [(int(record[key][index]), p) for key, p in zip(("clean_classes", "classes"), sure, strict=True)]
    return example(image, clean, int(record["labels"][index]), answers, record.get("class_names"), end, tone)


def example(
    image: Any,
    clean: Any,
    label: int,
    answers: Sequence[tuple[int, float | None]],
    class_names: Sequence[str] | None,
    end: str,
    tone: str,
) -> Example:
    """Returns an attacked image, (C, H, W) in [0, 1], beside the clean one, with what the network says.

    Of an image that no attack broke, `None`, it is the clean one; there may be no clean one, too.

    Args:
        label: true class.
        answers: class, and its probability if it is known, of the clean and of the attacked image.
        class_names: names of the classes, or `None` for their numbers.
        end: what became of it.
    """
    # the last class of an ensemble that may abstain has no name of its own
    called = [*(class_names or map(str, range(1 + max(label, *(each for each, _ in answers))))), "abstains"]
    before, after = (called[each] + ("" if p is None else f" ({100 * p:.0f} %)") for each, p in answers)
    said = [f"true: {called[label]}", f"clean: {before}", *([] if image is None else [f"adversarial: {after}"]), end]
    return Example(_pictures(image, clean), "; ".join(said), tone)


def _pictures(image: Any, clean: Any) -> dict[str, str]:
    pictures = {"clean": clean, "adversarial": image}
    if image is not None and clean is not None:
        pictures[f"difference × {MAGNIFIED}"] = 0.5 + MAGNIFIED * (image - clean) / 2
    return {label: embedded_image(picture) for label, picture in pictures.items() if picture is not None}
