"""Memory that is kept: what a forward pass frees is not asked for, and cleared, again."""

import os
import platform
import subprocess
import sys

import pytest

COUNT = """
import resource, sys, torch
from ddgan_core.memory import keep_freed_memory
print(keep_freed_memory() if "keep" in sys.argv else None)
def forward():
    for _ in range(20):
        torch.ones(10_000_000)  # 40 MB: by itself glibc gives any such block back
forward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
forward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


USED = """
import sys, torch
from ddgan_core import memory
calls = []
import ddgan_core.sampling as sampling, ddgan_core.metrics.features as features
for module in (sampling, features):
    module.keep_freed_memory = lambda: calls.append(1)
list(sampling.sample_images(lambda x, i, draw: x, 1, (1, 8, 8), 2, 0))
features.load_extractor("pixels")(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
print(len(calls))
"""


def test_sampling_and_features_ask_for_it() -> None:
    done = subprocess.run([sys.executable, "-c", USED], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2"]


def faults(*arguments: str, **environment: str) -> tuple[str, int]:
    """What `keep_freed_memory` returned, and the page faults of a second pass."""
    usual = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", COUNT, *arguments], capture_output=True, text=True, check=True, env=usual | environment
    )
    said, count = done.stdout.split()
    return said, int(count)


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or tuple(map(int, platform.libc_ver()[1].split("."))) < (2, 36),
    reason="mallopt is glibc's, and before 2.36 it was not seen to keep blocks above 32 MB",
)
def test_freed_memory_is_kept_unless_the_environment_says_otherwise() -> None:
    said, kept = faults("keep")
    assert said == "True"
    assert kept < 100
    assert faults()[1] > 5 * kept + 100, "20 times 40 MB, in pages of 4 kB or of 2 MB: or it would not be needed"
    assert faults("keep", MALLOC_ARENA_MAX="1")[0] == "False"
