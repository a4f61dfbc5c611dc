"""The command line, `qadv`."""

import json
import sys
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from qadv import __version__
from qadv.components import KINDS
from qadv.entry_points import find_entry_points
from qadv.errors import QadvError, describe
from qadv.plugins import PluginInfo, note_patches
from qadv.registry import Entry, default_registry
from qadv.tables import table

app = typer.Typer(help="Attack and defend quantized networks through ART.", no_args_is_help=True, add_completion=False)
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="print the version and exit")] = False,
) -> None:
    if show:
        print(f"qadv {__version__}")
        raise typer.Exit


@app.command("list")
def list_command(
    kind: Annotated[str | None, typer.Argument(help=f"one of {', '.join(KINDS)}; without it, all kinds")] = None,
    pattern: Annotated[str, typer.Argument(help="wildcard pattern of the name, e.g. 'resnet*'")] = "*",
    members: Annotated[
        bool, typer.Option("--all", help="also the names that families stand for (imports timm or ART)")
    ] = False,
    as_json: Json = False,
) -> None:
    """List components by kind and name."""
    registry, rows = default_registry(), []
    for name in [kind] if kind is not None else list(KINDS):
        rows += [_row(entry) for entry in registry.match(name, pattern)]
        for entry in registry.entries(name) if members else []:
            try:
                found = entry.members()
            except Exception as error:
                Console(stderr=True).print(f"[red]{entry.qualified_name}: {escape(str(error))}[/red]")
                continue
            summary = f"{entry.component.name} family"
            rows += [{**_row(entry), "name": m, "summary": summary} for m in found if fnmatchcase(m, pattern)]
    _print_faults(note_patches(registry.plugins), Console(stderr=True))
    console = Console()
    if as_json:
        print(json.dumps(rows, indent=1))
    elif kind is None:
        named = {name: ", ".join(entry.component.name for entry in registry.entries(name)) for name in KINDS}
        console.print(table(["kind", "components"], ((name, found or "–") for name, found in named.items())))
    else:
        unmet = (f" [red](needs {escape(', '.join(row['unmet']))})[/red]" if row["unmet"] else "" for row in rows)
        shown = [[escape(row[key]) for key in ("name", "distribution", "summary")] for row in rows]
        cells = ([*others, summary + needs] for (*others, summary), needs in zip(shown, unmet, strict=True))
        console.print(table(["name", "distribution", "summary"], cells))
        families = [entry.component.name for entry in registry.entries(kind) if entry.component.family]
        if families and not members:
            verb = "stands" if len(families) == 1 else "stand"
            console.print(f"{' and '.join(families)} {verb} for many names: --all lists them.", style="dim")


@app.command()
def plugins(as_json: Json = False) -> None:
    """List plugins: distribution, version, hooks, status and faults."""
    found = default_registry().plugins
    note_patches(found)
    if as_json:
        keys = ("distribution", "name", "version", "hooks", "status", "faults")
        print(json.dumps([{key: getattr(plugin, key) for key in keys} for plugin in found], indent=1))
        return
    rows = []
    for plugin in found:
        style = {"ok": "green", "faulty": "red", "disabled": "dim"}[plugin.status]
        hooks = ", ".join(hook.removeprefix("qadv_") for hook in plugin.hooks)
        names = (escape(text) for text in (plugin.distribution, plugin.name, plugin.version, hooks))
        rows.append([*names, f"[{style}]{plugin.status}[/{style}]"])
    console = Console()
    console.print(table(["distribution", "plugin", "version", "hooks", "status"], rows))
    _print_faults(found, console)


def _print_faults(plugins: Iterable[PluginInfo], console: Console) -> None:
    for plugin in plugins:
        for fault in plugin.faults:
            console.print(f"[red]{escape(plugin.distribution)}[/red]: {escape(fault)}", highlight=False, soft_wrap=True)


