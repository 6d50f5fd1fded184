"""The command line, `python -m ddgan_core COMMAND`; --help lists the commands.

A user's mistake ends in one line on stderr and exit status 2, a training that diverges in one line and 1, an
interruption in 130 (Ctrl-C) or 143 (SIGTERM), an output whose reader has gone (`| head`) in 141, without a word.
"""

import io
import os
import re
import sys
from collections.abc import Sequence

from ddgan_core import UserError
from ddgan_core.commands import HANDLERS
from ddgan_core.commands.arguments import make_parser


def main(argv: Sequence[str] | None = None) -> int:
    prepare_streams()
    try:
        args = make_parser().parse_args(argv)
        status = HANDLERS[args.handler](args)
        sys.stdout.flush()  # here, where a reader that has gone is noticed in order
        return status
    except UserError as error:
        print(f"ddgan_core: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ddgan_core: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still to be flushed goes nowhere
        return 141
    except ImportError as error:  # a bare machine has what training needs, not all that the other commands do
        print(f"ddgan_core: error: {error}: pip install -c constraints.txt -e .", file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, a file that may not be written
        print(f"ddgan_core: error: {of_the_system(error)}", file=sys.stderr)
        return 1
    except (RuntimeError, MemoryError) as error:
        said = str(error)  # as PyTorch says it on every device, and of sizes that no number holds
        if isinstance(error, MemoryError) or ("memory" in said and "allocate" in said) or "overflow" in said:
            print("ddgan_core: error: not enough memory for such widths, batches or images", file=sys.stderr)
            return 1
        if type(error).__name__ != "TrainingDiverged":  # by name: importing it would import torch
            raise
        print(f"ddgan_core: training diverged: {error}", file=sys.stderr)
        return 1


def prepare_streams() -> None:
    """A terminal that has no ± is shown a stand-in; a stream that was closed, as a daemon's may be, takes nothing."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, io.StringIO())
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def of_the_system(error: OSError) -> str:
    """What the system refuses, of the file that was meant and not of the one beside it (`runs.write_atomic`)."""
    if not error.strerror or not error.filename:
        return str(error)
    meant = re.sub(r"(^|/)\.([^/]+)\.\d+-\d+\.part$", r"\1\2", str(error.filename))
    return f"{meant}: {error.strerror}: name another place (-o, DDGAN_RESULTS, DDGAN_CACHE), or make this one writable"


if __name__ == "__main__":
    sys.exit(main())
