"""Who may ask: other sites' pages, passwords, tokens, other machines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Served, make_studio, served

from latentdiff.cli.main import run
from latentdiff.cli.web import WebConfig, access_of
from latentdiff.errors import UserError
from latentdiff.web import serve
from latentdiff.web.guard import MAX_FAILURES, Access

PASSWORD = "correct horse"
TOKEN = "0123456789abcdef"


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Served]:
    access = Access(password=PASSWORD, tokens={TOKEN: "robot"})
    with served(make_studio(tmp_path_factory.mktemp("web"), model, access=access)) as running:
        yield running


def test_a_page_of_another_site_cannot_draw_or_read(server: Served) -> None:
    foreign = {"origin": "https://evil.example"}
    assert server.call("POST", "/v1/images", {"prompt": "a"}, foreign).status == 403
    crossing = {"sec-fetch-site": "cross-site"}
    assert server.call("POST", "/v1/leave", headers=crossing).status == 403
    rebound = {"host": f"evil.example:{server.port}"}
    assert server.call("GET", "/v1/images", headers=rebound).status == 421
    own = {"origin": server.address}
    assert server.call("POST", "/v1/leave", headers=own).status == 204


def test_every_answer_forbids_outside_addresses_and_frames(server: Served) -> None:
    for path in ("/", "/v1/jobs", "/nothing"):
        policy = server.call("GET", path).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy


def test_without_the_password_there_is_only_the_door(closed: Served) -> None:
    assert closed.call("GET", "/").headers["location"] == "/login"
    assert closed.call("GET", "/login").status == 200
    for path in ("/v1/images", "/v1/jobs", "/openapi.json", "/main.js", "/v1/events"):
        assert closed.call("GET", path).status == 401, path
    made_up = {"cookie": f"latentdiff_browser={'a' * 32}; latentdiff_session=x"}
    assert closed.call("GET", "/v1/images", headers=made_up).status == 401


def test_the_password_opens_a_session_that_ends_with_logout(closed: Served) -> None:
    wrong = closed.call("POST", "/v1/login", {"password": "incorrect"})
    assert (wrong.status, wrong.json["error"]) == (401, "this is not the password")
    opened = closed.call("POST", "/v1/login", {"password": PASSWORD})
    assert "HttpOnly" in opened.headers["set-cookie"]
    cookie = {"cookie": opened.headers["set-cookie"].partition(";")[0]}
    assert closed.call("GET", "/v1/images", headers=cookie).status == 200
    assert closed.call("POST", "/v1/logout", headers=cookie).status == 204
    assert closed.call("GET", "/v1/images", headers=cookie).status == 401


def test_a_token_opens_the_api_and_has_its_own_jobs(closed: Served) -> None:
    robot = {"authorization": f"Bearer {TOKEN}"}
    job = closed.call("POST", "/v1/images", {"prompt": "a cat"}, robot).json
    mine = closed.call("GET", "/v1/jobs", headers=robot).json
    assert [one["id"] for one in mine] == [job["id"]]
    other = {"authorization": f"Bearer {PASSWORD}"}
    assert closed.call("GET", "/v1/jobs", headers=other).json == []
    assert closed.call("GET", "/v1/jobs", headers={"authorization": "Bearer x"}).status == 401


def test_many_wrong_passwords_close_the_door_for_a_while(tmp_path: Path, model: Path) -> None:
    with served(make_studio(tmp_path, model, access=Access(password=PASSWORD))) as server:
        for _ in range(MAX_FAILURES):
            assert server.call("POST", "/v1/login", {"password": "guess"}).status == 401
        assert server.call("POST", "/v1/login", {"password": PASSWORD}).status == 429


def test_other_machines_are_let_in_only_with_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LATENTDIFF_PASSWORD", raising=False)
    with pytest.raises(UserError, match=r"--host 0\.0\.0\.0 opens this server to other machines"):
        access_of(WebConfig(host="0.0.0.0"))
    with pytest.raises(UserError, match="the password has 3 characters"):
        access_of(WebConfig(password="abc"))
    monkeypatch.setenv("LATENTDIFF_PASSWORD", PASSWORD)
    assert access_of(WebConfig(host="0.0.0.0")).password == PASSWORD
    assert access_of(WebConfig()).hosts == {"127.0.0.1", "localhost", "[::1]"}


def test_a_token_file_is_read_strictly(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# who\nrobot {TOKEN}\n")
    assert access_of(WebConfig(token_file=file)).tokens == {TOKEN: "robot"}
    for text in ("robot short", f"{TOKEN}", ""):
        file.write_text(text)
        with pytest.raises(UserError, match="NAME TOKEN"):
            access_of(WebConfig(token_file=file))


def test_a_taken_port_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with serve.listen("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        assert run(["web", "--port", str(port)]) == 2
    error = capsys.readouterr().err
    assert f"cannot serve at 127.0.0.1:{port}" in error
    assert error.count("\n") == 1
