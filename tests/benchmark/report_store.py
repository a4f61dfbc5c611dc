"""A results' folder written by hand: two networks, two seeds, one failure, figures that can be checked by eye."""

import json

import numpy as np
from safetensors.numpy import save

from qadv.benchmark.cells import Finished
from qadv.benchmark.store import Store
from qadv.benchmark.study import Study
from qadv.diagnostics.accuracy_curve import AccuracyCurve
from qadv.diagnostics.gradient_similarity import GradientSimilarity

TITLE = "Bits <script>alert(1)</script> & | pipes"
W4 = "w4|<i>"
TEN = "ProjectedGradientDescent"

STUDY = Study.model_validate({
    "title": TITLE,
    "about": "About *this*.",
    "paper": "A paper, table 1",
    "claims": ["<b>fewer</b> bits are weaker"],
    "datasets": ["digits"],
    "seeds": [0, 1],
    "nb_test": 10,
    "backbones": {"mnist-cnn": {}},
    "quantizers": {"float": {}, W4: {"weights": "int:4", "activations": "relu6:4"}},
    "defenses": {"none": {"preprocessors": ["median-smoothing", {"name": "bit-depth", "options": {"bit_depth": 4}}]}},
    "attacks": {
        "fgsm": {"attack": "FastGradientMethod", "options": {"eps": 0.1}},
        "pgd": {"attack": TEN, "options": {"eps": 0.1}},
        "weak": {"attack": TEN, "options": {"eps": "8/255"}, "nb_test": 4},
        "moved": {"attack": TEN, "options": {"eps": 0.1}, "source": "each"},
        "far": {"attack": "DeepFool", "options": {}},
    },
    "measures": {
        "audit": {"options": {"eps": 0.1}},
        "accuracy-curve": {"options": {"eps": [0.1]}},
        "gradient-similarity": {},
        "of-a-plugin": {"diagnostic": "somebody-elses"},
    },
    "published": [
        {"quantizer": W4, "accuracy": {"clean": 83.25, "pgd": "<12"}, "note": "10,000 images"},
        {"accuracy": {"fgsm": 44}},
        {"quantizer": W4, "source": {"quantizer": "float"}, "accuracy": {"moved": 61}},
        {"quantizer": "float", "source": {"quantizer": "float"}, "distances": {"moved": (1.65, 0.03)}},
        {"quantizer": "float", "distances": {"far": (0.72, 0.09)}, "note": "of 1,000"},
        {"measured": {"accuracy-curve": {"samples": 50, "norm": 2}, "gradient-similarity": {"samples": 7}}},
    ],
})  # fmt: skip

# who is right: a digit per image, 1 for right; by quantizer, seed, and attack (or "clean")
RIGHT = {
    ("float", 0, "clean"): "1111111110",
    ("float", 1, "clean"): "1111111111",
    (W4, 0, "clean"): "1111111100",
    (W4, 1, "clean"): "1111111100",
    ("float", 0, "fgsm"): "1111100000",
    ("float", 1, "fgsm"): "1111110000",
    (W4, 0, "fgsm"): "1111000000",
    (W4, 1, "fgsm"): "1111000000",
    ("float", 0, "pgd"): "0111000000",
    ("float", 1, "pgd"): "0111000000",
    (W4, 0, "pgd"): "0011000000",  # of seed 1: failed
    ("float", 0, "weak"): "1101",
    ("float", 1, "weak"): "1111",
    (W4, 0, "weak"): "1100",
    (W4, 1, "weak"): "1110",
    ("float", 0, "moved"): "0111000000",
    ("float", 1, "moved"): "0111000000",
    (W4, 0, "moved"): "1010111100",  # made on float
    (W4, 1, "moved"): "1111111100",
    ("float", 0, "moved back"): "1011111110",
    ("float", 0, "far"): "0000000000",
    ("float", 1, "far"): "0000000000",
    (W4, 0, "far"): "0000000000",
    (W4, 1, "far"): "0000000000",
}
ROBUST = "0101"  # of the audit of W4, seed 0
VERSIONS = {"qadv": "0.1.0"}


def bits(text):
    return [digit == "1" for digit in text]


class _Plan:
    def __init__(self, folder):
        self.store, self.cells = Store(folder), []

    def add(self, kind, name, record, place, needs=(), files=None, key=None):
        key = key or f"{len(self.cells):032x}"
        self.cells.append({"key": key, "kind": kind, "label": name, "place": place, "needs": list(needs)})
        if record is not None:
            spec = {"kind": kind, "versions": VERSIONS, "plugins": {}, "nb_train": 100}
            self.store.write(key, Finished({"spec": spec, **record}, files or {}))
        return key


def place(quantizer, seed, **more):
    return {
        "dataset": "digits",
        "backbone": "mnist-cnn",
        "quantizer": quantizer,
        "defense": "none",
        "seed": seed,
        **more,
    }


def outcome(quantizer, seed, attack, linf):
    right = bits(RIGHT[quantizer, seed, attack])
    clean = bits(RIGHT[quantizer, seed, "clean"])[: len(right)]
    distances = {"l2": [0.5] * len(right), "linf": [linf] * len(right)}
    return {"accuracy": np.mean(right).item(), "clean_accuracy": np.mean(clean).item(), "right": right,
            "clean_right": clean, "classes": [2] * len(right), "clean_classes": [1] * len(right),
            "labels": [1] * len(right), "class_names": list("abc"), **distances}  # fmt: skip