@app.command()
def demo(
    dataset: Annotated[str, typer.Option(help="digits (comes with scikit-learn), mnist or cifar10")] = "digits",
    data_dir: Annotated[Path | None, typer.Option(help="folder with mnist.npz or cifar10-*.npz")] = None,
    out: Annotated[Path, typer.Option(help="folder for results.json and the figures")] = Path("demo-results"),
    nb_epochs: Annotated[int | None, typer.Option(help="epochs for each network")] = None,
    seed: Annotated[int, typer.Option(help="decides everything random")] = 0,
) -> None:
    """Train a float, a vanilla 4-bit and a DQ 4-bit network, attack each with ART, and show what happened."""
    from qadv.demo import run_demo

    run_demo(dataset=dataset, data_dir=data_dir, out=out, nb_epochs=nb_epochs, seed=seed)


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="a file that QuantizedClassifier.save wrote")],
    to: Annotated[str, typer.Option(help="packed or onnx")] = "packed",
    out: Annotated[Path | None, typer.Option(help="the file to write; next to MODEL without it")] = None,
    dataset: Annotated[str | None, typer.Option(help="test images on which an ONNX graph is compared")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="folder with that dataset's files")] = None,
    nb_samples: Annotated[int | None, typer.Option(help="number of those images; 1,000 without it")] = None,
    eps: Annotated[
        str | None, typer.Option(help="radius of PGD on them, e.g. 8/255; without it 8/255 of the range")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a quantized network as packed weights or as an ONNX graph (QCDQ), and measure the result."""
    from qadv.deployment.command import ExportOptions, run_export

    run_export(ExportOptions(model, to, out, dataset, data_dir, nb_samples, eps, as_json))


@app.command()
def audit(
    model: Annotated[Path, typer.Argument(help="a file that QuantizedClassifier.save wrote")],
    dataset: Annotated[str, typer.Option(help="its test images are attacked")],
    data_dir: Annotated[Path | None, typer.Option(help="folder with that dataset's files")] = None,
    nb_samples: Annotated[int, typer.Option(help="number of those images")] = 100,
    eps: Annotated[str | None, typer.Option(help="radius, L-inf, e.g. 8/255; without it 8/255 of the range")] = None,
    float_parent: Annotated[
        Path | None, typer.Option(help="the float network it was made from, saved likewise")
    ] = None,
    other: Annotated[list[Path] | None, typer.Option(help="another network whose images are tried")] = None,
    preprocessor: Annotated[
        list[str] | None, typer.Option(help="put in front of the network: NAME, or e.g. 'bit-depth:bit_depth=3'")
    ] = None,
    thorough: Annotated[bool, typer.Option("--thorough", help="larger budgets")] = False,
    seed: Annotated[int, typer.Option(help="decides everything random")] = 0,
    as_json: Json = False,
) -> None:
    """Attack a network in many ways and check whether its gradients are masked; status 2 if a check failed."""
    from qadv.diagnostics.audit.command import AuditOptions, run_audit

    options = AuditOptions(
        model,
        dataset,
        data_dir,
        nb_samples,
        eps,
        float_parent,
        other or [],
        preprocessor or [],
        thorough,
        seed,
        as_json,
    )
    if not run_audit(options):
        raise typer.Exit(2)


@app.command()
def bench(
    study: Annotated[Path, typer.Argument(help="a study file, e.g. one of examples/studies")],
    out: Annotated[Path, typer.Option(help="folder for the results; studies share what they have in common")] = Path(
        "qadv-results"
    ),
    data_dir: Annotated[Path | None, typer.Option(help="folder with the images and trained float networks")] = None,
    small: Annotated[bool, typer.Option("--small", help="with the settings of the study's table [small]")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="list the cells and a rough estimate of their cost")
    ] = False,
    jobs: Annotated[int, typer.Option(help="cells computed at a time")] = 1,
    threads: Annotated[int, typer.Option(help="torch threads of each")] = 1,
    engine: Annotated[str, typer.Option(help="local or ray")] = "local",
    address: Annotated[str | None, typer.Option(help="of a Ray cluster; without it one is started here")] = None,
) -> None:
    """Run a study: datasets × backbones × quantizers × defenses × attacks. Interrupt it as you like; it goes on."""
    from qadv.benchmark.command import BenchOptions, run_bench

    if not run_bench(BenchOptions(study, out, data_dir, small, dry_run, jobs, threads, engine, address)):
        raise typer.Exit(1)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="the results of a bench, its --out")],
    out: Annotated[Path | None, typer.Option(help="where to write; FOLDER/report without it")] = None,
    study: Annotated[str | None, typer.Option(help="one study's name; all without it")] = None,
) -> None:
    """Make one HTML page, Markdown tables and a JSON file per network from the results of qadv bench."""
    from qadv.benchmark.report.build import build_report

    made, console = build_report(folder, out, study), Console(soft_wrap=True)
    lines = [f"page: {made.page}", *(f"tables: {path}" for path in made.tables)]
    for line in (*lines, f"networks: {len(made.models)} files in {made.page.parent / 'models'}"):
        console.print(Text(line))
    missing = [f"{name}: {count} cells" for name, count in made.not_there.items() if count]
    lacking = [f"{each} are missing, damaged or failed; the report lists them" for each in missing]
    for line in (*lacking, *(f"left out: {name}: {why}" for name, why in made.left_out.items())):
        console.print(Text(line, "yellow"))


@app.command("new-plugin")
def new_plugin_command(
    name: Annotated[str, typer.Argument(help="of the distribution, e.g. 'qadv-blur'")],
    kind: Annotated[str, typer.Option(help=f"of its component: {', '.join(KINDS)}")] = "attack",
    out: Annotated[Path, typer.Option(help="folder that NAME goes into")] = Path("."),
) -> None:
    """Write a plugin that works: one component, its tests, and a pyproject.toml with the entry point."""
    from qadv.scaffold.new_plugin import new_plugin

    folder = new_plugin(name, kind, out)
    console = Console(soft_wrap=True, highlight=False)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        console.print(escape(str(path)), style="dim")
    console.print(escape(f"next: pip install -e '{folder}[test]' && pytest {folder}"))


def main() -> None:
    """Runs the command line; an error that qadv foresaw is one message, without a traceback."""
    try:
        app()
    except QadvError as error:
        _fail(str(error))
    except Exception as error:
        # torch and triton look through all installed distributions, and can't be imported where one is damaged
        damaged = [each for each in find_entry_points()[1] if describe(error) in each.fault]
        if not damaged:
            raise
        _fail("; ".join(f"distribution {each.distribution!r}: {each.fault}; install it anew" for each in damaged))


def _fail(message: str) -> NoReturn:
    Console(stderr=True).print(f"[bold red]error:[/bold red] {escape(message)}", highlight=False)
    sys.exit(1)


def _row(entry: Entry) -> dict[str, Any]:
    component = entry.component
    return {
        "name": component.name,
        "kind": component.kind,
        "distribution": entry.distribution,
        "summary": component.summary,
        "target": component.target,
        "family": bool(component.family),
        "requires": list(component.requires),
        "unmet": component.unmet_requirements(),
    }


if __name__ == "__main__":
    main()
