"""Tensors in files come back bit by bit, and a damaged file is one ValueError."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from ddgan_core.packing import PACKED, as_named, pack, read_tensors


@pytest.mark.parametrize(("dtype", "width"), [(torch.bfloat16, 2), (torch.float32, 4)])
def test_tensors_and_facts_come_back(dtype: torch.dtype, width: int, tmp_path: Path) -> None:
    weights = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    content = save({"weights": weights}, {"made": "here"})
    for name, stored in (("plain.safetensors", content), (f"packed{PACKED}", pack(content, width))):
        (tmp_path / name).write_bytes(stored)
        tensors, facts = read_tensors(tmp_path / name)
        assert tensors["weights"].equal(weights)
        assert facts == {"made": "here"}
        assert as_named(tmp_path / name, content, width) == stored
    sizes = {other: len(pack(content, other)) for other in (2, 4)}
    assert sizes[width] == min(sizes.values()) < len(content)


def test_what_a_run_is_can_be_read_without_torch() -> None:
    code = "import sys, ddgan_core.runs; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


@pytest.mark.parametrize("name", ["plain.safetensors", f"packed{PACKED}"])
def test_a_damaged_file_is_one_error(name: str, tmp_path: Path) -> None:
    content = save({"weights": torch.ones(64)})
    content = pack(content) if name.endswith(PACKED) else content
    for damaged in (content[:-9], b"", b"nothing of the kind"):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(ValueError, match=r"^.+$"):
            read_tensors(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / f"none{PACKED}")
