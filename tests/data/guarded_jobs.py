"""What a guarded worker is given to run in tests: good, slow, greedy and deadly."""

import os
import signal
import time


def job(data: bytes) -> bytes:
    """Do what the bytes say; otherwise hand them back reversed."""
    if data == b"hang":
        time.sleep(600)
    if data == b"swell":
        return bytes(bytearray(1 << 30))[:1]
    if data == b"die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if data == b"raise":
        raise RuntimeError("a bug in the decoder")
    if data == b"pid":
        return str(os.getpid()).encode()
    return data[::-1]


def stuck_look(data: bytes) -> bytes:
    """`look`, by a decoder that hangs on one file and dies of another."""
    from latentdiff.data.check.look import look

    return job(data) if data in (b"hang", b"die") else look(data)
