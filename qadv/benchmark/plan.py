"""Turns a study into cells, each after those it needs."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache, partial
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from qadv.attacks.families import family_of
from qadv.backbones.standardisation import is_of_timm
from qadv.benchmark import specs
from qadv.benchmark.cells import Cell, digest, versions
from qadv.benchmark.names import check_names
from qadv.benchmark.plugin_code import code_versions
from qadv.benchmark.signatures import arguments
from qadv.benchmark.study import (
    LARGEST_SEED,
    AttackSpec,
    Defense,
    Grid,
    Source,
    Start,
    Study,
    StudyAttack,
    StudyBackbone,
    StudyQuantizer,
)
from qadv.benchmark.study_file import Place, StudyFile
from qadv.datasets import ImageDataset
from qadv.errors import StorageError
from qadv.files import check_is_file
from qadv.frontends.find import file_frontend
from qadv.plugins import OWN_DISTRIBUTION
from qadv.registry import default_registry, load
from qadv.trainers.early_stop import EarlyStop


class Node(NamedTuple):
    """A network of the study by its names."""

    dataset: str
    backbone: str
    quantizer: str
    defense: str
    seed: int


def plan(file: StudyFile, datasets: dict[str, ImageDataset], data_dir: Path | None) -> list[Cell]:
    """Returns the cells of a study, each after those it needs; images by name, checkpoints from `data_dir`.

    One that the study calls by several names (an attack that is also the source of a transfer) is there once for each
    name, with the same key. What does not exist or can't be combined is a `StudyError`, with its line.
    """
    check_names(file)
    return _Planner(file, datasets, data_dir).plan()


class _Planner:
    def __init__(self, file: StudyFile, datasets: dict[str, ImageDataset], data_dir: Path | None) -> None:
        self.file, self.study, self.datasets, self.data_dir = file, file.study, datasets, data_dir
        self.digests = {name: images.digest() for name, images in datasets.items()}
        self.cells: dict[tuple[str, str], Cell] = {}
        self.networks: dict[Node, Cell] = {}
        self.underway: list[Node] = []
        self.plugin = cache(_plugin)  # asked for once per attack and network

    def plan(self) -> list[Cell]:
        grids = self.study.grid or [Grid()]
        jobs = [(node, grid) for grid in grids for node in self._nodes(grid)]
        chosen = list(dict.fromkeys(node for node, _ in jobs))
        for node in chosen:
            key, images = self._network(node).key, self._images(node, None)
            spec = specs.CleanSpec(versions=versions(), network=key, images=images, seed=node.seed)
            self._add(Cell("clean", spec, f"clean images, {self._label(node)}", node._asdict(), (key,)))
        for node, grid in jobs:
            for name in _axis(grid.attacks, self.study.attacks):
                for cell in self._attacks(node, name, chosen):
                    self._add(cell)
        for node, grid in jobs:
            for name in _axis(grid.measures, self.study.measures):
                if not self._takes("classifiers", name):
                    self._add(self._measure(name, [node]))
        for grid in grids:
            joint = filter(partial(self._takes, "classifiers"), _axis(grid.measures, self.study.measures))
            for name, dataset, seed in product(joint, _axis(grid.datasets, self.study.datasets), self.study.seeds):
                nodes = [node for node in self._nodes(grid) if (node.dataset, node.seed) == (dataset, seed)]
                self._add(self._measure(name, nodes))
        return list(self.cells.values())

    def _nodes(self, grid: Grid) -> Iterator[Node]:
        axes = ("datasets", "seeds", "backbones", "quantizers", "defenses")
        chosen = {axis: list(getattr(grid, axis, None) or getattr(self.study, axis)) for axis in axes}
        for dataset, seed, backbone, quantizer, defense in product(*chosen.values()):
            yield Node(dataset, backbone, quantizer, defense, seed)

    def _add(self, cell: Cell) -> Cell:
        return self.cells.setdefault((cell.key, cell.label), cell)

    def _network(self, node: Node) -> Cell:
        if node in self.networks:
            return self.networks[node]
        if node in self.underway:
            raise self.file.complain([(("defenses", node.defense, "start"), "starts and members lead back to itself")])
        self.underway.append(node)
        backbone, quantizer = self.study.backbones[node.backbone], self.study.quantizers[node.quantizer]
        defense = self.study.defenses[node.defense]
        if backbone.file is not None:
            self._check_file(node, backbone.file)
        start = self._start(node)
        members = [self._network(node._replace(quantizer=each, defense=str(defense.of))) for each in defense.members]
        data = self.datasets[node.dataset]
        spec = specs.NetworkSpec(
            versions=versions(),
            plugins=self._plugins(backbone, quantizer, defense),
            dataset=specs.DatasetSpec(name=node.dataset, digest=self.digests[node.dataset]),
            input_shape=data.input_shape,
            nb_classes=len(data.classes),
            nb_train=self._nb_train(node),
            backbone=self._backbone(node.backbone, backbone),
            quantizer=quantizer,
            defense=defense,
            start=start.key if start else None,
            members=[member.key for member in members],
            seed=(node.seed + defense.start_seed) % (LARGEST_SEED + 1),
        )
        needs = tuple(cell.key for cell in (start, *members) if cell)
        cell = self._add(Cell("network", spec, f"network {self._label(node)}", node._asdict(), needs))
        self.underway.pop()
        self.networks[node] = cell
        return cell

    def _check_file(self, node: Node, file: str) -> None:
        """Refuses what would make another network of a file."""
        quantizer, defense = self.study.quantizers[node.quantizer], self.study.defenses[node.defense]
        changes = "quantized" if (quantizer.weights, quantizer.activations) != ("float", "float") else ""
        changes = "trained" if defense.trainer else "transformed" if defense.transformers else changes
        if changes or defense.members:
            raise self.file.complain([(
                ("backbones", node.backbone, "file"),
                f"{self._label(node)}: {file} is measured as it is, and "
                f"{f'can not be {changes}' if changes else 'is no member of an ensemble'}. Do that to the network that "
                "it was exported from, and export it again; and leave this combination out: a [[grid]] names which "
                "quantizer (one of float weights and activations) and which defense (without trainer) it goes with",
            )])  # fmt: skip

    def _plugins(self, backbone: StudyBackbone, quantizer: StudyQuantizer, defense: Defense) -> dict[str, str]:
        used = [("trainer", defense.trainer)] if defense.trainer else []
        computed = {}
        if backbone.file is None:
            used.append(("backbone", backbone.backbone))
        elif (frontend := file_frontend(backbone.file)) is not None:
            used.append(("frontend", frontend.name))
            for each in frontend.packages:
                with suppress(metadata.PackageNotFoundError):
                    computed[each] = metadata.version(each)
        used += [("quantizer", each) for each in sorted(_quantizers(quantizer))]
        if quantizer.calibration_attack is not None:
            used.append(("attack", quantizer.calibration_attack.name))
        used += [("transformer", each.name) for each in defense.transformers]
        used += [("preprocessor", each.name) for each in defense.preprocessors]
        return computed | {name: version for each in used for name, version in self.plugin(*each).items()}

    def _start(self, node: Node) -> Cell | None:
        start = self._start_node(node)
        return None if start is None else self._network(start)

    def _start_node(self, node: Node) -> Node | None:
        chosen = self.study.defenses[node.defense].start
        if isinstance(chosen, str):
            chosen = Start(defense=chosen, quantizer=self.study.float_quantizer)
        return None if chosen is None else node._replace(**chosen.model_dump())

    def _nb_train(self, node: Node) -> int:
        """Returns how many of the first training images a trainer of a network is given."""
        fit, there = self.study.defenses[node.defense].fit, len(self.datasets[node.dataset].labels("train"))
        return min((fit.nb_train if fit else None) or self.study.nb_train or there, there)

    def _nb_trained(self, node: Node) -> int | None:
        """Returns on how many of the first training images a network, or what it is made from, was trained.

        `None` where the study trains nothing, as with a checkpoint.
        """
        defense = self.study.defenses[node.defense]
        if defense.members:
            return self._nb_trained(node._replace(quantizer=defense.members[0], defense=str(defense.of)))
        start = self._start_node(node)
        before = None if start is None else self._nb_trained(start)
        if defense.trainer is None:
            return before
        stop = defense.options.get("early_stop")
        own = self._nb_train(node) - (0 if stop is None else EarlyStop.of(stop).nb_images)
        return max(own, before or 0)

    def _weights(self, node: Node) -> str:
        """Returns a hash of all that a network's weights come from: its start's, where nothing is done to it."""
        defense = self.study.defenses[node.defense]
        start = self._start_node(node)
        if start and not defense.trainer and not defense.transformers:
            before, after = (self.study.quantizers[each.quantizer] for each in (start, node))
            if (before.weights, before.activations) == (after.weights, after.activations):
                return self._weights(start)
        spec = self._network(node).spec.model_dump()
        return digest(spec | {"plugins": {}, "defense": spec["defense"] | {"preprocessors": []}})  # not trained with

    def _backbone(self, name: str, backbone: StudyBackbone) -> specs.StartSpec:
        spec = backbone.model_dump()
        said = (backbone.mean, backbone.std) != (None, None)
        if said or not (backbone.file or is_of_timm(spec["backbone"])):
            spec["mean"] = 0.0 if backbone.mean is None else backbone.mean
            spec["std"] = 1.0 if backbone.std is None else backbone.std
        for key in ("checkpoint", "file"):
            if (path := getattr(backbone, key)) is not None:
                spec[key] = (path, self._digest(path, ("backbones", name, key)))
        return specs.StartSpec(**spec)

    def _digest(self, name: str, place: Place) -> str:
        """Returns the hash of a file in the data folder: SHA-256 of one that is a network, as in all results."""
        path = (self.data_dir or Path()) / name
        try:
            check_is_file(path)  # and no device, which has no end
            with open(path, "rb") as file:
                kind: Any = "sha256" if place[-1] == "file" else partial(hashlib.blake2b, digest_size=16)
                return hashlib.file_digest(file, kind).hexdigest()
        except OSError as error:
            reason = error if isinstance(error, StorageError) else f"can't read {path}: {error.strerror or error}"
            raise self.file.complain([(place, str(reason))]) from error

    def _images(self, node: Node, wanted: int | None) -> specs.ImagesSpec:
        nb_test = min(wanted or self.study.nb_test, self.study.nb_test, len(self.datasets[node.dataset].labels("test")))
        return specs.ImagesSpec(name=node.dataset, digest=self.digests[node.dataset], nb_test=nb_test)

    def _attack(self, node: Node, name: str) -> Cell:
        attack, network = self.study.attacks[name], self._network(node)
        spec = specs.AttackCellSpec(
            versions=versions(),
            plugins=self.plugin("attack", attack.attack),
            network=network.key,
            images=self._images(node, attack.nb_test),
            attack=_attack_spec(attack),
            seed=node.seed,
        )
        place = node._asdict() | {"attack": name, "source": None}
        return Cell("attack", spec, f"{name} on {self._label(node)}", place, (network.key,))

    def _attacks(self, node: Node, name: str, chosen: Sequence[Node]) -> Iterator[Cell]:
        source = self.study.attacks[name].source
        if family_of(load("attack", self.study.attacks[name].attack)) != "evasion":
            return  # it makes no images: the measure that names it runs it
        if source is None:
            yield self._attack(node, name)
            return
        alike = [n for n in chosen if (n.dataset, n.seed) == (node.dataset, node.seed)]
        for other in alike if source == "each" else [_source(node, source)]:
            made = self._add(self._attack(other, name))
            if other != node or source != "each":  # each network is attacked from itself too, openly
                self._check_source(name, other, node)
            if other == node:
                yield made
                continue
            key, itself = self._network(node).key, self.study.attacks[name].itself
            spec = specs.TransferSpec(versions=versions(), network=key, made=made.key, itself=itself, seed=node.seed)
            place = node._asdict() | {"attack": name, "source": other._asdict()}
            label = f"{name} on {self._label(other)} → {self._label(node)}"
            yield Cell("transfer", spec, label, place, (key, made.key))

    def _check_source(self, name: str, source: Node, target: Node) -> None:
        if not self.study.attacks[name].itself and self._weights(source) == self._weights(target):
            what = "itself" if source == target else f"{self._label(source)}, which has the same weights"
            raise self.file.complain([(
                ("attacks", name, "source"),
                f"{self._label(target)} would be attacked from {what}, and not from a second network: give one of them "
                "another start_seed, leave one out of the grid, or say itself = true",
            )])  # fmt: skip

    def _takes(self, argument: str, measure: str) -> bool:
        return argument in (arguments(load("diagnostic", self.study.measures[measure].diagnostic)) or ())

    def _measure(self, name: str, nodes: list[Node]) -> Cell:
        measure, node = self.study.measures[name], nodes[0]
        joint = self._takes("classifiers", name)
        networks = [self._network(each) for each in nodes]
        needs = [network.key for network in networks]
        made = start = None
        if measure.attacked or self._takes("x_adversarial", name):
            if measure.attack is None:
                raise self.file.complain([(("measures", name), "it compares with attacked images: say attack = …")])
            source = self.study.attacks[measure.attack].source
            other = _source(node, source) if isinstance(source, Source) else node
            if isinstance(source, Source) and not joint:
                self._check_source(measure.attack, other, node)
            made = self._add(self._attack(other, measure.attack)).key
            needs.append(made)
        if self._takes("float_parent", name) and (parent := self._start(node)):
            start = parent.key
            needs.append(start)
        used = [("diagnostic", measure.diagnostic)]
        used += [("attack", self.study.attacks[each].attack) for each in (*measure.attacks, measure.attack) if each]
        trained = self._nb_trained(node) if self._takes("x_train", name) else None
        spec = specs.MeasureSpec(
            versions=versions(),
            plugins={name: version for each in used for name, version in self.plugin(*each).items()},
            diagnostic=measure.diagnostic,
            options=measure.options,
            images=self._images(node, measure.nb_test),
            seed=node.seed,
            joint=joint,
            networks={self._label(each): cell.key for each, cell in zip(nodes, networks, strict=True)},
            attacks={each: _attack_spec(self.study.attacks[each]) for each in measure.attacks},
            attack=_attack_spec(self.study.attacks[measure.attack]) if measure.attack else None,
            attacked=measure.attacked,
            adversarial=made,
            float_parent=start,
            nb_trained=trained if trained != self._nb_train(node) else None,
        )
        place, label = {**node._asdict(), "measure": name}, f"{name} of {self._label(node)}"
        if joint:
            place = {"dataset": node.dataset, "seed": node.seed, "measure": name}
            label = f"{name} of {len(nodes)} networks"
        return Cell("measure", spec, label, place, tuple(dict.fromkeys(needs)))

    def _label(self, node: Node) -> str:
        return network_label(self.study, node._asdict())


def network_label(study: Study, place: dict[str, Any]) -> str:
    """Returns what tells a network from the others of its study: the axes with several entries."""
    axes = {axis: getattr(study, f"{axis}s") for axis in ("dataset", "backbone", "quantizer", "defense", "seed")}
    told = [("seed " if axis == "seed" else "") + str(place[axis]) for axis, found in axes.items() if len(found) > 1]
    return " · ".join(told) or str(place["backbone"])


def _axis(chosen: list[str] | None, entries: Any) -> list[str]:
    return list(entries) if chosen is None else chosen


def _attack_spec(attack: StudyAttack) -> AttackSpec:
    return AttackSpec(**attack.model_dump(include=set(AttackSpec.model_fields)))


def _source(node: Node, source: Source) -> Node:
    return node._replace(**source.model_dump(exclude_none=True))


def _quantizers(quantizer: StudyQuantizer) -> set[str]:
    """Returns the names in schemes, e.g. `sq` and `bwn` of `sq(bwn)`."""
    schemes = (quantizer.weights, quantizer.activations)
    texts = [text for each in schemes for text in ([each] if isinstance(each, str) else each.values())]
    return {name for text in texts for name in re.split("[:()]", text) if name and not name.isdigit()} - {"float"}


def _plugin(kind: str, name: str) -> dict[str, str]:
    """Returns the version, and a hash of the code, of the plugin that a component comes from; nothing of qadv's own.

    An audit runs the checks of all plugins.
    """
    registry = default_registry()
    entry, _ = registry.find(kind, name)
    is_audit = entry.qualified_name == f"{OWN_DISTRIBUTION}/audit" and kind == "diagnostic"
    return code_versions([entry, *(registry.entries("audit-check") if is_audit else ())])
