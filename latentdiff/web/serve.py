"""Run the application until it is stopped: a socket of its own, an address to open."""

from __future__ import annotations

import ipaddress
import socket
import sys
import threading
import webbrowser
from types import FrameType

import uvicorn

from latentdiff.errors import UserError
from latentdiff.web.app import create_app
from latentdiff.web.studio import Studio


class Server(uvicorn.Server):
    """uvicorn that ends its streams when it is told to stop."""

    studio: Studio

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop the jobs and with them the streams, so that nothing keeps the server up."""
        threading.Thread(target=self.studio.close, args=(0.0,)).start()
        super().handle_exit(sig, frame)


def run(studio: Studio, *, host: str, port: int, browser: bool = False) -> None:
    """Serve until Ctrl-C or SIGTERM. UserError when the address cannot be had."""
    listener = listen(host, port)
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    name = f"[{shown}]" if ":" in shown else shown
    address = f"http://{name}:{listener.getsockname()[1]}/"
    print(f"open {address}   (Ctrl-C ends the server; pictures go to {studio.gallery.folder})")
    sys.stdout.flush()
    if browser:
        threading.Timer(0.5, webbrowser.open, [address]).start()
    server = Server(
        uvicorn.Config(
            create_app(studio),
            log_level="warning",
            timeout_graceful_shutdown=3,
            server_header=False,
            h11_max_incomplete_event_size=65536,
        )
    )
    server.studio = studio
    server.run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; UserError when the address is taken or not this machine's."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"cannot serve at {host}:{port} ({reason}); choose another with --host and --port"
        ) from error
    return listener


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
