"""Does a GPU compute what the CPU computes, how fast, and how often is it waited for? Prints one JSON.

    python benchmarks/gpu.py [--wheels DIR] [--out FILE] [--data FILE] [--minutes 8] [--device cpu] [--small]

For a machine that has torch, timm and scikit-learn and can fetch nothing else: `--wheels` is a folder of wheels that
are unpacked into a temporary folder first, with those packages that are missing (`--missing` prints the command that
fetches them). Images are scikit-learn's digits, enlarged to 3 × 32 × 32 (with `--small` they are 3 × 8 × 8), or
CIFAR-10 from `--data`, one .npz file with `x` (N, 3, 32, 32) uint8 and `y`. The network is ResNet-20, trained for one
epoch.

Sections, each written to `--out` when it is finished; what does not fit into `--minutes` is null:

- `agreement`: for every weight and activation scheme, CPU against GPU: share of images with equal logits, gradients
  (within 1e-3 of their largest value) and classes, and of pixels of PGD images that are equal. An activation on a
  rounding threshold may fall on either side.
- `passes`: images per second, forward and forward with the images' gradient, of the 4-bit network and its float twin.
- `waits`: times that the CPU waits for the device in one pass, as `torch.cuda.set_sync_debug_mode` sees them.
- `trainers`: seconds of an epoch over those of a bare loop that makes the same passes, by mixed precision and memory
  format.
- `torchrun`: one process that talks through nccl ends with the weights of one without.
"""

# ruff: noqa: E402
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
# what qadv imports, by the name of its distribution
NEEDED = {
    "art": "adversarial-robustness-toolbox", "brevitas": "brevitas", "dependencies": "dependencies", "pluggy": "pluggy",
    "pydantic": "pydantic", "pydantic_core": "pydantic-core", "annotated_types": "annotated-types", "rich": "rich",
    "typing_inspection": "typing-inspection", "typer": "typer", "six": "six", "tqdm": "tqdm", "sympy": "sympy",
    "safetensors": "safetensors", "matplotlib": "matplotlib", "packaging": "packaging", "unfoldNd": "unfoldNd",
    "cycler": "cycler", "kiwisolver": "kiwisolver", "pyparsing": "pyparsing", "dateutil": "python-dateutil",
    "contourpy": "contourpy", "fontTools": "fonttools", "PIL": "pillow", "markdown_it": "markdown-it-py",
    "mdurl": "mdurl", "pygments": "pygments", "shellingham": "shellingham", "click": "click", "jinja2": "jinja2",
    "annotated_doc": "annotated-doc",
}  # fmt: skip

if __name__ == "__main__":  # before anything is imported that may be missing
    if "--missing" in sys.argv:
        lacking = [name for module, name in NEEDED.items() if importlib.util.find_spec(module) is None]
        version = f"--python-version {sys.version_info.major}.{sys.version_info.minor}"
        print(f"python -m pip download {version} --only-binary :all: --no-deps -d wheels {' '.join(lacking)}")
        sys.exit()
    sys.path.insert(0, str(HERE.parents[1]))
    if "--wheels" in sys.argv:
        folder = tempfile.TemporaryDirectory(prefix="qadv-wheels-")
        for wheel in Path(sys.argv[sys.argv.index("--wheels") + 1]).glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(folder.name)
        os.environ["QADV_GPU_WHEELS"] = folder.name  # for the process of torchrun
    sys.path += filter(None, [os.environ.get("QADV_GPU_WHEELS")])  # last: what the machine has goes first

import numpy as np
import torch
from art.attacks.evasion import ProjectedGradientDescent
from torch import Tensor, nn

import qadv

