"""Where a server listens: this machine alone unless told, the next port if one is taken."""

from __future__ import annotations

import errno
import socket

from ..errors import UserError
from ..runs.progress import say

LOOPBACK = "127.0.0.1"
_TRIED = 50
_TAKEN = {errno.EADDRINUSE, errno.EACCES}


def free_port(host: str, first: int) -> int:
    """The first port from `first` on that nobody listens on at `host`, told if it is another.

    Raises UserError for a host that isn't this machine's, or where none of many ports is free.
    """
    if not 1 <= first <= 65535:
        raise UserError(f"--port: expected 1 to 65535, got {first}")
    for port in range(first, min(first + _TRIED, 65536)):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            # A port whose last owner has just gone is free, whatever its old connections wait for.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except socket.gaierror:
                raise UserError(f"--host: no such address as '{host}'") from None
            except OSError as error:
                if error.errno in _TAKEN:
                    continue
                raise UserError(f"cannot listen on {host}:{port} ({error.strerror})") from None
        if port != first:
            say(f"port {first} is taken; this is {port}")
        return port
    raise UserError(f"no free port from {first} on; give another --port")


def told_listening(host: str, port: int) -> str:
    """The address, and who can reach it."""
    who = (
        "this machine alone can reach it"
        if is_loopback(host)
        else "anyone who reaches this machine's network can reach it"
    )
    shown = LOOPBACK if host in ("", "0.0.0.0") else host
    return f"http://{shown}:{port}  ({who})"


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own, which no other can reach."""
    return host in ("localhost", "::1") or host.startswith("127.")
