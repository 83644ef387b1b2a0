"""Repositories of a Hugging Face hub: named, fetched into the hub's own cache, checked.

The one door for models, LoRAs and data sets. What is fetched lies in the cache that all programs
of the hub share (`HF_HOME`), under the commit that it came from. The client is imported on use:
it loads its parts lazily, so each is imported by its own name.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from latentdiff.errors import UserError
from latentdiff.files import sha256_file

Kind = Literal["model", "dataset"]
Choose = Callable[[Sequence[str]], Sequence[str]]

PREFIX = "hf://"
SECONDS = 5.0
"""How long the hub may take to answer before it counts as unreachable."""
_PART = r"[A-Za-z0-9](?:[\w.-]*\w)?"
_NAME = re.compile(rf"(?P<repo>{_PART}/{_PART})(?:@(?P<revision>[\w./-]+?))?(?P<file>/.+\.\w+)?")
_FILES = (
    *(".safetensors", ".ckpt", ".bin", ".pt", ".pth", ".json", ".jsonl", ".csv", ".parquet"),
    *(".tar", ".gz", ".zip", ".yaml", ".yml", ".txt", ".png", ".jpg", ".jpeg", ".webp"),
)
_KIND_NAMES = {"model": "model", "dataset": "data set"}


@dataclass(frozen=True)
class HubName:
    """OWNER/NAME of a repository, with a branch, tag or commit and a file in it where one was
    given."""

    repo: str
    revision: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return f"{self.repo}{at}{f'/{self.file}' if self.file else ''}"


@dataclass(frozen=True)
class Fetched:
    """A repository's files in the cache. notes: what the user should know, a line each."""

    folder: Path
    notes: tuple[str, ...] = ()


def parse(text: str) -> HubName | None:
    """The repository that a name may stand for, or None when it can only be a local path.

    OWNER/NAME, OWNER/NAME@REVISION or OWNER/NAME/FILE.EXT; `hf://` before it says that a hub is
    meant. Without it, a name whose first part is a folder here is a slip of a path, as is one that
    ends like a file: the network is not asked about those.
    """
    bare = text.removeprefix(PREFIX).removeprefix("datasets/")
    match = _NAME.fullmatch(bare)
    if match is None or ".." in bare or "--" in match["repo"]:
        return None
    owner, name = match["repo"].split("/")
    if not text.startswith(PREFIX) and (name.lower().endswith(_FILES) or Path(owner).is_dir()):
        return None
    return HubName(match["repo"], match["revision"], (match["file"] or "").lstrip("/") or None)


def fetch(name: HubName, choose: Choose, *, kind: Kind = "model") -> Fetched:
    """The chosen files of a repository, fetched where the cache lacks them.

    choose: the repository's file names → those that are needed; its UserError is passed on. When
    the hub cannot be reached, a whole copy in the cache does, with a note. Raises UserError, one
    line, for everything else: unknown, gated, another content than the hub names, no room.
    """
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return _from_cache(name, choose, kind, "HF_HUB_OFFLINE is set")
    try:
        info: Any = HfApi().repo_info(
            name.repo,
            revision=name.revision,
            repo_type=kind,
            timeout=SECONDS,
            files_metadata=True,
        )
    except _client_errors() as error:
        if isinstance(error, OSError) and error.filename:
            raise _unwritable(name, error) from error
        if not _unreachable(error):
            raise _explained(name, kind, error) from error
        why = f"the hub ({constants.ENDPOINT}) cannot be reached ({_first_line(error)})"
        return _from_cache(name, choose, kind, why)
    offered = {s.rfilename: s for s in info.siblings or () if _inside(s.rfilename)}
    wanted = list(choose(sorted(offered)))
    folder = _repository(name, kind) / "snapshots" / str(info.sha)
    missing = [file for file in wanted if not (folder / file).is_file()]
    if missing:
        _download(name, kind, {file: offered[file] for file in missing})
    return Fetched(folder)


