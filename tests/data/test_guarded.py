"""Workers that hang, swell, die or raise cost their own item and nothing else."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from latentdiff.data.check.guarded import Failure, guarded_map

JOB = "guarded_jobs:job"


@pytest.fixture(autouse=True)
def workers_find_the_jobs(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def answers(items, **options):
    settings = {"workers": 1, "seconds": 30.0, **options}
    return dict(guarded_map(JOB, enumerate(items), **settings))


def test_every_item_is_answered_once_under_its_own_key():
    items = [f"item {k}".encode() for k in range(20)]
    assert answers(items, workers=2) == {k: item[::-1] for k, item in enumerate(items)}


def test_no_items_start_no_worker():
    assert answers([]) == {}


def test_a_worker_serves_many_items_and_is_replaced_only_after_a_failure():
    found = answers([b"pid", b"pid", b"die", b"pid"])
    assert found[0] == found[1] != found[3]


def test_what_hangs_is_ended_after_its_time_and_the_rest_go_on():
    found = answers([b"ab", b"hang", b"cd"], seconds=1.0)
    assert found[0] == b"ba"
    assert found[2] == b"dc"
    assert found[1] == Failure("time", "it takes longer than 1 s to decode")


@pytest.mark.skipif(sys.platform != "linux", reason="memory limits are Linux's")
def test_what_takes_more_than_its_memory_is_named():
    found = answers([b"swell", b"ab"], memory=256 << 20)
    assert found[0] == Failure("memory", "it takes more than 256 MB to decode")
    assert found[1] == b"ba"


def test_a_crash_is_named_by_its_signal():
    found = answers([b"die", b"ab"])
    assert isinstance(found[0], Failure)
    assert (found[0].code, "SIGSEGV" in found[0].reason) == ("crashed", True)
    assert found[1] == b"ba"


def test_what_the_function_raises_is_a_crash_of_that_item():
    found = answers([b"raise", b"ab"])
    assert isinstance(found[0], Failure)
    assert found[0].code == "crashed"
    assert found[1] == b"ba"


def test_items_are_taken_only_when_a_worker_is_free():
    taken = []

    def items():
        for k in range(10):
            taken.append(k)
            yield k, b"x"

    running = guarded_map(JOB, items(), workers=1, seconds=30.0)
    next(running)
    assert taken == [0]
    running.close()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"


def test_workers_end_with_the_iteration_and_with_a_parent_that_is_killed():
    running = guarded_map(JOB, [(0, b"pid"), (1, b"pid")], workers=1, seconds=30.0)
    pid = int(next(running)[1])
    assert alive(pid)
    running.close()
    assert not alive(pid)
    parent = (
        "from latentdiff.data.check.guarded import guarded_map\n"
        "import time\n"
        f"for _, pid in guarded_map({JOB!r}, [(0, b'pid'), (1, b'hang')], workers=1, seconds=600):"
        "\n    print(pid.decode(), flush=True)\n    time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE)
    pid = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    for _ in range(200):
        if not alive(pid):
            break
        time.sleep(0.05)
    assert not alive(pid)
