"""Tensors in files: safetensors, compressed where a file's name ends in `PACKED`; tables that are not whole."""

import json
import lzma
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

PACKED = ".safetensors.xz"


def pack(content: bytes, width: int = 2) -> bytes:
    """Compressed as what numbers of `width` bytes, 2 or 4, make up most of: the bytes of each are told apart."""
    bits = width.bit_length() - 1
    return lzma.compress(content, filters=[{"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 2, "lp": bits, "pb": bits}])


def pack_text(text: str) -> bytes:
    """Compressed as text, where a byte's place tells nothing: a hundredth smaller than by lzma's own settings."""
    own = {"id": lzma.FILTER_LZMA2, "preset": 6 | lzma.PRESET_EXTREME, "lc": 1, "lp": 0, "pb": 0}
    return lzma.compress(text.encode(), filters=[own])


def as_named(path: Path, content: bytes, width: int = 2) -> bytes:
    """What to write into a file of that name: packed where it says so, else as it is."""
    return pack(content, width) if path.name.endswith(PACKED) else content


def read_tensors(path: Path) -> "tuple[dict[str, Tensor], dict[str, str]]":
    """The tensors of a file and its metadata. Raises ValueError for one that is damaged, OSError for none."""
    from safetensors import (
        SafetensorError,
    )  # here: `runs`, which is read where nothing is computed, needs the name alone
    from safetensors.torch import load

    try:
        content = path.read_bytes()
        content = lzma.decompress(content) if path.name.endswith(PACKED) else content
        tensors = load(content)
    except (SafetensorError, EOFError, lzma.LZMAError) as error:
        raise ValueError(str(error).splitlines()[0]) from None
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])  # `load` leaves out what it says
    return tensors, header.get("__metadata__", {})


def refuse_cut(path: Path) -> None:
    """Raises ValueError for a table whose last line has no end: what is cut within a number is another number."""
    if path.suffix == ".csv" and path.stat().st_size and not path.read_bytes().endswith(b"\n"):
        raise ValueError("its last line is cut off")
