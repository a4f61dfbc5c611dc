"""An audit as one table."""

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from qadv.diagnostics.audit.result import AuditResult

_STYLES = {"passed": "green", "failed": "bold red", "not evaluated": "dim"}


def table(result: "AuditResult") -> Table:
    """Returns the checks as rows, the worst case above and the cost below."""
    setting = "thorough" if result.thorough else "quick"
    random = f"answers or gradients are random: means of {result.draws} passes"
    repeats = "answers repeat" if result.draws == 1 else random
    attacks = ", ".join(f"{attack.name} {attack.first}" for attack in result.attacks if attack.first)
    cost, seconds = result.spent
    passes = f"{cost.forward:,} forward and {cost.backward:,} backward passes of one image"
    below = [
        f"Broken first by: {attacks or 'none'}",
        f"Gradients: {result.gradient}; {repeats}; {setting} setting, seed {result.seed}",
        f"Cost: {passes}, {seconds / 60:.1f} minutes",
    ]
    if result.queries:
        below.insert(2, f"Attacks without gradients ask {result.queries}; what they find the network has confirmed")
    if result.smaller:
        points = (f"{100 * accuracy:.1f} % at {eps:.4g} ({grade})" for eps, accuracy, grade in result.curve)
        below.insert(0, f"Curve: {', '.join(points)}")
    made = Table(title=escape(result.headline), caption=escape("\n".join(below)), caption_justify="left")
    made.add_column("", justify="right", no_wrap=True)
    made.add_column("check", max_width=24)
    made.add_column("rule", max_width=34)
    made.add_column("figure")
    made.add_column("verdict", no_wrap=True)
    for check in result.checks:
        style = _STYLES[check.verdict.value]
        cells = (escape(text) for text in (str(check.number), check.name, check.rule, check.figure))
        made.add_row(*cells, f"[{style}]{check.verdict.value}[/{style}]", end_section=True)
    return made
