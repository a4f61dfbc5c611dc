"""Detects damage in a file by a digest over all of it, kept in its own header.

The digest is SHA-256 over the whole file, the 64 digits of the digest itself read as zeros. It is there to notice
damage, by a disk, a copy or a hand; it does not say who wrote the file.
"""

import hashlib
import re
import warnings
from collections.abc import Mapping
from typing import Any, BinaryIO

from qadv.errors import FileFormatError

_KEY = "sha256"
_BLANK = "0" * 64
_FIRST = 2  # formats have a digest from this number on
_BLOCK = 1 << 20


def blank(header: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a header that begins with a blank digest."""
    return {_KEY: _BLANK, **header}


def sealed(content: bytes) -> bytes:
    """Returns a file's content with the blank digest filled in."""
    return content.replace(_BLANK.encode(), hashlib.sha256(content).hexdigest().encode(), 1)


def check(header: Any, file: BinaryIO, name: str) -> Any:
    """Returns the header of a file without the digest, after comparing that with the content, read from its start.

    A header of format 1 comes back as one of format 2, which says the same, with a warning: it has no digest.
    """
    if not isinstance(header, dict):
        return header  # whoever asked for it says what is wrong
    if (own := header.get(_KEY)) is not None:
        if not isinstance(own, str) or digest_of(file, own) != own:
            raise _damaged(name, "does not match its content")
        return {key: value for key, value in header.items() if key != _KEY}
    if (parts := re.fullmatch(r"(qadv-[a-z]+)/(\d+)", str(header.get("format")))) is None:
        return header
    kind, number = parts[1], int(parts[2])
    if number >= _FIRST:
        raise _damaged(name, "is missing")
    warnings.warn(
        f"{name} is of format {number}, which has no digest: damage in it goes unnoticed. Saved again, it has one",
        stacklevel=4,
    )
    return {**header, "format": f"{kind}/{_FIRST}"}


def _damaged(name: str, what: str) -> FileFormatError:
    return FileFormatError(f"{name} is damaged: its digest {what}. Take another copy of it, or make it again")


def digest_of(file: BinaryIO, own: str = "") -> str:
    """Returns the digest of a content, 64 hexadecimal digits; `own` is the one that stands in it, read as zeros."""
    state, rest, wanted = hashlib.sha256(), b"", own.encode()
    while block := file.read(_BLOCK):
        if wanted:
            block = rest + block
            if wanted in block:
                block, wanted, rest = block.replace(wanted, _BLANK.encode(), 1), b"", b""
            else:  # it may lie across two blocks
                block, rest = block[: -len(wanted)], block[-len(wanted) :]
        state.update(block)
    state.update(rest)
    return state.hexdigest()


def blanked(content: bytes, header: Mapping[str, Any]) -> bytes:
    """Returns a file's content with the digest that its header has blank, as `sealed` takes it."""
    return content.replace(header[_KEY].encode(), _BLANK.encode(), 1)
