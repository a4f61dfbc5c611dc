# mypy: disable-error-code="empty-body"
"""The hooks a plugin may implement: one per kind of component.

A hook takes no argument and returns (or yields) descriptors from `qadv.components`; nothing heavy is imported until a
component is used. Each docstring below is one complete plugin: save it as a module, declare the module as an entry
point of the group `qadv`, install it, and `qadv list` shows what it provides.

    [project.entry-points.qadv]
    my-plugin = "my_package.plugin"
"""

from collections.abc import Iterable

import pluggy

from qadv import components

PROJECT = "qadv"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def qadv_quantizers() -> Iterable[components.Quantizer]:
    """Schemes for `qadv.quantize(model, weights=..., activations=...)`.

        import qadv
        from qadv.components import Quantizer

        @qadv.hookimpl
        def qadv_quantizers():
            yield Quantizer(name="pow2", target="my_package.pow2:PowerOfTwo", summary="weights, powers of two")

    The target subclasses `qadv.quantization.Scheme`; `examples/own_plugin` has it in full.
    """


@hookspec
def qadv_backbones() -> Iterable[components.Backbone]:
    """Float networks for `QuantizedClassifier.from_backbone(name, ...)`.

        import qadv
        from qadv.components import Backbone

        @qadv.hookimpl
        def qadv_backbones():
            yield Backbone(name="tiny-net", target="my_package.nets:tiny_net", summary="two layers, 28x28")

    The target is a function `(nb_classes=10, in_channels=3, **options)` that returns a `torch.nn.Module`.
    """


@hookspec
def qadv_trainers() -> Iterable[components.Trainer]:
    """Training defenses.

        import qadv
        from qadv.components import Trainer

        @qadv.hookimpl
        def qadv_trainers():
            yield Trainer(name="my-defense", target="my_package.defense:MyTrainer", summary="trains with my loss")

    The target subclasses `art.defences.trainer.Trainer`: `__init__(classifier, ...)`, `fit(x, y, ...)`.
    """


@hookspec
def qadv_transformers() -> Iterable[components.Transformer]:
    """Defenses that make a new classifier from a trained one.

        import qadv
        from qadv.components import Transformer

        @qadv.hookimpl
        def qadv_transformers():
            yield Transformer(name="my-rounding", target="my_package.rounding:Rounding", summary="rounds the weights")

    The target subclasses `art.defences.transformer.Transformer`.
    """


@hookspec
def qadv_preprocessors() -> Iterable[components.Preprocessor]:
    """Defenses on the input.

        import qadv
        from qadv.components import Preprocessor

        @qadv.hookimpl
        def qadv_preprocessors():
            yield Preprocessor(name="my-blur", target="my_package.blur:Blur", summary="3x3 blur")

    The target subclasses ART's `PreprocessorPyTorch`; a step that is not differentiable puts its straight-through
    estimator inside `forward`, since ART never calls `estimate_forward` on the all-torch path.
    """


@hookspec
def qadv_postprocessors() -> Iterable[components.Postprocessor]:
    """Defenses on the output; ART runs them in `predict` only, so no gradient attack sees them.

        import qadv
        from qadv.components import Postprocessor

        @qadv.hookimpl
        def qadv_postprocessors():
            yield Postprocessor(name="my-rounder", target="my_package.post:Rounder", summary="rounds probabilities")

    The target subclasses `art.defences.postprocessor.Postprocessor`.
    """


@hookspec
def qadv_detectors() -> Iterable[components.Detector]:
    """Detectors of adversarial inputs.

        import qadv
        from qadv.components import Detector

        @qadv.hookimpl
        def qadv_detectors():
            yield Detector(name="my-detector", target="my_package.detect:Detect", summary="flags high loss")

    The target subclasses ART's `EvasionDetector`.
    """


@hookspec
def qadv_attacks() -> Iterable[components.Attack]:
    """Evasion attacks.

        import qadv
        from qadv.components import Attack

        @qadv.hookimpl
        def qadv_attacks():
            yield Attack(name="my-attack", target="my_package.attack:MyAttack", summary="signed noise, one step")

    The target subclasses `art.attacks.EvasionAttack`, easiest by `qadv.FunctionAttack`, as `examples/own_plugin` does.
    """


@hookspec
def qadv_datasets() -> Iterable[components.Dataset]:
    """Images with labels.

        import qadv
        from qadv.components import Dataset

        @qadv.hookimpl
        def qadv_datasets():
            yield Dataset(name="my-images", target="my_package.data:load", summary="1,000 images, 3x32x32")

    The target is a function `(data_dir=None)` that returns `qadv.datasets.Images`.
    """


@hookspec
def qadv_frontends() -> Iterable[components.Frontend]:
    """Quantized networks of other origins, for everything that asks a network how it is quantized.

        import qadv
        from qadv.components import Frontend

        @qadv.hookimpl
        def qadv_frontends():
            yield Frontend(name="my-toolkit", target="my_package.frontend:MyFrontend", summary="layers of my toolkit")

    The target subclasses `qadv.frontends.NetworkFrontend`; it is made without arguments, once.
    """


@hookspec
def qadv_diagnostics() -> Iterable[components.Diagnostic]:
    """Measurements on a classifier.

        import qadv
        from qadv.components import Diagnostic

        @qadv.hookimpl
        def qadv_diagnostics():
            yield Diagnostic(name="my-measure", target="my_package.measure:measure", summary="mean logit margin")

    The target is a function whose first arguments are the classifier, or several by name, and the images.
    """


@hookspec
def qadv_audit_checks() -> Iterable[components.AuditCheck]:
    """Checks of `qadv.audit`, besides its own eleven: each finds a reason to disbelieve the worst case, or none.

        import qadv
        from qadv.components import AuditCheck

        @qadv.hookimpl
        def qadv_audit_checks():
            yield AuditCheck(name="my-check", target="my_package.check:MyCheck", summary="blur against no blur")

    The target is a class, made without arguments, with texts `name` and `rule` (when it passes) and a method
    `examine(case)` that returns a `qadv.diagnostics.Finding`; `case` is the `qadv.diagnostics.AuditCase`
    that all checks share.
    """
