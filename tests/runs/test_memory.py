"""Memory of a long run: flat over its images, for activations are never all held."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = '''
import sys
import torch
import chanattr as ca

count, path = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(16, 32, 3, padding=1), torch.nn.ReLU(),
                            torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(32, 4))


class Loader:
    """Images that are made when they are asked for."""
    def __iter__(self):
        for first in range(0, count, 50):
            generator = torch.Generator().manual_seed(first)
            yield torch.rand(50, 3, 32, 32, generator=generator), None, [str(first + i) for i in range(50)]


search = ca.ExactSearch(relaxed_steps=1, binary_steps=1, refine_steps=1)
with ca.open_run(path, "a") as run:
    ca.attribute(run, model, Loader(), ["1", "3"], areas=(4,), search=search, refine=False, classes=False, progress=False, shard_size=50)
with ca.open_run(path) as run:
    assert len(run.finished("1")) == len(run.finished("3")) == count
with open("/proc/self/status") as status:  # getrusage would count what the process that started this one held
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
'''


def peak(tmp_path: Path, count: int) -> float:
    """Largest memory of a run over `count` images, in MB."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(count), str(tmp_path / f"{count}.h5")], capture_output=True, text=True,
                          env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1]) / 2**10


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_flat_over_a_thousand_images(tmp_path: Path) -> None:
    """The images alone are 12 MB, the activations of both layers 197 MB."""
    few, many = peak(tmp_path, 100), peak(tmp_path, 1000)
    assert many - few < 60


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_ten_thousand_images_stay_under_two_gigabytes(tmp_path: Path) -> None:
    """The activations of both layers are 2 GB."""
    assert peak(tmp_path, 10_000) < 2000
