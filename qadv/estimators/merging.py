"""Queries to an estimator that several askers share one call for."""

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from art.config import ART_NUMPY_DTYPE
from art.estimators.classification import PyTorchClassifier
from numpy.typing import NDArray

from qadv.estimators.classifier import QuantizedClassifier

Array = NDArray[Any]


@dataclass(eq=False)
class Query:
    """One call of an estimator's method.

    Attributes:
        rows: the arguments that have one row for each image: `(x,)` or `(x, y)`; `options` are the others.
        key: queries of equal keys can be answered by one call; `None` where a query must be answered as it stands.
        averages: the answer is the gradient of a loss averaged over the rows.
    """

    estimator: PyTorchClassifier
    method: str
    rows: tuple[Any, ...]
    options: dict[str, Any]
    key: Hashable = None
    averages: bool = False

    def __len__(self) -> int:
        return len(self.rows[0])


def answer(queries: Sequence[Query], batch_size: int) -> tuple[dict[int, Any], int]:
    """Answers the largest group of queries that one call can answer; the others wait for more of their kind.

    Returns:
        The answers by the positions of their queries, and the number of calls that they took.
    """
    groups: dict[Hashable, list[int]] = {}
    for position, query in enumerate(queries):
        groups.setdefault(query.key, []).append(position)
    alone = groups.pop(None, [])  # nothing is gained by waiting
    answers = {at: getattr((q := queries[at]).estimator, q.method)(*q.rows, **q.options) for at in alone}
    if not groups:
        return answers, len(alone)
    largest = max(groups.values(), key=len)
    parts, nb_calls = _answer_together([queries[position] for position in largest], batch_size)
    return answers | dict(zip(largest, parts, strict=True)), len(alone) + nb_calls


def _answer_together(queries: list[Query], batch_size: int) -> tuple[list[Array], int]:
    first = queries[0]
    call = getattr(first.estimator, first.method)
    options = {**first.options, "batch_size": batch_size} if first.method == "predict" else first.options
    rows = [np.concatenate(columns) for columns in zip(*(query.rows for query in queries), strict=True)]
    results = []
    for start in range(0, len(rows[0]), batch_size):
        batch = [column[start : start + batch_size] for column in rows]
        result = call(*batch, **options)
        results.append(result * len(batch[0]) if first.averages else result)
    merged = np.concatenate(results) if len(results) > 1 else results[0]
    parts = []
    end = 0
    for query in queries:
        start, end = end, end + len(query)
        parts.append(merged[start:end] / len(query) if query.averages else merged[start:end])
    return parts, len(results)


def asking(estimator: PyTorchClassifier, ask: Callable[[Query], Any]) -> PyTorchClassifier:
    """Returns a stand-in that shares everything with `estimator` and hands its queries to `ask`.

    Its class derives from the estimator's, since ART's attacks check for classes. What an attack sets stays here.
    """
    stand_in: PyTorchClassifier = object.__new__(_asking_class(estimator.__class__))
    vars(stand_in).update(vars(estimator), _asked_of=estimator, _ask=ask)
    return stand_in


def is_asking(estimator: PyTorchClassifier) -> bool:
    """Whether an estimator is such a stand-in."""
    return isinstance(estimator, _Asking)


@functools.cache
def _asking_class(kind: Any) -> Any:
    return type(kind)(f"Asking{kind.__name__}", (_Asking, kind), {"__module__": __name__})


class _Asking:
    """The methods of an estimator that make queries of themselves; all others stay the estimator's own."""

    _asked_of: PyTorchClassifier
    _ask: Callable[[Query], Any]

    def predict(self, x: Any, batch_size: int = 128, training_mode: bool = False, **kwargs: Any) -> Any:
        options = {"batch_size": batch_size, "training_mode": training_mode, **kwargs}
        return self._answer("predict", (x,), options, not training_mode)

    def loss_gradient(self, x: Any, y: Any, training_mode: bool = False, **kwargs: Any) -> Any:
        options = {"training_mode": training_mode, **kwargs}
        loss = self._asked_of.loss
        # a weighted mean is over the weights in the batch, and a loss without a reduction may do anything
        averages = getattr(loss, "reduction", None) == "mean" and getattr(loss, "weight", None) is None
        can_merge = averages or getattr(loss, "reduction", None) == "sum"
        return self._answer("loss_gradient", (x, y), options, can_merge and not training_mode, averages)

    def class_gradient(self, x: Any, label: Any = None, training_mode: bool = False, **kwargs: Any) -> Any:
        if label is not None and isinstance(self._asked_of, QuantizedClassifier):
            # one backward pass whatever the labels; ART's own makes one for each
            each = np.broadcast_to(np.asarray(label), len(x))
            return self._answer("class_gradient", (x, each), {"training_mode": training_mode}, not training_mode)
        labels = np.unique(label) if isinstance(label, np.ndarray | list) else np.empty(0)
        options = {"label": int(labels[0]) if len(labels) == 1 else label, "training_mode": training_mode, **kwargs}
        return self._answer("class_gradient", (x,), options, not training_mode)

    def compute_loss(self, x: Any, y: Any, reduction: str = "none", **kwargs: Any) -> Any:
        options = {"reduction": reduction, **kwargs}
        return self._answer("compute_loss", (x, y), options, reduction == "none")

    def _answer(
        self, method: str, rows: tuple[Any, ...], options: dict[str, Any], can_merge: bool, averages: bool = False
    ) -> Any:
        x = rows[0]
        if isinstance(x, np.ndarray) and np.issubdtype(x.dtype, np.floating):
            rows = (x.astype(ART_NUMPY_DTYPE, copy=False), *rows[1:])
        key: Hashable = None
        if can_merge and all(isinstance(column, np.ndarray) and column.ndim and len(column) for column in rows):
            settings = sorted((name, value) for name, value in options.items() if name != "batch_size")
            key = (id(self._asked_of), method, *((column.shape[1:], column.dtype.str) for column in rows), *settings)
            try:
                hash(key)
            except TypeError:  # an array among the options, for instance labels that differ within one query
                key = None
        return self._ask(Query(self._asked_of, method, rows, options, key, averages))