def _download(name: HubName, kind: Kind, files: Mapping[str, Any]) -> None:
    """Fetch files of a repository and hold them against the sums that the hub has named."""
    from huggingface_hub import snapshot_download

    size = sum(sibling.size or 0 for sibling in files.values())
    count = f"{len(files)} file{'' if len(files) == 1 else 's'}"
    print(f"fetching {name} from the hub: {count}, {size / 1e6:,.1f} MB", file=sys.stderr)
    try:
        folder = Path(
            snapshot_download(
                name.repo,
                revision=name.revision,
                repo_type=kind,
                allow_patterns=[file.replace("[", "[[]") for file in files],
            )
        )
    except _client_errors() as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise _unwritable(name, error) from error
        if _unreachable(error):
            raise UserError(
                f"the connection broke while {name} was fetched ({_first_line(error)}); "
                "try again, what is here already is not fetched twice"
            ) from error
        raise _explained(name, kind, error) from error
    for file, sibling in files.items():
        if sibling.lfs is not None and sha256_file(folder / file) != sibling.lfs.sha256:
            (folder / file).resolve().unlink(missing_ok=True)
            (folder / file).unlink(missing_ok=True)
            raise UserError(
                f"{name}: {file} came with another content than the hub names (SHA-256), and was "
                "thrown away; try again"
            )


def _from_cache(name: HubName, choose: Choose, kind: Kind, why: str) -> Fetched:
    """The copy in the cache, if all that is needed is in it."""
    root = _repository(name, kind)
    revision = name.revision or "main"
    reference = root / "refs" / revision
    commit = reference.read_text("utf-8").strip() if reference.is_file() else revision
    folder = root / "snapshots" / commit
    if not _inside(commit) or not folder.is_dir():
        raise UserError(
            f"{why}, and the {_KIND_NAMES[kind]} {name} is not in the cache ({root.parent}); "
            "fetch it once with a network, or name a local folder"
        )
    names = sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file())
    try:
        whole = [file for file in choose(names) if not (folder / file).is_file()] == []
        reason = "files are missing"
    except UserError as error:
        whole, reason = False, str(error)
    if not whole:
        raise UserError(
            f"{why}, and the copy of {name} in the cache is not whole ({reason}); "
            "fetch it again with a network"
        )
    return Fetched(folder, (f"{why}; {name} is the copy in the cache, of commit {commit[:12]}",))


def _repository(name: HubName, kind: Kind) -> Path:
    """Where the cache keeps a repository (the hub's guide "Understand caching")."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser() / f"{kind}s--{name.repo.replace('/', '--')}"


def _inside(name: str) -> bool:
    """Whether a file's name, as the hub gave it, stays inside its repository."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name and bool(name)


def _client_errors() -> tuple[type[Exception], ...]:
    """All that the client and the network below it may raise; the latter's base by the former's,
    since which HTTP library it is changes with its version."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    network = next(t for t in HfHubHTTPError.__mro__ if t.__name__ == "HTTPError")
    return (OSError, ValueError, LocalEntryNotFoundError, network)


def _unreachable(error: Exception) -> bool:
    """Whether an error says that there is no network or no hub, not that the hub said no."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code == 429
    return not isinstance(error, HFValidationError)


def _unwritable(name: HubName, error: OSError) -> UserError:
    from huggingface_hub import constants

    return UserError(
        f"{name} cannot be written to the hub's cache {constants.HF_HUB_CACHE} "
        f"({error.strerror}); set HF_HOME to a folder with room of your own"
    )


def _explained(name: HubName, kind: Kind, error: Exception) -> UserError:
    """What the hub's refusal means, and what to do."""
    from huggingface_hub import constants, errors

    noun = _KIND_NAMES[kind]
    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{name.repo}"
    if isinstance(error, errors.GatedRepoError):
        return UserError(
            f"the {noun} {name} is gated: accept its terms at {page}, then log in by "
            "`hf auth login` or set HF_TOKEN"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(f"the {noun} {name.repo} has no revision {name.revision!r}; see {page}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError(
            f"{str(name)!r} is no local folder, and the hub has no {noun} of that name for you; "
            "check the spelling; for a private one, log in by `hf auth login` or set HF_TOKEN"
        )
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        return UserError(f"the hub answered {status} when asked for the {noun} {name}; see {page}")
    return UserError(f"the {noun} {name} cannot be fetched ({_first_line(error)})")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
