"""`ToolkitAttack` and `SignatureAttack`: attacks of other torch toolkits as ART attacks."""

from abc import abstractmethod
from collections.abc import Iterable
from inspect import Parameter
from typing import Any, Self

from torch import Tensor, nn

from qadv.attacks.function_attack import FunctionAttack
from qadv.attacks.options import Radius, length
from qadv.errors import InvalidInputError
from qadv.units import Share


class ToolkitAttack(FunctionAttack):
    """A `FunctionAttack` whose function is the method `perturb`, for attacks that keep their options themselves.

        class Noise(qadv.ToolkitAttack):
            attack_params = [*qadv.ToolkitAttack.attack_params, "eps"]

            def __init__(self, estimator, eps=qadv.Share(0.1), batch_size=128, seed=None, verbose=True):
                super().__init__(estimator, batch_size=batch_size, seed=seed, verbose=verbose)
                self.eps = self.in_pixels("eps", eps)
                self._check_params()

            def perturb(self, model, x, y):
                return x + self.in_unit_range(self.eps) * torch.randn_like(x).sign()

    The estimator is an ART `PyTorchClassifier` with `clip_values`; other arguments are those of `FunctionAttack`.
    """

    def run(self, model: nn.Module, x: Tensor, y: Tensor, targeted: bool = False) -> Tensor:
        return self.perturb(model, x, y)

    @abstractmethod
    def perturb(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Returns adversarial versions of one batch, as `x`; what is outside [0, 1] is clipped.

        Args:
            model: the classifier, images in [0, 1] → logits (N, nb_classes), in evaluation mode.
            x: images, (N, *input_shape) float32 in [0, 1], on the classifier's device.
            y: labels, or targets of a targeted attack, (N,) int64.
        """


class SignatureAttack(ToolkitAttack):
    """A `ToolkitAttack` for all attacks of a toolkit: `perturb` is written once, `of` makes a class for each of them.

    class Theirs(qadv.SignatureAttack):
        def perturb(self, model, x, y):
            return self.theirs(model, **self.given())(x, y)

    steps = inspect.Parameter("steps", inspect.Parameter.KEYWORD_ONLY, default=10, annotation=int)
    PGD = Theirs.of("PGD", [steps], theirs=their.PGD)
    PGD(classifier, steps=20).generate(x, y)
    """

    @classmethod
    def of(cls, name: str, options: Iterable[Parameter], **members: Any) -> type[Self]:
        """Makes a subclass; options are keyword arguments, attributes, in `attack_params` and `repr`, and checked.

        Args:
            name: of the class.
            options: its parameters besides those of `ToolkitAttack`, see `FunctionAttack`. A number whose default is a
                `Share` is a length, as is one called `eps`, which is bounded by what two images can differ by.
            members: what else the class has, e.g. `__doc__`, `__module__`.
        """
        shared = {each: option.replace(kind=Parameter.KEYWORD_ONLY) for each, option in ToolkitAttack._options.items()}
        taken = [_as_length(option).replace(kind=Parameter.KEYWORD_ONLY) for option in options]
        if clash := sorted({option.name for option in taken} & set(shared)):
            raise InvalidInputError(
                f"options of {name}: {', '.join(clash)} is an option of every ToolkitAttack; leave it out"
            )
        metaclass: Any = type(cls)
        made: type[Self] = metaclass(name, (cls,), members)
        made._take([*taken, *shared.values()])
        return made


def _as_length(option: Parameter) -> Parameter:
    if option.annotation is option.empty or not (option.name == "eps" or isinstance(option.default, Share)):
        return option
    return option.replace(annotation=length(option.annotation, *([Radius("norm")] if option.name == "eps" else [])))
