"""What a plugin hands to qadv: frozen descriptors that name a target and load nothing.

A target is a string, `"package.module:attribute"`, imported when the component is used and not before.
"""

import importlib
import re
import warnings
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from typing import Any, ClassVar

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion

from qadv.errors import MissingRequirementError, PluginError, UnknownNameError, closest, describe
from qadv.versions import metadata_field

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def import_target(target: str) -> Any:
    """Imports `"package.module:attribute"` and returns the attribute."""
    module, _, attribute = target.partition(":")
    found: Any = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


@dataclass(frozen=True, kw_only=True)
class Component:
    """One named thing that a plugin provides; the name of its class, in lower case, is its kind.

    Args:
        name: lower case words joined by hyphens, e.g. `"r-fgsm"`.
        target: `"package.module:attribute"`; calling the attribute with options makes the component.
        summary: one line for `qadv list`.
        requires: distributions the target needs besides qadv's own, as PEP 508 strings, e.g. `("foolbox>=3.3",)`.
        family: set on a component that stands for many names (`timm` for every timm model):
            `"package.module:attribute"` of a function that takes no argument and returns those names. The target is
            then called with the name as its first argument.
    """

    kind: ClassVar[str] = ""
    hook: ClassVar[str] = ""

    name: str
    target: str
    summary: str = ""
    requires: tuple[str, ...] = ()
    family: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"component name {self.name!r}: expected lower case words joined by hyphens, as 'r-fgsm'")
        for field in filter(None, (self.target, self.family)):
            if not TARGET.fullmatch(field):
                raise ValueError(f"component {self.name!r}: {field!r} is not of the form 'package.module:attribute'")
        for requirement in self.requires:
            try:
                Requirement(requirement)
            except InvalidRequirement as error:
                raise ValueError(f"component {self.name!r}: requirement {requirement!r}: {error}") from error

    def __init_subclass__(cls) -> None:
        if Component in cls.__bases__:
            cls.kind = re.sub("(?<=[a-z])(?=[A-Z])", "-", cls.__name__).lower()
            cls.hook = f"qadv_{cls.kind.replace('-', '_')}s"

    def unmet_requirements(self) -> list[str]:
        """Returns the entries of `requires` that this environment does not satisfy, each with what is there."""
        unmet = []
        for text in self.requires:
            requirement = Requirement(text)
            if requirement.marker is not None and not requirement.marker.evaluate():
                continue
            found = "not installed"
            with suppress(metadata.PackageNotFoundError, InvalidVersion):
                installed = metadata_field(metadata.distribution(requirement.name), "Version") or "damaged"
                found = f"installed: {installed}"
                if requirement.specifier.contains(installed, prereleases=True):
                    continue
            unmet.append(f"{text} ({found})")
        return unmet

    def load(self) -> Any:
        """Imports the target and returns it; says which requirement is not met, or why the import failed."""
        return self._import(self.target)

    def members(self) -> list[str]:
        """Returns the names a family stands for; empty for a single component."""
        return list(self._import(self.family)()) if self.family else []

    def _import(self, target: str) -> Any:
        if unmet := self.unmet_requirements():
            wanted = " ".join(f"'{entry.partition(' (')[0]}'" for entry in unmet)
            raise MissingRequirementError(
                f"{self.kind} {self.name!r} needs {', '.join(unmet)}; install it with: pip install {wanted}"
            )
        try:
            return import_target(target)
        except (Exception, SystemExit) as error:
            raise PluginError(f"{self.kind} {self.name!r}: importing {target!r} failed: {describe(error)}") from error


def top_package(target: str) -> str:
    """Returns the top-level package of a target or an entry point's value: `"a"` of `"a.b:C"`."""
    return target.partition(":")[0].partition(".")[0]


class Quantizer(Component):
    """A scheme for weights, activations or both; target: a subclass of `qadv.quantization.Scheme`."""


class Backbone(Component):
    """A float network; target: a function `(nb_classes=10, in_channels=3, **options) -> torch.nn.Module`."""


class Trainer(Component):
    """A training defense; target: a subclass of `art.defences.trainer.Trainer`.

    It has `__init__(classifier, ...)` and `fit(x, y, ...)`.
    """


class Transformer(Component):
    """A defense that changes a trained network; target: a subclass of `art.defences.transformer.Transformer`."""


class Preprocessor(Component):
    """A defense on the input; target: a subclass of ART's `Preprocessor`, best of its `PreprocessorPyTorch`.

    A step that is not differentiable puts its straight-through estimator inside `forward`: ART never calls
    `estimate_forward` on the all-torch path.
    """


class Postprocessor(Component):
    """A defense on the output; target: a subclass of `art.defences.postprocessor.Postprocessor`.

    ART runs it in `predict` only, so no gradient attack sees it.
    """


class Detector(Component):
    """Tells adversarial inputs; target: a subclass of ART's `EvasionDetector`."""


class Attack(Component):
    """An attack; target: a subclass of one of ART's attack classes, of evasion easiest by `qadv.FunctionAttack`."""


class Dataset(Component):
    """Images with labels; target: a function `(data_dir=None) -> qadv.datasets.ImageDataset`, of arrays `Images`.

    It may also take `network` and `input_shape`, which the images are for, and `skip_bad`, to leave out what can't be
    read. One that changes another data set is a function `(images, ARGUMENT, …) -> ImageDataset`, named as
    NAME:ARGUMENT:…:OTHER, whose arguments come as text or whole numbers.
    """


class Diagnostic(Component):
    """A measurement; target: `(classifier, x, …) -> data`, or `({name: classifier}, x, …)` for one on several."""


class AuditCheck(Component):
    """A reason to disbelieve a figure of `qadv.audit`; target: a class with `name`, `rule` and `examine(case)`.

    It is made without arguments; `rule` says when it passes, and `examine` takes the `qadv.diagnostics.AuditCase` that
    all checks share and returns a `qadv.diagnostics.Finding`.
    """


class Frontend(Component):
    """How networks of one origin are read; target: a subclass of `qadv.frontends.NetworkFrontend`.

    It is made without arguments, once, for everything that asks a network how it is quantized.
    """


KINDS: dict[str, type[Component]] = {component.kind: component for component in Component.__subclasses__()}


def component_type(kind: str) -> type[Component]:
    """Returns the descriptor of a kind, or names the kinds in an `UnknownNameError`."""
    if kind not in KINDS:
        raise UnknownNameError(f"no component kind {kind!r}{closest(kind, KINDS)} Kinds: {', '.join(KINDS)}")
    return KINDS[kind]


def __getattr__(name: str) -> Any:
    if name == "Report":  # until the next minor version
        warnings.warn("qadv.components.Report: nothing asks for reports any more; leave it out", stacklevel=2)
        return Component
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
