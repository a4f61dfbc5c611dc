"""Attacks on ResNet-20: this project against plain ART on a stock Brevitas network, other toolkits, and the floor.

    python benchmarks/attacks.py --data-dir DATA [--attack PGD-20] [--rounds 3] [--nb-test 16] [--engine]

DATA holds CIFAR-10 as .npz files and resnet20-cifar10.safetensors. All contestants of an attack take turns in each
round, on one thread; processor time, medians over the rounds; speed-ups are medians of the ratios within a round.
Networks:

- "qadv": `QuantizedClassifier`, int:4 weights, relu6:4 activations, calibrated; through ART's own attack, and through
  `QueryCoalescer` where the attack works on one sample at a time;
- "unfolded": the same with `fold=False`;
- "rebuilt": ART's attack alone on a plain `PyTorchClassifier` round qadv's `classifier.model`, as attacks make;
- "ART": the same float network with Brevitas's own 4-bit quantizers (per-channel weights, activations of [0, 6]) in a
  plain `PyTorchClassifier`;
- other toolkits: on qadv's network as a torch module.

The floor is what the attack's passes cost on the float network with frozen parameters, at batches of `--nb-test`:
rows sent forward and rows sent backward, counted in a first run of qadv that is not measured, times the cost of one,
measured anew in each round.

`--engine` compares queries instead: the 8-bit network itself, `qadv.accelerate(..., engine="onnxruntime")` of it, and
the float network as an ONNX file in onnxruntime, each × the same floor for its own rows; "outside" is what is not spent
in what answers. The engine's successes are confirmed: attacks for the nearest image move on to where the network
agrees, others are run again on the network where it does not; that time counts, and is "outside". Success is what the
8-bit network itself says, of the float network what that says. A round is a seed: success and distance are the mean
over the seeds, the lowest and the highest.
"""

import copy
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import art.attacks.evasion as art
import brevitas.nn as qnn
import numpy as np
import torch
import typer
from art.estimators.classification import PyTorchClassifier
from brevitas.core.scaling import ScalingImplType
from brevitas.quant import Int8WeightPerChannelFloat, Uint8ActPerTensorFloatMaxInit
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import qadv
from qadv.backbones import create_backbone
from qadv.backbones.float_weights import load_float_weights
from qadv.estimators.attacked import AttackedNetwork
from qadv.postprocessors.softmax import Softmax

MEAN_STD = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
EPS = 4 / 255
SIZES = "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"


@dataclass(frozen=True)
class Case:
    """An attack as each contestant runs it; `one_by_one` ones go through `QueryCoalescer`."""

    name: str
    attack: Callable[[Any], Any]
    one_by_one: bool = False
    probabilities: bool = False
    peers: dict[str, Callable[[nn.Module, Tensor, Tensor], Tensor]] = field(default_factory=dict)


class _Stock(Uint8ActPerTensorFloatMaxInit):
    scaling_impl_type = ScalingImplType.CONST
    max_val = 6.0


def stock_brevitas(model: nn.Module, bits: int = 4, skip_first_last: bool = True) -> nn.Module:
    """Returns the network with Brevitas's own layers and quantizers in place of its convolutions and ReLUs."""
    named = [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    left = (named[0], named[-1]) if skip_first_last else ()
    for name, module in list(model.named_modules()):
        new: nn.Module | None = None
        if isinstance(module, nn.Conv2d) and name not in left:
            new = qnn.QuantConv2d(
                **{size: getattr(module, size) for size in SIZES},
                bias=module.bias is not None,
                weight_quant=Int8WeightPerChannelFloat,
                weight_bit_width=bits,
            )
            new.load_state_dict(module.state_dict(), strict=False)
        elif isinstance(module, nn.ReLU | nn.ReLU6):
            new = qnn.QuantReLU(act_quant=_Stock, bit_width=bits)
        if new is not None:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, new)
    return model.eval()


def chosen(asked: list[str] | None, known: Iterable[str]) -> list[str]:
    """Returns the names asked for, all without any, in the order of those that there are.

    Raises:
        typer.BadParameter: there is no such name.
    """
    known = list(known)
    if unknown := sorted(set(asked or []) - set(known)):
        raise typer.BadParameter(f"no attack {', '.join(unknown)}; there are: {', '.join(known)}")
    return [name for name in known if not asked or name in asked]