def write_store(folder, black_box="failed", **audit):
    """Writes the results to a folder; returns its `Store`. Of the audit: the verdict of check 3, and what is added."""
    plan = _Plan(folder)
    with plan.store.locked():
        for seed in (0, 1):
            for quantizer in ("float", W4):
                _network(plan, quantizer, seed)
        _transfers(plan)
        _measures(plan, black_box, audit)
        environment = {"versions": VERSIONS, "cores": 2, "gpu": None}
        plan.store.write_plan("hand", {
            "file": "hand.toml", "text": "title = '</details>'\n```", "small": True,
            "study": STUDY.model_dump(mode="json"), "environment": environment, "cells": plan.cells,
        })  # fmt: skip
    return plan.store


def _network(plan, quantizer, seed):
    history = [{"epoch": 0, "loss": 1.5, "accuracy": 0.4}, {"epoch": 1, "loss": None, "accuracy": 0.8}]
    made = plan.add(
        "network", f"network {quantizer} · seed {seed}",
        {"history": history, "seconds": 2.0, "bytes": {"packed": 1234, "float32": 9872}}, place(quantizer, seed),
    )  # fmt: skip
    right = bits(RIGHT[quantizer, seed, "clean"])
    record = {"accuracy": np.mean(right).item(), "right": right, "classes": [1] * 10}
    plan.add("clean", f"clean images, {quantizer} · seed {seed}", record, place(quantizer, seed), [made])
    rng = np.random.default_rng(seed)
    for attack in ("fgsm", "pgd", "weak", "far"):
        label = f"{attack} on {quantizer} · seed {seed}"
        where = place(quantizer, seed, attack=attack, source=None)
        if (quantizer, seed, attack) not in RIGHT:
            key = plan.add("attack", label, None, where, [made])
            plan.store.write_failure(key, label, "the loss is <not> finite", "Traceback")
            continue
        linf = {"weak": 8 / 255, "far": 0.4}.get(attack, 0.1)
        record = outcome(quantizer, seed, attack, linf)
        record |= {"seconds": 3.0, "cost": {"forward": 210, "backward": 200}}
        images = rng.random((len(record["right"]), 1, 4, 4), dtype=np.float32)
        content = save({"images": images, "clean": np.ascontiguousarray(images[:8] * 0.9)})
        plan.add("attack", label, record, where, [made], {"adversarial.safetensors": content})


def _transfers(plan):
    found = {cell["label"]: cell for cell in plan.cells}
    for seed in (0, 1):
        own = found[f"pgd on float · seed {seed}"]  # the same cell under the name of the transfer
        plan.cells.append(
            {**own, "label": f"moved on float · seed {seed}", "place": {**own["place"], "attack": "moved"}}
        )
        where = place(W4, seed, attack="moved", source=place("float", seed))
        plan.add("transfer", f"moved on float → {W4}, {seed}", outcome(W4, seed, "moved", 0.1), where, [own["key"]])
        own = found[f"pgd on {W4} · seed {seed}"]
        plan.cells.append({**own, "label": f"moved on {W4} · {seed}", "place": {**own["place"], "attack": "moved"}})
        where = place("float", seed, attack="moved", source=place(W4, seed))
        there = ("float", seed, "moved back") in RIGHT
        record = outcome("float", seed, "moved back", 0.1) if there else None
        plan.add("transfer", f"moved on {W4} → float, {seed}", record, where, [own["key"]])


def _measures(plan, black_box, more):
    names = ["zero gradients", "answers repeat", "black-box against white-box"]
    verdicts = ["passed", "not evaluated", black_box]
    checks = [
        {"number": n, "name": name, "rule": f"rule {n}", "verdict": verdict, "figure": f"figure {n}", "values": {}}
        for n, (name, verdict) in enumerate(zip(names, verdicts, strict=True), 1)
    ]
    audit = {
        "headline": f"Worst case: 50.0 % of 4 images: not converged (check 3 {black_box})",
        "passed": False, "eps": 0.1, "grade": "not converged",
        "checks": checks, "samples": 4, "thorough": False, "seconds": 90.0, "cost": {"forward": 1200, "backward": 800},
        "worst_case": {"accuracy": 0.5, "clean_accuracy": 1.0, "robust": bits(ROBUST), "broken_by": []}, **more,
    }  # fmt: skip
    plan.add("measure", "audit of W4", {"result": audit, "text": "table"}, place(W4, 0, measure="audit"))
    for number, quantizer in enumerate(("float", W4)):
        falls = np.array([1.0, 0.5 - 0.1 * number])
        curve = AccuracyCurve(np.inf, (0.0, 0.1), falls, falls, 10)
        record = {"result": json.loads(json.dumps(curve.to_dict())), "text": str(curve)}
        plan.add("measure", f"curve {number}", record, place(quantizer, 0, measure="accuracy-curve"))
    cosines = GradientSimilarity(("float", W4), np.array([[1, 0.25], [0.25, 1]]), np.full((2, 2), 10), 10)
    joint = {"dataset": "digits", "seed": 0}
    record = {"result": cosines.to_dict(), "text": str(cosines)}
    plan.add("measure", "similarity of 2 networks", record, {**joint, "measure": "gradient-similarity"})
    record = {"result": [1, 2], "text": "what <somebody> else's prints"}
    plan.add("measure", "of a plugin", record, place("float", 0, measure="of-a-plugin"))
