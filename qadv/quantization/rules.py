"""The scheme of each layer: one for all, or chosen by patterns of layers' names."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from qadv.errors import InvalidInputError, SchemeError, closest, some
from qadv.quantization.scheme import Role, Scheme, parse_scheme

Schemes = str | Mapping[str, str]


class Rules:
    """Schemes by layer-name pattern, the last match counting; what is no such mapping is a `SchemeError`."""

    def __init__(self, schemes: Schemes, role: Role) -> None:
        self.role = role
        if not isinstance(schemes, str | Mapping) or not schemes:
            raise SchemeError(f"{role}: expected a scheme or a mapping from layer names to schemes, got {schemes!r}")
        table = {"*": schemes} if isinstance(schemes, str) else {str(k): v for k, v in schemes.items()}
        self.rules = [(pattern, parse_scheme(spec, role)) for pattern, spec in table.items()]
        self.any = any(scheme is not None for _, scheme in self.rules)

    def find(self, name: str) -> tuple[str, Scheme | None]:
        """Returns the pattern that decides for a name, and its scheme; `("", None)` without a match."""
        return next((rule for rule in reversed(self.rules) if fnmatchcase(name, rule[0])), ("", None))

    def check_used(self, names: Iterable[str]) -> None:
        """Refuses a pattern that matches no name."""
        check_patterns(self.role, [pattern for pattern, _ in self.rules if pattern != "*"], list(names))


def check_patterns(argument: str, patterns: Iterable[str], names: list[str]) -> None:
    """Raises an `InvalidInputError`, with the nearest names, for a pattern that matches none of the layers."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InvalidInputError(
                f"{argument}: pattern {pattern!r} matches no layer{closest(pattern, names)} Layers: {some(names, 12)}"
            )