class Counter:
    """Counts the rows that go forward and backward through a network."""

    def __init__(self, model: Any) -> None:
        self.forward = self.backward = 0
        self.handles = [model.register_forward_hook(self._count)]

    def _count(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.forward += len(output)
        if output.requires_grad:
            output.register_hook(self._count_backward)

    def _count_backward(self, gradient: Tensor) -> None:
        self.backward += len(gradient)  # of all classes at once, it counts once for each of them
        if torch._C._functorch.is_legacy_batchedtensor(gradient):
            self.backward += len(gradient) * (gradient.shape[-1] - 1)

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


def cases() -> list[Case]:
    quiet = {"verbose": False}
    pgd = {"norm": np.inf, "eps": EPS, "eps_step": EPS / 4, **quiet}
    torchattacks, foolbox, adv_lib = peers()
    return [
        Case("FGSM", partial(art.FastGradientMethod, eps=EPS, batch_size=128), peers={**torchattacks("FGSM", eps=EPS)}),
        Case(
            "PGD-20",
            partial(art.ProjectedGradientDescent, max_iter=20, batch_size=128, **pgd),
            peers={
                **torchattacks("PGD", eps=EPS, alpha=EPS / 4, steps=20, random_start=False),
                **foolbox("LinfPGD", epsilon=EPS, abs_stepsize=EPS / 4, steps=20, random_start=False),
                **adv_lib("pgd_linf", ε=EPS, steps=20, absolute_step_size=EPS / 4, random_init=False),
            },
        ),
        Case(
            "MIM-20",
            partial(art.MomentumIterativeMethod, max_iter=20, decay=1.0, batch_size=128, **pgd),
            peers=torchattacks("MIFGSM", eps=EPS, alpha=EPS / 4, steps=20, decay=1.0),
        ),
        Case(
            "APGD-20",
            partial(art.AutoProjectedGradientDescent, max_iter=20, nb_random_init=1, batch_size=128, **pgd),
            peers=torchattacks("APGD", norm="Linf", eps=EPS, steps=20, n_restarts=1),
        ),
        Case(
            "C&W-L2",
            partial(art.CarliniL2Method, binary_search_steps=1, max_iter=20, initial_const=1.0, batch_size=1, **quiet),
            one_by_one=True,
            peers={
                **torchattacks("CW", c=1.0, steps=20, lr=0.01),
                **foolbox("L2CarliniWagnerAttack", epsilon=None, binary_search_steps=1, steps=20, initial_const=1.0),
            },
        ),
        Case(
            "DeepFool",
            partial(art.DeepFool, max_iter=20, nb_grads=10, batch_size=1, **quiet),
            one_by_one=True,
            peers={**torchattacks("DeepFool", steps=20), **foolbox("L2DeepFoolAttack", epsilon=None, steps=20)},
        ),
        Case(
            "DDN-50",
            partial(qadv.DDN, max_iter=50, **quiet),
            peers={**foolbox("DDNAttack", epsilon=None, steps=50), **adv_lib("ddn", steps=50)},
        ),
        Case("SPSA", partial(qadv.SPSA, eps=EPS, max_iter=5, nb_samples=32, early_stop=True, seed=0, **quiet)),
        Case("N-Attack", partial(qadv.NAttack, eps=EPS, max_iter=3, nb_samples=50, seed=0, **quiet)),
        Case(
            "Square",
            partial(art.SquareAttack, eps=EPS, max_iter=50, batch_size=128, **quiet),
            peers=torchattacks("Square", norm="Linf", eps=EPS, n_queries=50, n_restarts=1),
        ),
        Case("ZOO", partial(art.ZooAttack, max_iter=4, binary_search_steps=1, use_resize=False, use_importance=False,
                            nb_parallel=16, batch_size=1, **quiet), one_by_one=True),
        Case("Boundary", partial(art.BoundaryAttack, targeted=False, max_iter=15, init_size=50, **quiet),
             one_by_one=True),
        Case("HopSkipJump", partial(art.HopSkipJump, max_iter=2, init_eval=10, max_eval=50, init_size=50, **quiet),
             one_by_one=True),
        Case("SignOPT", partial(art.SignOPTAttack, targeted=False, max_iter=2, num_trial=10, k=10, query_limit=200,
                                **quiet), one_by_one=True),
        Case("SimBA", partial(art.SimBA, attack="px", max_iter=60, epsilon=0.2, **quiet), one_by_one=True,
             probabilities=True),
    ]  # fmt: skip


def peers() -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """Returns, for each other toolkit, a function that gives its attack by name, or nothing if it is not installed."""

    def of_torchattacks(name: str, **options: Any) -> dict[str, Any]:
        if importlib.util.find_spec("torchattacks") is None:
            return {}
        import torchattacks

        return {"torchattacks": lambda model, x, y: getattr(torchattacks, name)(model, **options)(x, y)}

    def of_foolbox(name: str, epsilon: float | None, **options: Any) -> dict[str, Any]:
        if importlib.util.find_spec("foolbox") is None:
            return {}
        import foolbox

        def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
            attack = getattr(foolbox.attacks, name)(**options)
            return attack(wrapped, x, y, epsilons=epsilon)[1]

        return {"Foolbox": run}

    def of_adv_lib(name: str, **options: Any) -> dict[str, Any]:
        if importlib.util.find_spec("adv_lib") is None:
            return {}
        from adv_lib import attacks

        return {"adv-lib": lambda model, x, y: getattr(attacks, name)(model, x, y, **options)}

    return of_torchattacks, of_foolbox, of_adv_lib


class Timed:
    """Measures the processor time that a network takes, and the rows that it is asked about."""

    def __init__(self, model: nn.Module) -> None:
        self.rows, self.seconds, self.model, self.asked = 0, 0.0, model, model.forward
        model.forward = self._timed

    def _timed(self, x: Tensor) -> Tensor:
        started = time.process_time()
        found: Tensor = self.asked(x)
        self.seconds, self.rows = self.seconds + time.process_time() - started, self.rows + len(x)
        return found

    def remove(self) -> None:
        del self.model.forward


_QUERIES = ("ZOO", "Boundary", "Square", "SPSA", "N-Attack", "SignOPT", "SimBA", "HopSkipJump")


def resnet20(data_dir: Path, bits: int) -> tuple[Any, nn.Module, Any]:
    """Returns CIFAR-10, the trained float network, and a classifier that has it quantized with calibration."""
    data = qadv.create("dataset", "cifar10", data_dir=data_dir)
    checkpoint = data_dir / "resnet20-cifar10.safetensors"
    float_net = create_backbone("resnet20", nb_classes=10, in_channels=3)
    load_float_weights(float_net, checkpoint)
    ours = qadv.QuantizedClassifier.from_backbone(
        "resnet20", f"int:{bits}", f"relu6:{bits}", checkpoint_path=checkpoint, preprocessing=MEAN_STD,
        calibration=data.x_train[:256],
    )  # fmt: skip
    return data, float_net, ours


def compare_engines(data_dir: Path, wanted: list[Case], nb_samples: int, rounds: int) -> Table:
    """Times query attacks by who answers."""
    data, float_net, ours = resnet20(data_dir, bits=8)
    settings: dict[str, Any] = {"input_shape": (3, 32, 32), "nb_classes": 10, "preprocessing": MEAN_STD}
    fast = qadv.accelerate(ours, data.x_train[:256], fold_batch_norm=False, channels_last=False, engine="onnxruntime")
    print(fast, flush=True)
    plain = qadv.QuantizedClassifier(copy.deepcopy(float_net), nn.CrossEntropyLoss(), **settings)
    with tempfile.TemporaryDirectory() as folder:
        qadv.export(plain, Path(folder) / "float.onnx", to="qcdq")
        file = qadv.QuantizedClassifier.from_file(Path(folder) / "float.onnx", (3, 32, 32))
    networks = {"8 bit": ours, "8 bit, onnxruntime": fast, "float, onnxruntime": file}
    images, labels = data.x_test[:500], data.y_test[:500]
    right = np.logical_and.reduce([each.predict(images).argmax(1) == labels for each in networks.values()])
    x, y = images[right][:nb_samples], labels[right][:nb_samples]
    one_hot = np.eye(10, dtype=np.float32)[y]
    floor_net = copy.deepcopy(float_net).eval().requires_grad_(False)
    table = Table(
        "attack", "rows forward", "× floor", "of which outside", "success", "mean L2", title=", ".join(networks)
    )
    for case in wanted:
        ratios: dict[str, list[float]] = {name: [] for name in networks}
        scores: dict[str, list[tuple[float, float]]] = {name: [] for name in networks}
        outside, rows = {}, {}
        for round_ in range(rounds):
            (forward, _) = cost_of_a_row(floor_net, torch.from_numpy(x))
            for name, classifier in networks.items():
                np.random.seed(round_)
                torch.manual_seed(round_)
                own = {**settings, "preprocessing": (0.0, 1.0)} if classifier is file else settings
                asked = qadv.QuantizedClassifier(
                    classifier.model, classifier.loss, probabilities=case.probabilities, **own
                )
                model, within = Timed(classifier.model), time.process_time()
                if classifier is fast and not case.one_by_one:
                    found = fast.confirmed_run(partial(_made, case, seed=round_), x, one_hot)
                else:
                    found = _by_qadv(case, asked, x, one_hot, seed=round_)
                    found = fast.confirmed(x, found, y) if classifier is fast else found
                taken = time.process_time() - within
                model.remove()
                ratios[name].append(taken / (model.rows * forward))
                outside[name], rows[name] = 1 - model.seconds / taken, model.rows
                scores[name].append(score(file if classifier is file else ours, x, found, y))
        table.add_row(
            case.name, *(", ".join(form.format(each[n]) for n in networks) for form, each in (
                ("{:,}", rows), ("{:.2f}", {n: statistics.median(r) for n, r in ratios.items()}), ("{:.0%}", outside),
                ("{}", {n: spread("{:.0%}", [each[0] for each in s]) for n, s in scores.items()}),
                ("{}", {n: spread("{:.3f}", [each[1] for each in s]) for n, s in scores.items()}),
            )),
        )  # fmt: skip
        print(f"{case.name}: done; outside {outside}, × floor {ratios}", flush=True)
    return table


def spread(form: str, values: list[float]) -> str:
    """Returns the mean, and from where to where the values go, of those that there are."""
    there = [value for value in values if not np.isnan(value)]
    return f"{form} ({form} to {form})".format(statistics.mean(there), min(there), max(there)) if there else "–"


class Standardised(nn.Module):
    """What other toolkits attack: images in [0, 1] in."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        for name, value in zip(("mean", "std"), MEAN_STD, strict=True):
            self.register_buffer(name, torch.tensor(value).reshape(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network((x - self.mean) / self.std)
        return logits


def cost_of_a_row(model: nn.Module, x: Tensor, rounds: int = 7) -> tuple[float, float]:
    """Returns the seconds that one row takes forward, and backward to the images, on the float network."""
    forward, backward = [], []
    for _ in range(rounds):
        leaf = x.clone().requires_grad_()
        started = time.process_time()
        with torch.no_grad():
            model(x)
        between = time.process_time()
        torch.autograd.grad(model(leaf).sum(), leaf)
        forward.append(between - started)
        backward.append(time.process_time() - between - forward[-1])
    return statistics.median(forward) / len(x), statistics.median(backward) / len(x)


def main(
    data_dir: Annotated[Path, typer.Option(help="folder with CIFAR-10 and the float network")],
    attack: Annotated[list[str] | None, typer.Option(help="attacks to run; all without it")] = None,
    nb_test: Annotated[int, typer.Option(help="images attacked")] = 16,
    rounds: Annotated[int, typer.Option(help="interleaved rounds")] = 3,
    engine: Annotated[bool, typer.Option(help="compare who answers the queries of an 8-bit network")] = False,
) -> None:
    by_name = {case.name: case for case in cases() if not engine or case.name in _QUERIES}
    wanted = [by_name[name] for name in chosen(attack, by_name)]
    torch.set_num_threads(1)
    if engine:
        Console(width=170).print(compare_engines(data_dir, wanted, nb_test, rounds))
        return
    data, float_net, ours = resnet20(data_dir, bits=4)
    settings: dict[str, Any] = {"input_shape": (3, 32, 32), "nb_classes": 10, "preprocessing": MEAN_STD}
    settings["clip_values"] = (0.0, 1.0)
    # without the cast to float32 HopSkipJump and Boundary fail in ART with NumPy 2
    stock_net = AttackedNetwork(stock_brevitas(copy.deepcopy(float_net)))
    stock = PyTorchClassifier(model=stock_net, loss=nn.CrossEntropyLoss(), **settings)
    likely = qadv.QuantizedClassifier(ours.model, ours.loss, **settings, probabilities=True)
    stock_likely = PyTorchClassifier(
        model=stock.model, loss=nn.CrossEntropyLoss(), **settings, postprocessing_defences=Softmax()
    )
    unfolded = qadv.QuantizedClassifier(ours.model, ours.loss, **settings, fold=False)
    unfolded_likely = qadv.QuantizedClassifier(unfolded.model, ours.loss, **settings, probabilities=True)
    rebuilt, rebuilt_likely = (
        PyTorchClassifier(model=ours.model, loss=nn.CrossEntropyLoss(), **settings, postprocessing_defences=defence)
        for defence in (None, Softmax())
    )
    floor_net = copy.deepcopy(float_net).eval().requires_grad_(False)
    module = Standardised(ours.model).eval()

    images = data.x_test[:500]
    right = (ours.predict(images).argmax(1) == data.y_test[:500]) & (
        stock.predict(images).argmax(1) == data.y_test[:500]
    )
    x, y = images[right][:nb_test], data.y_test[:500][right][:nb_test]
    one_hot = np.eye(10, dtype=np.float32)[y]
    tensors = torch.from_numpy(x), torch.from_numpy(y)
    table = Table(
        "attack", "rows forward", "backward", "floor, s", "qadv, unfolded, rebuilt, ART: × floor",
        "qadv, unfolded: faster than ART by", "success: the same four", "mean L2: the same four",
        "others, × their floor", title=f"{nb_test} images, {rounds} rounds, one thread",
    )  # fmt: skip
    for case in wanted:
        contestants: dict[str, Callable[[], Any]] = {
            "qadv": partial(_by_qadv, case, likely if case.probabilities else ours, x, one_hot),
            "unfolded": partial(_by_qadv, case, unfolded_likely if case.probabilities else unfolded, x, one_hot),
            "rebuilt": partial(_by_art, case, rebuilt_likely if case.probabilities else rebuilt, x, one_hot),
            "ART": partial(_by_art, case, stock_likely if case.probabilities else stock, x, one_hot),
        }
        for name, peer in case.peers.items():
            contestants[name] = partial(peer, module, *tensors)
        if case.one_by_one:
            del contestants["rebuilt"]  # another attack, without `QueryCoalescer`
        times: dict[str, list[float]] = {name: [] for name in contestants}
        costs: list[tuple[float, float]] = []
        results, passes = {}, {}
        counted = {"ART": stock_net, "unfolded": unfolded.model}
        for name, run in contestants.items():  # once unmeasured, as rows are counted
            np.random.seed(0)
            torch.manual_seed(0)
            counter = Counter(counted.get(name, ours.model))
            run()
            counter.remove()
            passes[name] = counter.forward, counter.backward
        for round_ in range(rounds):
            costs.append(cost_of_a_row(floor_net, tensors[0]))
            for name, run in contestants.items():
                cost_of_a_row(counted.get(name, ours.model), tensors[0], rounds=3)  # as warm as the floor's network was
                np.random.seed(round_)
                torch.manual_seed(round_)
                started = time.process_time()
                result = run()
                times[name].append(time.process_time() - started)
                results[name] = result.detach().numpy() if isinstance(result, Tensor) else result
        forward_cost, backward_cost = (statistics.median(cost) for cost in zip(*costs, strict=True))
        floors = {n: f * forward_cost + b * backward_cost for n, (f, b) in passes.items()}
        ratios = {n: statistics.median(t) / floors[n] for n, t in times.items()}
        four = [name for name in ("qadv", "unfolded", "rebuilt", "ART") if name in contestants]
        faster = [statistics.median(a / b for a, b in zip(times["ART"], times[name], strict=True)) for name in four[:2]]
        scores = [score(stock if n == "ART" else ours, x, np.asarray(results[n], np.float32), y) for n in four]
        others = [f"{n} {ratios[n]:.2f} ({statistics.median(times[n]):.2f} s)" for n in case.peers]
        table.add_row(
            case.name, *(f"{count:,}" for count in passes["qadv"]), f"{floors['qadv']:.2f}",
            ", ".join(f"{statistics.median(times[n]) / floors['qadv']:.2f}" for n in four),
            ", ".join(f"{ratio:.2f}" for ratio in faster), ", ".join(f"{score[0]:.0%}" for score in scores),
            ", ".join(f"{score[1]:.3f}" for score in scores), ", ".join(others),
        )  # fmt: skip
        milliseconds = f"{1e3 * forward_cost:.2f} ms forward, {1e3 * backward_cost:.2f} ms backward"
        print(f"{case.name}: done; a row of the float network takes {milliseconds}", flush=True)
    Console(width=170).print(table)


def _by_art(case: Case, classifier: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return case.attack(classifier).generate(x, y)


def _by_qadv(case: Case, classifier: Any, x: np.ndarray, y: np.ndarray, seed: int = 0) -> np.ndarray:
    return _made(case, classifier, seed).generate(x, y)


def _made(case: Case, classifier: Any, seed: int) -> Any:
    attack = case.attack(classifier)
    if "seed" in attack.attack_params:
        attack.set_params(seed=seed)
    return qadv.QueryCoalescer(attack, seed=seed, verbose=False) if case.one_by_one else attack


def score(classifier: Any, x: np.ndarray, adversarial: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Returns the success rate, and the mean L2 distance of the successful ones."""
    broken = classifier.predict(adversarial).argmax(1) != y
    distance = np.linalg.norm((adversarial - x).reshape(len(x), -1), axis=1)
    return float(broken.mean()), float(distance[broken].mean()) if broken.any() else float("nan")


if __name__ == "__main__":
    typer.run(main)