WEIGHTS = [
    "float", "int:8", "int:4", "int:2", "int-per-tensor:4", "bwn", "twn", "binary-connect", "binary-net", "dorefa:1",
    "dorefa:4", "pow2:4", "pwlq:4", "sq(twn)",
]  # fmt: skip
ACTIVATIONS = [
    "float", "relu6:8", "relu6:4", "relu6:2", "relu6:1", "relu1:4", "relu:4", "pact:4", "dorefa:4", "tanh:4",
    "binary-net",
]  # fmt: skip
EPS = 8 / 255
PGD = {"eps": EPS, "eps_step": EPS / 4, "max_iter": 3, "verbose": False}
Arrays = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def images(data: str | None, count: int, small: bool) -> Arrays:
    """Returns images (N, 3, 32, 32), if small (N, 3, 8, 8), in [0, 1] and labels (N,)."""
    if data is not None:
        with np.load(data) as file:
            return file["x"][:count].astype(np.float32) / 255, file["y"][:count].astype(np.int64)
    digits = qadv.create("dataset", "digits")
    x = np.resize(digits.x_train, (count, *digits.x_train.shape[1:]))
    scale = 1 if small else 4
    return np.repeat(x.repeat(scale, axis=2).repeat(scale, axis=3), 3, axis=1), np.resize(digits.y_train, count)


def classifier_of(weights: str, activations: str, device: str, x: Any, state: Any = None) -> qadv.QuantizedClassifier:
    torch.manual_seed(0)
    network = qadv.create("backbone", "resnet20", nb_classes=10)
    if state is not None:
        network.load_state_dict(state)
    if (weights, activations) != ("float", "float"):
        network = qadv.quantize(network, weights, activations, calibration=x[:32])
    return qadv.QuantizedClassifier(
        network, nn.CrossEntropyLoss(), x.shape[1:], 10, device_type="cpu" if device == "cpu" else "gpu"
    )


