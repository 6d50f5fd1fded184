"""What an argument of the command line may be: each takes its text, returns its value or says what is allowed."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

OWN_OPTIONS = ("dataset", "method", "divergence", "T", "seed", "preset", "tag")  # of `train`, so not for --set
LARGEST = 2**63 - 1  # that PyTorch takes


def whole(least: int, most: int = LARGEST) -> Callable[[str], int]:
    """An argument that is a whole number in a range."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            between = f"of {least} or more" if most == LARGEST else f"from {least} to {most}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {between}")
        return value

    return parse


def positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def share(text: str) -> float:
    try:
        return 0.0 if float(text) == 0 else positive(text)
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 0 or more") from None


def folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a folder: name the one that holds FashionMNIST/raw, or make it"
        )
    return Path(text)


def output(kind: Literal["file", "folder", "picture"]) -> Callable[[str], Path]:
    """An argument that says where a file, folder or picture is to be written, checked before any work is done."""

    def parse(text: str) -> Path:
        path = Path(text)
        if kind == "picture" and path.suffix not in (".png", ".npy"):
            raise argparse.ArgumentTypeError(
                f"{text!r}: a file that ends in .png (a grid) or .npy (uint8, [n, c, h, w])"
            )
        if kind != "folder" and path.is_dir():
            raise argparse.ArgumentTypeError(f"{text!r} is a folder: name a file, in it or elsewhere")
        at = path if kind == "folder" else path.parent
        if file := next((p for p in (at, *at.parents) if p.exists() and not p.is_dir()), None):
            raise argparse.ArgumentTypeError(f"{text!r}: {str(file)!r} is a file, not a folder: name another place")
        return path

    return parse


def setting(text: str) -> tuple[str, Any]:
    """`field=value` of a RunConfig, the value read as the field's type; lists are separated by commas."""
    from dataclasses import fields

    from ddgan_core.runs import RunConfig

    name, equals, value = text.partition("=")
    types = {f.name: f.type for f in fields(RunConfig) if f.name not in OWN_OPTIONS}
    if not equals or name not in types:
        own = f"{name} has an option of its own, --{name}" if name in OWN_OPTIONS else f"give one of {', '.join(types)}"
        raise argparse.ArgumentTypeError(f"{text!r} is not field=value: {own}")
    try:
        if types[name] is bool:
            return name, {"true": True, "false": False}[value.lower()]
        if types[name] in (int, float, str):
            number = types[name](value)
            if number != number or number in (math.inf, -math.inf):
                raise ValueError
            return name, number
        return name, tuple(int(part) for part in value.split(","))
    except (ValueError, KeyError):
        kinds = {bool: "true or false", int: "a whole number", float: "a number"}
        kind = kinds.get(types[name], "whole numbers separated by commas")
        raise argparse.ArgumentTypeError(f"{text!r}: {name} is {kind}") from None
