"""Which divergence should a denoising diffusion GAN minimise, at which number of steps, and why?

Its modules, and folders of modules, are layered; imports point down only (`tests/test_layers.py` holds the table).
Start with `diffusion` (the Gaussian facts) and `divergences` (the table of rows).
"""

import functools
import sys

__version__ = "0.1.0"


class UserError(ValueError):
    """A mistake the user can mend. The command line prints its message as one line, without a traceback."""


@functools.cache
def tell(line: str) -> None:
    """Say a line on stderr, once in a process, however often it would be said."""
    print(line, file=sys.stderr)
