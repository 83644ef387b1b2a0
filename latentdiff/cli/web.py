"""`latentdiff web`: the local page and the JSON API, until Ctrl-C."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from latentdiff import config as configs
from latentdiff.devices import DeviceName, DtypeName
from latentdiff.errors import UserError, needs_extra
from latentdiff.progress import stage
from latentdiff.web.limits import Limits

if TYPE_CHECKING:
    from latentdiff.web.guard import Access
    from latentdiff.web.studio import Studio

PASSWORD_VARIABLE = "LATENTDIFF_PASSWORD"
SHORTEST_PASSWORD = 8


@dataclass(frozen=True, kw_only=True)
class WebConfig:
    """Where to serve, what to offer, how much to take on."""

    host: str = "127.0.0.1"
    """Address to listen at; any but this machine's own (such as 0.0.0.0) needs a password."""
    port: int = 7860
    """Port to listen at; 0 takes a free one."""
    password: str | None = None
    """What the page asks for; better set in the variable LATENTDIFF_PASSWORD, which no list of
    processes shows."""
    token_file: Path | None = None
    """Lines of NAME TOKEN: who may use the API, each with a line of its own in the queue."""
    server_name: tuple[str, ...] = ()
    """Further names by which browsers reach this server, such as that of a proxy before it."""
    open: bool = False
    """Open the page in this machine's browser."""
    model: str = "snowglobe"
    """The model to begin with: snowglobe, a folder in diffusers format, or a hub id."""
    models: Path | None = None
    """Folder of more models to choose from."""
    loras: Path | None = None
    """Folder of LoRAs to choose from."""
    pictures: Path = Path("latentdiff-pictures")
    """Folder of the gallery."""
    dtype: DtypeName = "float32"
    """Number type of the networks; auto is bfloat16 where the hardware computes in it."""
    device: DeviceName = "auto"
    """Where to compute; auto takes an accelerator when there is one."""
    batch_size: int | None = None
    """Pictures drawn at once; by default 4 on an accelerator, 1 on a processor."""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise UserError(f"port {self.port} is out of range; expected 0 … 65535")
        if self.batch_size is not None and self.batch_size < 1:
            raise UserError(f"batch_size is {self.batch_size}; expected at least 1")


def main(argv: Sequence[str]) -> int:
    """Run `latentdiff web` and return its exit code."""
    config = configs.parse(
        WebConfig, argv, prog="latentdiff web", description="Serve the local page and the JSON API."
    )
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise needs_extra("the page", error, extra="web") from error
    from latentdiff.web import serve

    access = access_of(config)
    serve.listen(config.host, config.port).close()  # before the model is loaded
    studio = build_studio(config, access)
    with stage(""):  # it waits for visitors
        serve.run(studio, host=config.host, port=config.port, browser=config.open)
    return 0


def access_of(config: WebConfig) -> Access:
    """Who may in; UserError for an open door to other machines."""
    from latentdiff.web import guard, serve

    password = config.password or os.environ.get(PASSWORD_VARIABLE)
    if password is not None and len(password) < SHORTEST_PASSWORD:
        raise UserError(
            f"the password has {len(password)} characters; expected at least {SHORTEST_PASSWORD}"
        )
    if password is None and not serve.is_loopback(config.host):
        raise UserError(
            f"--host {config.host} opens this server to other machines; give a password in the "
            f"variable {PASSWORD_VARIABLE}, or stay at 127.0.0.1"
        )
    tokens = guard.read_tokens(config.token_file) if config.token_file is not None else {}
    names = {name.lower() for name in config.server_name}
    if serve.is_loopback(config.host):
        hosts = {*guard.LOOPBACK, *names}
    else:  # with a password, a foreign page cannot do more under another name than under this one
        hosts = names or {"*"}
    return guard.Access(password=password, tokens=tokens, hosts=frozenset(hosts))


def build_studio(config: WebConfig, access: Access) -> Studio:
    """The studio with its first model in memory."""
    from latentdiff import devices
    from latentdiff.cli.stages import Stages
    from latentdiff.web.artist import Artist
    from latentdiff.web.gallery import Gallery
    from latentdiff.web.shelf import Shelf
    from latentdiff.web.studio import Studio

    device = devices.find_device(config.device, among=("cuda", "mps", "cpu"))
    shelf = Shelf(model=config.model, models_folder=config.models, loras_folder=config.loras)
    artist = Artist(
        shelf,
        Gallery(config.pictures),
        config.limits,
        dtype=devices.find_dtype(config.dtype, device),
        device=device,
        batch_size=config.batch_size or (1 if device.type == "cpu" else 4),
    )
    with Stages().stage(f"loading {config.model}"):
        artist.open()
    return Studio.of(artist, access)