def agreement(device: str, x: Any, y: Any, state: Any, left: Callable[[], bool], small: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    schemes = [(scheme, "relu6:4") for scheme in WEIGHTS] + [("int:4", scheme) for scheme in ACTIVATIONS]
    for weights, activations in schemes[:: 10 if small else 1]:
        found[f"{weights} {activations}"] = None
        if not left():
            continue
        both = [classifier_of(weights, activations, each, x, state) for each in ("cpu", device)]
        logits = [each.predict(x) for each in both]
        gradients = [each.loss_gradient(x, np.eye(10, dtype=np.float32)[y]) for each in both]
        adversarial = [ProjectedGradientDescent(each, **PGD).generate(x, y) for each in both]
        found[f"{weights} {activations}"] = {
            "logits_equal": share_equal(logits[0], logits[1]),
            "gradients_equal": share_equal(gradients[0], gradients[1]),
            "classes_equal": float((logits[0].argmax(1) == logits[1].argmax(1)).mean()),
            "pgd_pixels_equal": float((np.abs(adversarial[0] - adversarial[1]) < 1e-6).mean()),
        }
    return found


def share_equal(a: Any, b: Any, bound: float = 1e-3) -> float:
    """Returns the share of rows whose largest difference is within `bound` of their largest value."""
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    return float((np.abs(a - b).max(axis=1) <= bound * np.maximum(np.abs(a).max(axis=1), 1e-12)).mean())


def wait_for(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def seconds(run: Callable[[], Any], device: str, repeats: int) -> float:
    """Returns the median time of one call, after two that warm up."""
    times = []
    for number in range(repeats + 2):
        wait_for(device)
        started = time.perf_counter()
        run()
        wait_for(device)
        if number > 1:
            times.append(time.perf_counter() - started)
    return statistics.median(times)


def pass_of(module: nn.Module, x: Tensor, backward: bool) -> Callable[[], Any]:
    def forward() -> Any:
        with torch.no_grad():
            return module(x)

    def gradient() -> Any:
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(module(leaf).sum(), leaf)

    return gradient if backward else forward


def passes(device: str, x: Any, state: Any, batches: list[int], repeats: int) -> dict[str, Any]:
    modules = {
        name: qadv.as_module(classifier_of(*schemes, device, x, state))
        for name, schemes in {"float": ("float", "float"), "4 bit": ("int:4", "relu6:4")}.items()
    }
    found: dict[str, Any] = {}
    for batch in batches:
        rows = torch.from_numpy(np.resize(x, (batch, *x.shape[1:]))).to(device)
        for kind, backward in (("forward", False), ("gradient", True)):
            rate = {
                name: batch / seconds(pass_of(module, rows, backward), device, repeats)
                for name, module in modules.items()
            }
            found[f"{kind}, batch {batch}"] = {**rate, "float time / 4-bit time": rate["4 bit"] / rate["float"]}
    return found


def waits(device: str, x: Any, state: Any) -> dict[str, Any]:
    """Returns how often the CPU waits for the device in one pass of the 4-bit network; `None` on a CPU."""
    module = qadv.as_module(classifier_of("int:4", "relu6:4", device, x, state))
    rows = torch.from_numpy(x[:16]).to(device)
    found: dict[str, Any] = {}
    for kind, backward in (("forward", False), ("gradient", True)):
        run = pass_of(module, rows, backward)
        run()
        found[kind] = None
        if device != "cpu":
            torch.cuda.set_sync_debug_mode("warn")
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                run()
            torch.cuda.set_sync_debug_mode("default")
            said = [str(each.message) for each in caught]
            found[kind] = sum("synchroniz" in text for text in said)
    return found


def bare_loop(
    model: nn.Module, x: Tensor, y: Tensor, batch_size: int, steps: int, paired: bool, amp: bool, channels_last: bool
) -> None:
    """One epoch with `steps` passes of the images' gradients for each batch, in evaluation mode."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    if channels_last:
        model.to(memory_format=torch.channels_last)

    def logits(rows: Tensor) -> Tensor:
        if channels_last:
            rows = rows.contiguous(memory_format=torch.channels_last)
        with torch.autocast(rows.device.type, torch.bfloat16, enabled=amp):
            out: Tensor = model(rows)
        return out.float()

    order = torch.randperm(len(x), device=x.device)
    for start in range(0, len(x), batch_size):
        chosen = order[start : start + batch_size]
        rows, labels = x[chosen], y[chosen]
        adversarial = rows
        model.eval().requires_grad_(False)
        for _ in range(steps):
            leaf = adversarial.detach().requires_grad_()
            (slope,) = torch.autograd.grad(nn.functional.cross_entropy(logits(leaf), labels), leaf)
            adversarial = (adversarial + EPS / 4 * slope.sign()).clamp(rows - EPS, rows + EPS).clamp(0, 1)
        model.train().requires_grad_(True)
        optimizer.zero_grad(set_to_none=True)
        answers = logits(rows if paired else adversarial)
        loss = nn.functional.cross_entropy(answers, labels)
        if paired:
            loss = loss + ((logits(adversarial) - answers).norm(dim=1) / answers.norm(dim=1)).mean()
        loss.backward()
        optimizer.step()


# what makes a trainer, the gradient steps on images in its bare loop, and whether that pairs clean and attacked images
TRAINERS: dict[str, tuple[Callable[..., Any], int, bool]] = {
    "vanilla": (lambda c, **o: qadv.DefensiveQuantTrainer(c, beta=0.0, **o), 0, False),
    "dq": (lambda c, **o: qadv.DefensiveQuantTrainer(c, **o), 0, False),
    "r-fgsm": (lambda c, **o: qadv.AdversarialQuantTrainer(c, "r-fgsm", eps=EPS, **o), 1, False),
    "pgd": (lambda c, **o: qadv.AdversarialQuantTrainer(c, **{**PGD, **o}), 3, False),
    "eq": (lambda c, **o: qadv.ErrorSilencedTrainer(c, **{**PGD, **o}), 3, True),
}


def trainers(device: str, x: Any, y: Any, state: Any, left: Callable[[], bool], small: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    batch_size = 16 if small else 256
    for amp in (False, True):
        for channels_last in (False, True):
            for name, (make, steps, paired) in TRAINERS.items():
                if small and (amp, channels_last, name) not in ((False, False, "vanilla"), (True, True, "r-fgsm")):
                    continue
                label = f"{name}{', bf16' if amp else ''}{', channels last' if channels_last else ''}"
                found[label] = None
                if not left():
                    continue
                classifier = classifier_of("int:4", "relu6:4", device, x, state)
                network = classifier_of("int:4", "relu6:4", device, x, state).network
                trainer = make(classifier, lr=0.01, amp=amp, channels_last=channels_last, verbose=False)
                tensors = torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)
                mine: list[float] = []
                bare: list[float] = []
                for _ in range(3):  # in turns; the first one warms up
                    for times, run in (
                        (mine, lambda: trainer.fit(x, y, nb_epochs=1, batch_size=batch_size)),  # noqa: B023
                        (bare, lambda: bare_loop(network, *tensors, batch_size, steps, paired, amp, channels_last)),  # noqa: B023
                    ):
                        wait_for(device)
                        started = time.perf_counter()
                        run()
                        wait_for(device)
                        times.append(time.perf_counter() - started)
                ratio = statistics.median(m / b for m, b in zip(mine[1:], bare[1:], strict=True))
                found[label] = {"seconds": statistics.median(mine[1:]), "over bare loop": ratio}
    return found


def trained_weights(device: str) -> list[float]:
    """Trains on a few images and returns the mean of each parameter's values; torchrun runs this too."""
    x, y = images(None, 32, small=True)
    classifier = classifier_of("int:4", "relu6:4", device, x)
    trainer = qadv.DefensiveQuantTrainer(classifier, lr=0.01, verbose=False)
    trainer.fit(x, y, nb_epochs=1, batch_size=16)
    return [parameter.double().mean().item() for parameter in classifier.network.parameters()]


def torchrun(device: str) -> dict[str, Any]:
    alone = trained_weights(device)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", str(HERE)]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "together.json"
        done = subprocess.run([*command, "--process", str(out), device], capture_output=True, text=True, check=False)
        if not out.exists():
            return {"error": done.stderr[-2000:]}
        answer = json.loads(out.read_text())
    worst = max(abs(a - b) for a, b in zip(alone, answer["weights"], strict=True))
    return {"backend": answer["backend"], "summed": answer["summed"], "largest_difference": worst}


def one_process(out: str, device: str) -> None:
    """What torchrun starts: joins the others, trains, and writes what came out."""
    backend = "gloo" if device == "cpu" else "nccl"
    torch.distributed.init_process_group(backend)
    tensor = torch.ones(3, device=device)
    torch.distributed.all_reduce(tensor)
    answer = {"backend": backend, "summed": float(tensor.sum()), "weights": trained_weights(device)}
    torch.distributed.destroy_process_group()
    Path(out).write_text(json.dumps(answer))


def sections(device: str, x: Any, y: Any, left: Callable[[], bool], small: bool) -> Iterator[tuple[str, Any]]:
    yield "torchrun", torchrun(device)
    start = classifier_of("float", "float", device, x)
    qadv.DefensiveQuantTrainer(start, beta=0.0, lr=0.05, verbose=False).fit(x, y, nb_epochs=1, batch_size=64)
    state = {name: tensor.cpu() for name, tensor in start.network.state_dict().items()}
    yield "waits", waits(device, x, state)
    yield "passes", passes(device, x, state, [1, 16] if small else [1, 128, 1024], 3 if small else 20)
    few = slice(0, 8 if small else 128)
    yield "agreement", agreement(device, x[few], y[few], state, left, small)
    yield "trainers", trainers(device, x[: 32 if small else 2048], y[: 32 if small else 2048], state, left, small)


def versions(device: str) -> dict[str, str]:
    name = "cpu" if device == "cpu" else torch.cuda.get_device_name()
    return {"device": name, "torch": torch.__version__, "numpy": np.__version__, "python": sys.version.split()[0]}


def main(arguments: list[str]) -> None:
    import argparse

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="few small images and few repeats, to see that it runs")
    parser.add_argument("--out", type=Path, help="file that is written after each section")
    parser.add_argument("--data", help=".npz file with x and y")
    parser.add_argument("--minutes", type=float, default=8.0, help="what has not begun by then is left out")
    parser.add_argument("--wheels", help="folder of wheels to import what is missing from")
    parser.add_argument("--missing", action="store_true", help="print what --wheels needs, and stop")
    parser.add_argument("--process", nargs=2, metavar=("OUT", "DEVICE"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.process:
        return one_process(*given.process)
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here; --device cpu --small shows that the rest works")
    started = time.perf_counter()
    ends = started + 60 * given.minutes

    def left() -> bool:
        return time.perf_counter() < ends - 10

    x, y = images(given.data, 64 if given.small else 2048, given.small)
    result: dict[str, Any] = {"versions": versions(given.device), "small": given.small}
    for name, found in sections(given.device, x, y, left, given.small):
        result[name] = found
        result["seconds"] = time.perf_counter() - started
        print(f"{name}: {result['seconds']:.0f} s so far", file=sys.stderr)
        if given.out is not None:
            given.out.write_text(json.dumps(result, indent=1))
    print(json.dumps(result))
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
