"""A file per network with the fields of RobustBench's `model_info`, and ours under `qadv`."""

from collections.abc import Iterator
from typing import Any

from qadv.benchmark.report.audits import audits_of
from qadv.benchmark.report.content import slug
from qadv.benchmark.report.numbers import percent, plain_eps
from qadv.benchmark.report.published import published_number
from qadv.benchmark.report.results import CellResult, Network, StudyResults
from qadv.benchmark.report.threats import Threat, keeps_to
from qadv.benchmark.report.worst_case import ball_of, worst_cases

_LONGEST = 120  # bytes of a file's name, which may have 255 with what is added while it is written


def model_files(results: StudyResults) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields a name and the content for each network, each seed by itself."""
    taken: set[str] = set()
    for network in results.networks:
        for made, clean in zip(results.made(network), results.clean(network), strict=True):
            name = slug(results.seed_label(network.axes, clean.place["seed"]))
            name = name.encode()[:_LONGEST].decode(errors="ignore")
            if name in taken:
                name = f"{name}-{made.key[:8]}"
            taken.add(name)
            yield f"{name}.json", _content(results.of_seed(clean.place["seed"]), network, made, clean)


def _content(results: StudyResults, network: Network, made: CellResult, clean: CellResult) -> dict[str, Any]:
    """Returns the content; `results` has one seed."""
    study = results.study
    dataset, backbone, quantizer, defense = network.axes
    made_of, schemes, given = study.backbones[backbone], study.quantizers[quantizer], study.defenses[defense]
    worst, audits = worst_cases(results, network), audits_of(results, network)
    auto, ball = _auto_attack(results, network)
    audited = [audit for audit in audits if audit.result is not None]
    threat = ball or next((Threat(float("inf"), a.result["eps"]) for a in audits if a.result), None)
    threat = threat or (worst[0].threat if worst else None)
    given_by_paper = (published_number(results, network, name) for name in study.attacks)
    reported = min((value for value in given_by_paper if value is not None), default=None)
    return {
        "name": f"{study.title}: {network.label}",
        "authors": None,
        "venue": study.paper or None,
        "dataset": dataset,
        "architecture": made_of.file or made_of.backbone or backbone,
        "eps": plain_eps(threat.eps) if threat else None,
        "clean_acc": percent(clean.record["accuracy"]) if clean.there else None,
        "reported": None if reported is None else f"{reported:g}",
        "autoattack_acc": auto,
        "additional_data": None if made_of.checkpoint or made_of.file or made_of.options.get("pretrained") else False,
        "number_forward_passes": len(given.members) or 1,
        "footnote": "Small setting: not comparable with published figures." if results.plan.get("small") else None,
        "unreliable": any(audit.failed for audit in audited) if audited else None,
        "qadv": {
            "study": results.name,
            "small": bool(results.plan.get("small")),
            "seed": clean.place["seed"],
            "weights": schemes.weights,
            "activations": schemes.activations,
            "defense": defense,
            "trainer": given.trainer,
            "transformers": [each.model_dump() for each in given.transformers],
            "preprocessors": [each.model_dump() for each in given.preprocessors],
            "bytes": made.record.get("bytes"),
            "accuracy": {
                name if cell.source is None else f"{name} from {results.label(cell.source)}": cell.record["accuracy"]
                for name in study.attacks
                for cell in results.from_all_sources(network, name)
                if cell.there
            },
            "worst_case": [
                {
                    "norm": "inf" if case.threat.norm == float("inf") else int(case.threat.norm),
                    "eps": case.threat.eps,
                    "accuracy": case.accuracy[0],
                    "clean_accuracy": case.clean[0],
                    "samples": case.samples,
                    "over": case.over,
                    "audited": case.audited,
                }
                for case in worst
            ],
            "audit": [
                {
                    "measure": audit.measure,
                    "headline": audit.result["headline"],
                    "passed": not audit.failed,
                    "failed": audit.failed,
                    "checks": {str(check["number"]): check["verdict"] for check in audit.checks},
                }
                for audit in audits
                if audit.result is not None
            ],
            "versions": made.record["spec"]["versions"] if made.there else None,
            "cells": {cell.label: cell.key for cell in results.cells if cell.axes == network.axes and cell.there},
            "not_there": {cell.label: cell.state for cell in results.not_there if cell.axes == network.axes},
        },
    }


def _auto_attack(results: StudyResults, network: Network) -> tuple[str | None, Threat | None]:
    """Returns the accuracy under an attack called AutoAttack, and its ball."""
    for name, attack in results.study.attacks.items():
        called = {slug(text).replace("-", "") for text in (name, attack.attack)}
        if "autoattack" in called and attack.source is None:
            for cell in results.attacked(network, name):
                if cell.there:
                    ball = ball_of(results, name)
                    inside = ball is not None and keeps_to(ball, cell.record)
                    return percent(cell.record["accuracy"]), ball if inside else None
    return None, None
