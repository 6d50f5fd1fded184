"""What the peers' packages need before they can be imported."""

import re

import torch

_schemas: list[torch.library.Library] = []  # an operator is gone when its library is collected


def mend_torchvision() -> None:
    """Make `import torchvision` work beside a wheel built for another PyTorch (pytorch/vision#9077).

    It then stops at "operator torchvision::nms does not exist"; a name is all that the import needs of each, and
    no peer uses one of them. Does nothing where the import works, or torchvision is not installed.
    """
    for _ in range(20):
        try:
            import torchvision  # noqa: F401
        except RuntimeError as error:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if not missing:
                raise
            _schemas[:] = _schemas or [torch.library.Library("torchvision", "FRAGMENT")]
            _schemas[0].define(f"{missing[1]}(Tensor x) -> Tensor")
        except ImportError:
            return
        else:
            return
