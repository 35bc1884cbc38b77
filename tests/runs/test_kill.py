"""kill -9 during `chanattr attribute`, at random moments: the file opens, nothing is lost, the end is the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.studio import make_studio

KILLS = 10  # scripts/torture has hundreds

DRIVER = r"""
import json, os, random, signal, sys, time
import torch
torch.set_num_threads(1)
import chanattr.cli.attribute, chanattr.store
from chanattr.cli import main

model, images, whole, broken = sys.argv[1:5]
kills = int(sys.argv[5])
random.seed(0)
write = chanattr.store.Run.write

def unhurried(self, *given, **named):  # so small a network is searched in no time: without a pause most kills would fall before or after
    time.sleep(0.05)
    return write(self, *given, **named)

chanattr.store.Run.write = unhurried

def start(path):
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            main([*"attribute --layer mix --layer conv --areas 1,2,3".split(), model, images, "-o", path], standalone_mode=False)
        except BaseException:
            os._exit(1)
        os._exit(0)
    return child

def held(path):
    with chanattr.store.open_run(path) as run:
        images = {layer: len(run.finished(layer)) for layer in run.layers}
        classes = {f"classes of {layer}": len(run.per_class(layer)) for layer in run.layers if run.has_classes(layer)}
        return images | classes, run.content_sha256()

began = time.monotonic()
assert os.waitstatus_to_exitcode(os.waitpid(start(whole), 0)[1]) == 0
length = time.monotonic() - began
rows, expected = held(whole)
seen, killed, ends, moments = {}, 0, 0, []
while killed < kills:
    child = start(broken)
    time.sleep(random.uniform(0.2, 0.95) * length)
    os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == -signal.SIGKILL:
        killed += 1
    opened = os.path.exists(broken) or os.path.isdir(broken + ".parts")
    now, digest = held(broken) if opened else ({}, "")
    assert all(now.get(layer, 0) >= count for layer, count in seen.items()), f"lost rows: {seen} then {now}"
    moments.append(sum(now.values()))
    seen = now
    if status != 0 and now == rows:  # too late to interrupt anything: it ends undisturbed, and the next kills come sooner
        status, length = os.waitstatus_to_exitcode(os.waitpid(start(broken), 0)[1]), 0.8 * length
        assert status == 0
        digest = held(broken)[1]
    if status == 0:
        assert digest == expected, "a resumed run ended with other content"
        ends += 1
        seen = {}
        os.remove(broken)
assert os.waitstatus_to_exitcode(os.waitpid(start(broken), 0)[1]) == 0
assert held(broken)[1] == expected, "the last resumed run ended with other content"
print(json.dumps({"killed": killed, "ends": ends + 1, "rows after each": moments}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_killed_at_random_moments(tmp_path: Path) -> None:
    studio = make_studio(tmp_path, per_class=24)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", DRIVER, studio.model, str(studio.images), str(tmp_path / "whole.h5"),
                           str(tmp_path / "broken.h5"), str(KILLS)], capture_output=True, text=True, timeout=550,
                          env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["killed"] == KILLS
    assert len(set(told["rows after each"])) > 3  # the kills fell at different stages
