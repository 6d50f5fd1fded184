"""Array shapes in signatures: `Float[Tensor, "n c h w"]`.

They are plain documentation at run time, so that training needs no extra package. When jaxtyping was
imported first (`tests/conftest.py` does), they are its types, and the tests check every call.
"""

import sys
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Float, Int, UInt8
else:

    class _Shaped:
        def __class_getitem__(cls, item: object) -> type[Tensor]:
            return Tensor

    Float = Int = UInt8 = _Shaped

__all__ = ["Float", "Int", "Tensor", "UInt8"]
