"""A run's whole life on a GPU, where there is one; and on the CPU, to see that what is asked of the GPU is right."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from on_device import IMAGES, NO_DEVICE, UPDATES

HERE = Path(__file__).parent


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.slow)])
def test_a_run_is_trained_resumed_sampled_and_scored(device: str, tmp_path: Path, with_gpus: dict[str, str]) -> None:
    places = {"PYTHONPATH": str(HERE.parent), "DDGAN_RESULTS": str(tmp_path), "DDGAN_CACHE": str(tmp_path / "cache")}
    words = [sys.executable, str(HERE / "on_device.py"), device]
    done = subprocess.run(words, capture_output=True, text=True, env=with_gpus | places, timeout=300)
    if done.returncode == NO_DEVICE:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    # On an H200 two trainings without graphs were .008 apart, with and without .011: cuDNN's sums have no fixed order.
    assert told["graphs_differ"] < (0.1 if device == "cuda" else 1e-6)
    for found in told["lives"]:  # of each precision
        assert found["states"] == ["running", "done"]
        assert found["steps"] == [1, *range(1, UPDATES + 1), UPDATES]
        assert found["updates_after_the_stop"] == UPDATES - 1, "it went on where it stopped"
        assert found["devices"] == [found["device"]] * 3
        assert found["device"].startswith("CPU") == (device == "cpu")
        assert found["finite"]
        assert found["network_differs"] < 0.02, "TF32 has 10 bits; the images have 8"
        assert found["images"] == IMAGES, "no two are the same"
        assert found["frechet"] == pytest.approx(found["frechet_on_cpu"], rel=0.01)
