"""`latentdiff doctor` says what is there and what is slow, and needs no network."""

import http.server
import re
import threading

import pytest

from latentdiff.cli import doctor
from latentdiff.cli.main import run


def test_it_names_the_machine_and_what_is_slow(monkeypatch, capsys) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert run(["doctor"]) == 0
    said = capsys.readouterr().out
    for name in ("latentdiff", "libraries", "processor", "threads", "precision", "memory", "GPU"):
        assert re.search(rf"^{name} +\S", said, re.MULTILINE), name
    assert "is not asked (HF_HUB_OFFLINE)" in said
    assert re.search(r"bfloat16 takes [\d.,e+]+ times as long", said)
    assert "What will be slow" in said or "Nothing here is slower" in said


class Refuses(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


def test_a_hub_that_answers_anything_is_reached() -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert doctor.reach(address) is None
    assert "refused" in (doctor.reach(address) or "").lower()


@pytest.mark.parametrize("address", ["http://", "nothing", "ftp//x"])
def test_an_address_that_is_none_is_told(address: str) -> None:
    assert doctor.reach(address)


def test_absent_extras_come_with_the_line_that_installs_them(monkeypatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda package: None)
    found = doctor.Findings()
    doctor._extras(found)
    assert found.rows == [("extras", "none")]
    assert any("peft" in n and "pip install 'latentdiff[lora]'" in n for n in found.notes)
    assert any("pyarrow" in n and "pip install 'latentdiff[train]'" in n for n in found.notes)
