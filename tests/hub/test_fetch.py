"""Fetching from a hub: each in a process that has imported nothing beforehand."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from conftest import Run
from loopback import COMMIT, LoopbackHub, commit_of

from latentdiff.files import hub as hubs

FETCH = """
import sys
from latentdiff.errors import UserError
from latentdiff.files import hub
name = hub.parse(sys.argv[1])
assert name is not None
try:
    found = hub.fetch(name, lambda names: [n for n in names if n != "README.md"], kind=sys.argv[2])
except UserError as error:
    print(f"refused: {error}")
else:
    print(found.folder, *(f"note: {note}" for note in found.notes), sep="\\n")
"""
FILES = {"config.json": b"{}", "sub/a.safetensors": b"x" * 100_000, "README.md": b"words"}
UNREACHABLE = "http://127.0.0.1:9"


def fetch(fresh: Run, name: str = "them/thing", kind: str = "model", **env: str) -> str:
    done = fresh("-c", FETCH, name, kind, **env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def refusal(text: str) -> str:
    assert text.startswith("refused: ")
    assert "\n" not in text
    return text


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_what_is_needed_is_fetched_once_and_nothing_else(
    hub: LoopbackHub, fresh: Run, kind: str
) -> None:
    hub.add("them/thing", FILES, kind=kind)
    folder = Path(fetch(fresh, kind=kind))
    assert folder.name == COMMIT
    got = {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()}
    assert got == {"config.json", "sub/a.safetensors"}
    assert (folder / "sub/a.safetensors").read_bytes() == FILES["sub/a.safetensors"]
    sent = hub.bytes_sent
    assert Path(fetch(fresh, kind=kind)) == folder
    assert hub.bytes_sent == sent


def test_a_connection_that_breaks_half_way_is_resumed_where_it_broke(
    hub: LoopbackHub, fresh: Run
) -> None:
    large = bytes(range(256)) * 100_000  # the client keeps what it has by 10 MiB
    hub.add("them/thing", {"a.safetensors": large}, cut=1)
    folder = Path(fetch(fresh))
    assert (folder / "a.safetensors").read_bytes() == large
    assert len(large) < hub.bytes_sent < 1.2 * len(large)


def test_another_content_than_the_hub_names_is_refused_and_thrown_away(
    hub: LoopbackHub, fresh: Run
) -> None:
    hub.add("them/thing", FILES, wrong_sums=True)
    for _ in range(2):
        assert "a.safetensors came with another content" in refusal(fetch(fresh))
    hub.add("them/thing", FILES)
    assert Path(fetch(fresh)).name == COMMIT


def test_a_revision_is_the_one_that_was_asked_for(hub: LoopbackHub, fresh: Run) -> None:
    hub.add("them/thing", FILES, revisions={"v2": {"config.json": b'{"v": 2}'}})
    folder = Path(fetch(fresh, "them/thing@v2"))
    assert folder.name == commit_of("v2")
    assert (folder / "config.json").read_text() == '{"v": 2}'
    assert "has no revision 'v3'" in refusal(fetch(fresh, "them/thing@v3"))
    cached = fetch(fresh, "them/thing@v2", HF_HUB_OFFLINE="1")
    assert cached.splitlines()[0] == str(folder)


def test_a_gated_and_an_unknown_repository_say_what_to_do(hub: LoopbackHub, fresh: Run) -> None:
    hub.add("them/thing", FILES, gated=True)
    message = refusal(fetch(fresh))
    assert f"is gated: accept its terms at {hub.url}/them/thing" in message
    assert "hf auth login" in message
    assert Path(fetch(fresh, HF_TOKEN="hf_abc")).name == COMMIT
    message = refusal(fetch(fresh, "them/nothing"))
    assert "'them/nothing' is no local folder, and the hub has no model of that name" in message
    message = refusal(fetch(fresh, "them/nothing", "dataset"))
    assert "no data set of that name" in message


def test_without_a_network_a_whole_copy_in_the_cache_does(hub: LoopbackHub, fresh: Run) -> None:
    hub.add("them/thing", FILES)
    folder = fetch(fresh)
    for env in ({"HF_ENDPOINT": UNREACHABLE}, {"HF_HUB_OFFLINE": "1"}):
        place, note = fetch(fresh, **env).splitlines()
        assert place == folder
        assert note.startswith("note: ")
        assert "is the copy in the cache" in note


def test_without_a_network_and_a_copy_the_reason_is_said(fresh: Run) -> None:
    message = refusal(fetch(fresh, HF_ENDPOINT=UNREACHABLE))
    assert "cannot be reached" in message
    assert "is not in the cache" in message
    assert "HF_HUB_OFFLINE is set" in refusal(fetch(fresh, HF_HUB_OFFLINE="1"))


def test_a_cache_that_cannot_be_written_is_named(
    hub: LoopbackHub, fresh: Run, tmp_path: Path
) -> None:
    hub.add("them/thing", FILES)
    (tmp_path / "file").write_text("")
    message = refusal(fetch(fresh, HF_HOME=str(tmp_path / "file")))
    assert "cannot be written to the hub's cache" in message
    assert "set HF_HOME" in message


def test_a_cache_that_is_read_only_is_read(
    hub: LoopbackHub, fresh: Run, home: Path, tmp_path: Path
) -> None:
    hub.add("them/thing", FILES)
    folder = fetch(fresh)
    subprocess.run(["chmod", "-R", "a-w", str(home)], check=True)
    try:
        before = {p: p.lstat().st_mtime_ns for p in home.rglob("*")}
        assert fetch(fresh) == folder
        assert {p: p.lstat().st_mtime_ns for p in home.rglob("*")} == before
    finally:
        subprocess.run(["chmod", "-R", "u+w", str(home)], check=True)


def test_a_file_outside_the_repository_is_never_fetched(hub: LoopbackHub, fresh: Run) -> None:
    hub.add("them/thing", FILES | {"../../../evil.safetensors": b"evil"})
    folder = Path(fetch(fresh))
    assert not list(folder.parents[3].rglob("evil*"))


@pytest.mark.parametrize(
    "text",
    [
        *("name", "./a/b", "/a/b", "a/b/c", "a//b", "a/b.safetensors", "shards/x.tar", "a/../b"),
        *("a/-b", "a b/c", "photos/mine", "~/a", "a/b@"),
    ],
)
def test_what_can_only_be_a_path_is_no_name_of_the_hub(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    assert hubs.parse(text) is None


def test_a_name_of_the_hub_may_carry_a_revision_a_file_and_a_prefix() -> None:
    assert hubs.parse("them/thing") == hubs.HubName("them/thing")
    assert hubs.parse("hf://them/thing@refs/pr/1") == hubs.HubName("them/thing", "refs/pr/1")
    assert hubs.parse("hf://datasets/them/thing") == hubs.HubName("them/thing")
    assert hubs.parse("them/v1.5/sub/a.safetensors") == hubs.HubName(
        "them/v1.5", None, "sub/a.safetensors"
    )
