"""What the official code says of an evaluation that is not to be trusted."""

import re


class Flags(list[str]):
    """Stands in the place of the official code's logger and keeps its warnings, each sort once."""

    def warning(self, text: str) -> None:
        """Keeps a warning; texts that differ in numbers alone are of one sort."""
        text = text.partition(" See flags_doc.md")[0]
        if re.sub(r"\d+", "", text) not in {re.sub(r"\d+", "", kept) for kept in self}:
            self.append(text)
