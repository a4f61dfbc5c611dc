"""The network that a classifier attacks and trains: the user's own, held by a module that changes nothing about it."""

import threading
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from qadv.derivatives import is_recorded
from qadv.errors import UnsupportedModelError
from qadv.frontends.find import form_of, frontend_of
from qadv.frontends.frontend import EvaluationForm
from qadv.frontends.twins import TwinForm, value_without_gradient
from qadv.modes import Kinds, Modes, is_exported, set_mode
from qadv.network_lock import lock_of
from qadv.outputs import logits_of
from qadv.quantization.form import Form, FormOptions
from qadv.quantization.stand_ins import NoFormError

_OWN = ("_network", "_form", "_joined", "_kinds", "_mine", "_surrogate", "_modes")


class AttackedNetwork(nn.Module):
    """Holds a network and stands for it: same parts, parameters, state dict, names, attributes and indexing.

    What attacks rely on and the network does not do lives here, so that it is there as well in a plain
    `PyTorchClassifier` that ART rebuilds from `classifier.model`: images of float64 and float16, which some attacks
    make, become float32; in evaluation mode the network's form computes what it does. The network itself gets no hook,
    no flag and no attribute.

    Args:
        network: the user's network; an `AttackedNetwork` is not held again, see `of`.
        options: how the arithmetic is done in evaluation mode; the default is the network's own to the bit.
        surrogate: gives the gradients in evaluation mode, images (N, …) → logits; `None` for the network's own.
    """

    _form: EvaluationForm | None
    _network: nn.Module
    _surrogate: nn.Module | None

    def __init__(
        self,
        network: nn.Module,
        options: FormOptions = FormOptions(),  # noqa: B008  (frozen)
        surrogate: nn.Module | None = None,
    ) -> None:
        joined = None if surrogate is None else TwinForm(self.evaluated, surrogate, options, name="the surrogate's")
        vars(self).update(_network=network, _surrogate=surrogate, _form=form_of(network, options), _joined=joined)
        vars(self).update(_modes=Modes(network), _kinds=Kinds(network))
        super().__init__()
        vars(self).update({name: vars(network)[name] for name in ("_modules", "_parameters", "_buffers")})
        vars(self)["_mine"] = frozenset(vars(self))

    @classmethod
    def of(cls, model: nn.Module) -> "AttackedNetwork":
        """Returns `model` itself if it is one already."""
        return model if isinstance(model, cls) else cls(model)

    @property
    def held_network(self) -> nn.Module:
        """The network that is held."""
        return self._network

    @property
    def surrogate_network(self) -> nn.Module | None:
        """The network whose gradients are taken, `None` for its own."""
        return self._surrogate

    @property
    def computes_itself(self) -> bool:
        """Whether values and gradients come from two networks, which a network that this is a part of has to keep."""
        return self.surrogate_network is not None or not isinstance(self.form, Form)

    @property
    def twin_form(self) -> TwinForm | None:
        """What joins values of one network with gradients of another, `None` where both are the network's own."""
        form = self._joined or self.form
        return form if isinstance(form, TwinForm) else None

    @property
    def gradients_of(self) -> str:
        """Whose gradients are taken, in words, "" for the network's own."""
        return "" if self.twin_form is None else self.twin_form.gradients_of

    @property
    def form_options(self) -> FormOptions:
        """How the arithmetic is done in evaluation mode."""
        return self.form.options

    @property
    def form(self) -> EvaluationForm:
        """What computes the network in evaluation mode, made anew where its layers have become others in place.

        A network that can't be attacked in the state that it is in now is an `UnsupportedModelError`.
        """
        if self._kinds.changed():
            self._form = None
        if self._form is None:
            self._refuse()
            self._form = form_of(self.held_network, FormOptions())
        return self._form

    def _refuse(self) -> None:
        """Raises an `UnsupportedModelError` for a network that would change when it is asked, as observers do."""
        if objection := frontend_of(self.held_network).objection(self.held_network):
            raise UnsupportedModelError(objection)

    def compute_by(self, form: EvaluationForm) -> None:
        """Takes another form of the network for evaluation mode."""
        self._form = form

    def forward(self, x: Any) -> Any:
        """Images (N, …) → logits (N, classes); float64 and float16 become float32. Threads pass one by one."""
        network = self.held_network
        if isinstance(x, Tensor) and x.dtype in (torch.float64, torch.float16):  # bfloat16 is left to autocast
            x = x.float()
        if torch.compiler.is_compiling():
            return logits_of(network(x))
        lock = lock_of(network)
        with lock:
            if not self.training:
                return self._evaluated_logits(x)
            if torch.is_grad_enabled():
                lock.trained_by = weakref.ref(threading.current_thread())
            return logits_of(network(x))

    def evaluated(self, x: Any, method: str = "__call__") -> Any:
        """What the network's form gives for images, by this method; the network itself where only that can answer."""
        with lock_of(self.held_network):
            try:
                return self.form(x, method)
            except NoFormError:
                self._refuse()
                return getattr(self.held_network, method)(x)

    def _evaluated_logits(self, x: Any) -> Tensor:
        """What `evaluated` gives, with the gradients of the surrogate if there is one."""
        if self._joined is not None and isinstance(x, Tensor) and is_recorded(x):
            return logits_of(self._joined(x))
        logits = logits_of(self.evaluated(x))
        asked = torch.is_grad_enabled() and isinstance(x, Tensor) and x.requires_grad
        return logits if logits.requires_grad or not asked else value_without_gradient(logits, x)

    @property
    def training(self) -> bool:
        """The network's own mode; an exported graph is only evaluated."""
        return self.held_network.training and not is_exported(self.held_network)

    @training.setter
    def training(self, mode: bool) -> None:
        if "_mine" in vars(self):  # else torch sets up this module, which has no say about the network
            self.held_network.training = mode

    def train(self, mode: bool = True) -> "AttackedNetwork":
        with lock_of(self.held_network):  # else an answer that is under way would be one in another mode
            if not self._modes.are(mode):  # quicker to see in a network of many modules
                set_mode(self.held_network, mode)
        return self

    def named_modules(self, *args: Any, **kwargs: Any) -> Any:
        return self.held_network.named_modules(*args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.held_network.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.held_network.load_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.held_network._load_from_state_dict(*args, **kwargs)

    def _apply(self, *args: Any, **kwargs: Any) -> "AttackedNetwork":
        for network in (self.held_network, self.surrogate_network):
            if network is not None:
                network._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        return self

    def extra_repr(self) -> str:
        return self.held_network.extra_repr()

    def __repr__(self) -> str:
        return repr(self.held_network)

    def __getattr__(self, name: str) -> Any:
        # a copy that is not set up yet, or what Python asks of this object: how it is copied, not the network in it
        if name in _OWN or (name.startswith("__") and name.endswith("__")):
            raise AttributeError(name)
        return getattr(self.held_network, name)

    def __setattr__(self, name: str, value: Any) -> None:
        # a forward that is set here, round the one that was here, is called where this one was; a class is this one's
        if name in ("training", "forward", "__class__") or name in vars(self).get("_mine", (name,)):
            object.__setattr__(self, name, value)
        else:
            setattr(self.held_network, name, value)

    def __delattr__(self, name: str) -> None:
        if name in vars(self):
            object.__delattr__(self, name)
        else:
            delattr(self.held_network, name)

    def __dir__(self) -> Any:
        return sorted({*dir(type(self)), *dir(self.held_network)})

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        return len(self.held_network)  # type: ignore[arg-type]

    def __getitem__(self, index: Any) -> Any:
        return self.held_network[index]  # type: ignore[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.held_network)  # type: ignore[call-overload,no-any-return]

    def __reduce__(self) -> Any:
        return AttackedNetwork, (self.held_network, self.form_options, self.surrogate_network)


def gradients_of(model: nn.Module) -> str:
    """Returns whose gradients attacks on a network follow, in words; "" for its own.

    What the network itself takes from another comes first, then what parts of it take, as an ensemble's members.
    """
    own = getattr(model, "gradients_of", "")
    # `modules()` leaves out what holds a network
    return own or ", ".join(dict.fromkeys(filter(None, map(gradients_of, model.children()))))
