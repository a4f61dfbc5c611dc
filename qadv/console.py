"""`Console`: rich's, which prints names as they are; `corrupted:fog:3:mnist` has no emoji in it."""

from typing import Any

from rich import console


class Console(console.Console):
    """A rich console; `options` are its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"emoji": False, **options})
