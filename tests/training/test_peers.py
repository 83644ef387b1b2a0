"""When a process of several dies, the others end with one line that names it."""

import os
import platform
import subprocess
import sys

from latentdiff.training.run import peers

PROGRAM = """
import os, sys
import torch
from latentdiff.training.run import peers
from latentdiff.training.run.entry import guarded

def main(argv):
    torch.distributed.init_process_group("gloo")
    peers.introduce(2)
    if os.environ["RANK"] == "1":
        os._exit(3)
    while True:
        torch.distributed.all_reduce(torch.zeros(4))

sys.exit(guarded(main, [], "train"))
"""


def test_the_survivor_of_two_processes_ends_with_one_line(tmp_path) -> None:
    place = tmp_path / "program.py"
    place.write_text(PROGRAM)
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "WORLD_SIZE": "2"}
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        common["MASTER_PORT"] = str(free.getsockname()[1])
    both = [
        subprocess.Popen(
            [sys.executable, str(place)],
            env=os.environ | common | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    _, error = both[0].communicate(timeout=300)
    both[1].communicate(timeout=60)
    ours = [line for line in error.splitlines() if line.startswith("train: error: ")]
    assert both[0].returncode == 1, error
    assert len(ours) == 1
    assert f"process 1 of 2 has ended (pid {both[1].pid})" in ours[0]
    assert "--resume goes on" in ours[0]
    assert "Traceback" not in error


def test_a_process_that_waits_to_be_collected_is_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.read()  # until it has closed its end
    for _ in range(1000):
        if not peers.alive(child.pid):
            break
        os.sched_yield()
    assert child.returncode is None
    child.wait()
    assert not peers.alive(child.pid)
    assert peers.alive(os.getpid())


def test_an_error_of_its_own_is_not_blamed_on_others(monkeypatch) -> None:
    monkeypatch.setattr(peers, "_MEMBERS", [(platform.node(), os.getpid())] * 2)
    monkeypatch.setattr(peers, "_LOOK_SECONDS", 0.0)
    assert peers.explain(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert peers.explain(ValueError("connection closed by peer")) is None
    told = peers.explain(RuntimeError("[pair.cc:538] Connection closed by peer [127.0.0.1]:3"))
    assert told is not None and "another of the 2 processes" in told
    monkeypatch.setattr(peers, "_MEMBERS", [])
    assert peers.explain(RuntimeError("Connection closed by peer")) is None
