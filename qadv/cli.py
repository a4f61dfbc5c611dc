"""The command line, `qadv`."""

import inspect
import json
import sys
import warnings
from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.markup import escape
from rich.text import Text
from typer.core import TyperCommand

from qadv import __version__, command_options
from qadv.command_options import Json, Seed
from qadv.components import KINDS, import_target
from qadv.console import Console
from qadv.entry_points import find_entry_points
from qadv.errors import QadvError, describe, printable
from qadv.plugins import PluginInfo, note_patches
from qadv.registry import Entry, default_registry
from qadv.tables import table

app = typer.Typer(
    help="Attack and defend quantized networks through ART.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
    family: Annotated[
        str | None, typer.Option(help="attacks of one family of ART's: evasion, extraction, inference or poisoning")
    ] = None,
    as_json: Json = False,
) -> None:
    """List components by kind and name."""
    if family is not None:
        from qadv.attacks.families import check_family, entry_family

        check_family(kind, family)
        members = True
    registry, rows = default_registry(), []
    for name in [kind] if kind is not None else list(KINDS):
        rows += [_row(entry) for entry in registry.match(name, pattern) if not family or entry_family(entry) == family]
        for entry in registry.entries(name) if members else []:
            try:
                found = [m for m in entry.members() if fnmatchcase(m, pattern)]
                found = [m for m in found if not family or entry_family(entry, m) == family]
            except Exception as error:
                Console(stderr=True).print(f"[red]{entry.qualified_name}: {escape(str(error))}[/red]")
                continue
            summary = f"{entry.component.name} family"
            rows += [{**_row(entry), "name": m, "summary": summary} for m in found]
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
        names = (Text(text) for text in (plugin.distribution, plugin.name, plugin.version, hooks))
        rows.append([*names, Text(plugin.status, style)])
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
    nb_epochs: Annotated[int | None, typer.Option("--epochs", "--nb-epochs", help="epochs for each network")] = None,
    seed: Seed = 0,
) -> None:
    """Train a float, a vanilla 4-bit and a DQ 4-bit network, attack each with ART, and show what happened."""
    from qadv.demo import run_demo

    run_demo(dataset=dataset, data_dir=data_dir, out=out, nb_epochs=nb_epochs, seed=seed)


class _Command(TyperCommand):
    """A command that says how options of an attack or a trainer are written, where one is given as its own."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # typer's own; that of click with older ones
            unknown = getattr(error, "option_name", "").lstrip("-").replace("-", "_")
            if unknown and any(parameter.name == "settings" for parameter in self.params):
                error.message += f"; an option of the {self.name}'s own goes without dashes: {unknown}=VALUE"  # type: ignore[attr-defined]
            raise


def _face(name: str, options: type[Any], run: str, status: int = 1) -> None:
    """Adds a command made from the options of a function, `"module:name"`; it ends with `status` on `False`."""

    def command(**given: Any) -> None:
        if import_target(run)(options(**given)) is False:
            raise typer.Exit(status)

    signature = inspect.signature(options)
    command.__doc__, command.__signature__ = options.__doc__, signature  # type: ignore[attr-defined]
    command.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    app.command(name, cls=_Command)(command)


_face("quantize", command_options.QuantizeOptions, "qadv.commands.quantize:run_quantize")
_face("train", command_options.TrainOptions, "qadv.commands.train:run_train")
_face("attack", command_options.AttackOptions, "qadv.commands.attack:run_attack")
_face("compare", command_options.CompareOptions, "qadv.commands.compare:run_compare")
_face("export", command_options.ExportOptions, "qadv.commands.export:run_export")
_face("audit", command_options.AuditOptions, "qadv.commands.audit:run_audit", status=2)
_face("bench", command_options.BenchOptions, "qadv.benchmark.command:run_bench")


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


@app.command()
def claims(
    folder: Annotated[Path, typer.Argument(help="the results of a bench, its --out, or the --records of one")],
    file: Annotated[Path, typer.Argument(metavar="CLAIMS", help="what is claimed")] = Path("docs/claims/claims.toml"),
    out: Annotated[Path, typer.Option("--out", "-o", help="the page to write")] = Path("docs/claims.md"),
    records: Annotated[
        Path | None, typer.Option(help="folder for a copy of the results without networks, to keep or to go on in")
    ] = None,
) -> None:
    """Judge claims, a file that compares cells of studies, by the results of qadv bench: one table for each paper."""
    from qadv.benchmark.claims.build import build_claims

    made, console = build_claims(folder, file, out, records), Console(soft_wrap=True)
    counts = (f"{count} {verdict}" for verdict, count in Counter(made.verdicts).items())
    console.print(Text(f"page: {made.page}: {', '.join(counts)}"))
    for name, why in made.not_there.items():
        console.print(Text(f"not run: {name}: {why}", "yellow"))


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
    """Runs the command line; a warning, and an error that qadv foresaw, is one message, without a traceback."""
    warnings.showwarning = _show_warning
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


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    text = escape(printable(" ".join(str(message).split())))
    Console(stderr=True, soft_wrap=True).print(f"[yellow]warning:[/yellow] {text}", highlight=False)


def _fail(message: str) -> NoReturn:
    text = escape("\n".join(map(printable, message.splitlines())))
    Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/bold red] {text}", highlight=False)
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
