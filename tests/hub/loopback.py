"""A small hub on loopback: the real client of `huggingface_hub` talks to it through HF_ENDPOINT.

It answers what that client asks for a repository (information, tree, heads and bodies of files,
with ranges), and can be told to misbehave. Files end in one of `LARGE` are kept as Git LFS would:
their content is named by its SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".parquet", ".png", ".jpg")


@dataclass
class Repository:
    """files: name → content. revisions: branch or tag → its files, `main` being `files`.

    gated: asks for a token. wrong_sums: names other SHA-256 sums than its contents have.
    cut: how many answers for a large file break off half way.
    """

    files: Mapping[str, bytes]
    revisions: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
    gated: bool = False
    wrong_sums: bool = False
    cut: int = 0

    def commits(self) -> dict[str, Mapping[str, bytes]]:
        found = {"main": self.files, COMMIT: self.files}
        for name, files in self.revisions.items():
            found |= {name: files, commit_of(name): files}
        return found


def commit_of(revision: str) -> str:
    """The commit of a branch or tag; a commit's own name is its own."""
    if revision == "main":
        return COMMIT
    return revision if len(revision) == 40 else hashlib.sha1(revision.encode()).hexdigest()


def files_of(folder: Path) -> dict[str, bytes]:
    """A folder's files as a repository has them."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


class LoopbackHub(ThreadingHTTPServer):
    """models, datasets: OWNER/NAME → repository. asked: how often each path was."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.asked: Counter[str] = Counter()
        self.bytes_sent = 0
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def add(
        self, name: str, files: Mapping[str, bytes], *, kind: str = "model", **how: Any
    ) -> None:
        self.repositories[f"{kind}s", name] = Repository(files, **how)

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self.thread.join()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LoopbackHub

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server.asked[f"{self.command} {path}"] += 1
        words = path.split("/")
        if words[0] == "api" and len(words) >= 4:
            self.api(words[1], "/".join(words[2:4]), words[4:])
            return
        kind = "models"
        if words[0] == "datasets":
            kind, words = words[0], words[1:]
        if len(words) > 4 and words[2] == "resolve":
            self.file(kind, "/".join(words[:2]), words[3], "/".join(words[4:]))
            return
        self.refuse(404, "")

    def api(self, kind: str, name: str, rest: list[str]) -> None:
        asked = rest[1] if len(rest) > 1 else "main"
        found = self.repository(kind, name, asked)
        if found is None:
            return
        repository, files = found
        if rest[:1] == ["tree"]:
            self.reply([entry(n, data, repository, "path", "oid") for n, data in files.items()])
        else:
            siblings = [
                entry(n, data, repository, "rfilename", "blobId") for n, data in files.items()
            ]
            self.reply({"id": name, "sha": commit_of(asked), "siblings": siblings, "tags": []})

    def repository(
        self, kind: str, name: str, revision: str
    ) -> tuple[Repository, Mapping[str, bytes]] | None:
        """A repository and its files of a revision; None after a refusal was sent."""
        repository = self.server.repositories.get((kind, name))
        if repository is None:
            self.refuse(401, "RepoNotFound")
        elif repository.gated and "Authorization" not in self.headers:
            self.refuse(401, "GatedRepo")
        elif revision not in repository.commits():
            self.refuse(404, "RevisionNotFound")
        else:
            return repository, repository.commits()[revision]
        return None

    def file(self, kind: str, name: str, revision: str, file: str) -> None:
        found = self.repository(kind, name, revision)
        if found is None:
            return
        repository, files = found
        if file not in files:
            self.refuse(404, "EntryNotFound")
            return
        data = files[file]
        first = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if first else 200)
        self.send_header("X-Repo-Commit", commit_of(revision))
        large = entry(file, data, repository, "path", "oid")["lfs"]
        self.send_header("ETag", f'"{large["sha256"] if large else blob_id(data)}"')
        self.send_header("Accept-Ranges", "bytes")
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - first))
        self.end_headers()
        if self.command == "HEAD":
            return
        body = data[first:]
        if repository.cut > 0 and large:
            repository.cut -= 1
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(body)
        self.server.bytes_sent += len(body)

    def reply(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def entry(
    name: str, data: bytes, repository: Repository, name_key: str, id_key: str
) -> dict[str, Any]:
    """A file in a listing of the hub's."""
    told = b"other" if repository.wrong_sums else data
    sums = {"sha256": hashlib.sha256(told).hexdigest(), "size": len(data), "pointerSize": 130}
    sums["oid"] = sums["sha256"]
    return {
        "type": "file",
        name_key: name,
        id_key: blob_id(data),
        "size": len(data),
        "lfs": sums if name.endswith(LARGE) else None,
    }


def blob_id(data: bytes) -> str:
    """Git's name of a content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
