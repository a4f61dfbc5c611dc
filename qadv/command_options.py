"""The options of commands that are more than a call: each docstring and field is its help on the command line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Model = Annotated[Path, typer.Argument(help="a file that QuantizedClassifier.save wrote; to audit, an ONNX file too")]
Seed = Annotated[int, typer.Option(help="decides everything random")]
DataDir = Annotated[Path | None, typer.Option(help="folder with that dataset's files")]


@dataclass(frozen=True)
class ExportOptions:
    """Write a quantized network as packed weights or as an ONNX graph, and measure the result."""

    model: Model
    to: Annotated[str, typer.Option(help="packed, onnx (integer kernels) or qcdq (as simulated)")] = "packed"
    out: Annotated[Path | None, typer.Option(help="the file to write; next to MODEL without it")] = None
    dataset: Annotated[str | None, typer.Option(help="test images on which an ONNX graph is compared")] = None
    data_dir: DataDir = None
    nb_samples: Annotated[int | None, typer.Option(help="number of those images; 1,000 without it")] = None
    eps: Annotated[
        str | None, typer.Option(help="radius of PGD on them, e.g. 8/255; without it 8/255 of the range")
    ] = None
    float_ends: Annotated[bool, typer.Option("--float-ends", help="first and last layer stay float")] = False
    packed_weights: Annotated[bool, typer.Option("--packed-weights", help="weights of 4 bits stored so")] = False
    reduce_range: Annotated[bool, typer.Option("--reduce-range", help="7-bit weights, without VNNI")] = False
    as_json: Json = False


@dataclass(frozen=True)
class AuditOptions:
    """Attack a network in many ways and check whether its gradients are masked; status 2 if a check failed."""

    model: Model
    dataset: Annotated[str, typer.Option(help="its test images are attacked")]
    data_dir: DataDir = None
    nb_samples: Annotated[int, typer.Option(help="number of those images")] = 100
    eps: Annotated[
        list[str] | None, typer.Option(help="radius, e.g. 8/255; several make a curve; without it 8/255 of the range")
    ] = None
    norm: Annotated[str, typer.Option(help="of the ball, inf or 2")] = "inf"
    to_zero: Annotated[bool, typer.Option("--to-zero", help="double the radius until no image is left")] = False
    pair: Annotated[
        tuple[int, int] | None, typer.Option(help="a class, and the one that its images are to be given")
    ] = None
    pixels: Annotated[str, typer.Option(help="uint8 counts adversarial images rounded to 8 bits, float any")] = "float"
    float_parent: Annotated[Path | None, typer.Option(help="the float network it was made from, saved likewise")] = None
    other: Annotated[list[Path] | None, typer.Option(help="another network whose images are tried")] = None
    preprocessor: Annotated[
        list[str] | None, typer.Option(help="put in front of the network: NAME, or e.g. 'bit-depth:bit_depth=3'")
    ] = None
    thorough: Annotated[bool, typer.Option("--thorough", help="larger budgets")] = False
    check: Annotated[
        list[str] | None, typer.Option(help="make this check, by number or name, and its attacks; all without it")
    ] = None
    adaptive: Annotated[
        str | None,
        typer.Option(help="a further attack, for check 10: NAME, or e.g. 'BoundaryAttack:max_iter=50'"),
    ] = None
    shard: Annotated[int, typer.Option(help="images audited together, and lost at most when it is interrupted")] = 50
    out: Annotated[Path | None, typer.Option(help="folder for finished shards: the same command goes on")] = None
    jobs: Annotated[int | None, typer.Option(help="shards at a time, one thread each; one on all threads without")] = (
        None
    )
    engine: Annotated[str, typer.Option(help="local or ray")] = "local"
    address: Annotated[str | None, typer.Option(help="of a Ray cluster; without it one is started here")] = None
    until: Annotated[float | None, typer.Option(help="stop once the 95 % interval is within so many points")] = None
    time_limit: Annotated[float | None, typer.Option(help="stop after so many seconds; what is finished counts")] = None
    fail_under: Annotated[float | None, typer.Option(help="status 2 also if the worst case is below, in %")] = None
    html: Annotated[Path | None, typer.Option(help="write a page with the result and images")] = None
    seed: Seed = 0
    as_json: Json = False


@dataclass(frozen=True)
class BenchOptions:
    """Run a study: datasets × backbones × quantizers × defenses × attacks. Interrupt it as you like; it goes on."""

    study: Annotated[Path, typer.Argument(help="a study file, e.g. one of examples/studies")]
    out: Annotated[Path, typer.Option(help="folder for the results; studies share what they have in common")] = Path(
        "qadv-results"
    )
    data_dir: Annotated[Path | None, typer.Option(help="folder with the images and trained float networks")] = None
    small: Annotated[bool, typer.Option("--small", help="with the settings of the study's table [small]")] = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list the cells and a rough estimate of their cost")] = (
        False
    )
    jobs: Annotated[int, typer.Option(help="cells computed at a time")] = 1
    threads: Annotated[int, typer.Option(help="torch threads of each")] = 1
    engine: Annotated[str, typer.Option(help="local or ray")] = "local"
    address: Annotated[str | None, typer.Option(help="of a Ray cluster; without it one is started here")] = None
