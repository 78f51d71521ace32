"""Names that come from data or from a checkpoint, made fit to be written."""

import hashlib
import re
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import PurePath

LONGEST = 100  # bytes of a name; a file system takes 255, of which several names may be a part
DIGITS = 8  # of the digest behind a name that was changed
UNWRITABLE = re.compile(  # `::` has a meaning for fsspec, by which Lightning writes checkpoints
    r"[/\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]|^\.|::"
)
# Besides control characters: those that turn the direction of a line, and halves of characters,
# which stand for the bytes of a name that is not UTF-8.
UNPRINTABLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def file_name(name: str, longest: int = LONGEST) -> str:
    """Makes a name of the data the name of one file or folder, never a path.

    A name that can be one stays as it is. Another one is changed, and gets a digest of what it was,
    so that two names stay two.

    Args:
        name: any text.
        longest: the most bytes that it may have.
    """
    written = UNWRITABLE.sub("_", name)
    written = written.encode()[:longest].decode(errors="ignore")
    if name and written == name:
        return name
    return f"{written}-{_digest(name)}"


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]


def file_names(names: Sequence[str]) -> list[str]:
    """Makes names of the data the names of files beside each other, on any disk.

    Some disks take names for one that differ in large and small letters, or in how accents are
    written: of these, all but the first get a digest.
    """
    taken: set[str] = set()
    made: list[str] = []
    for name in names:
        written = file_name(name)
        if same_letters(written).casefold() in taken:
            written = f"{written}-{_digest(name)}"
        taken.add(same_letters(written).casefold())
        made.append(written)
    return made


def stays_below(name: str) -> bool:
    """Returns whether a path leads nowhere but below the folder that it starts from."""
    path = PurePath(name)
    return not path.is_absolute() and ".." not in path.parts and path != PurePath()


def is_utf8(text: str) -> bool:
    """Returns whether a path has a name for programs that take UTF-8 alone."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def same_letters(name: str) -> str:
    """Returns a name in the form in which equal letters are equal characters (Unicode's NFC).

    macOS and some archives write a letter and its accent as two characters.
    """
    return unicodedata.normalize("NFC", name)


def known_name(name: str, known: Iterable[str]) -> str | None:
    """Returns the one of some names that has the same letters; the name itself if it is there."""
    by_letters = {same_letters(other): other for other in known}
    found = by_letters.get(same_letters(name))
    return name if name in by_letters.values() else found


def printable(text: str) -> str:
    """Returns a text that a terminal shows and does not obey; tabs and line ends stay.

    Control characters, and bytes that are not UTF-8, are written as escapes (`\\x1b`).
    """
    return UNPRINTABLE.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # the byte of a name that is not UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def show(text: str, *, as_error: bool = False) -> None:
    """Prints a text in which names of data may be, on a terminal of any encoding.

    Args:
        text: is made `printable`.
        as_error: to stderr.
    """
    stream = sys.stderr if as_error else sys.stdout
    encoding = stream.encoding or "utf-8"
    known = printable(text).encode(encoding, "backslashreplace").decode(encoding)
    print(known, file=stream, flush=True)
