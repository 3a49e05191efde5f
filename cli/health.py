"""The health check of a container: does the service in it work? Exit status 0 yes, 1 no, with the reason.

    python -S -E cli/health.py gateway

Started every few seconds in every container, so it needs the standard library alone and takes some 50 ms.
A service is healthy if its own last word in Redis is `ready` and fresh, and if this container's process
itself talks to Redis: so a stand-by is healthy while it stands by, and a process that hangs is not.
The simulated venue is asked through its control door.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

BEAT_AGE_MAX_S = 5.0  # a service reports every LEASE_TTL_S / 4
IDLE_MAX_S = 5  # a stand-by asks for the lease every LEASE_TTL_S / 10
TIMEOUT_S = 2.0
REDIS_PORT = 6379


class UnhealthyError(Exception):
    """What is wrong, in one sentence."""


class Redis:
    """As much of a client as a health check needs."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme == "unix":
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(TIMEOUT_S)
            self.socket.connect(parts.path)
        else:
            host, port = parts.hostname or "localhost", parts.port or REDIS_PORT
            self.socket = socket.create_connection((host, port), TIMEOUT_S)
        if parts.scheme == "rediss":
            import ssl  # costs 20 ms, and inside one machine nobody needs it

            self.socket = ssl.create_default_context().wrap_socket(
                self.socket, server_hostname=parts.hostname
            )
        self._file = self.socket.makefile("rb")
        if parts.password:
            self.ask("AUTH", unquote(parts.username or "default"), unquote(parts.password))
        if (number := parts.path.strip("/")) and parts.scheme != "unix":
            self.ask("SELECT", number)

    def ask(self, *words: str) -> list[str]:
        """Send one command; return the texts of its answer."""
        parts = [f"*{len(words)}\r\n".encode()]
        for word in map(str.encode, words):
            parts.append(b"$%d\r\n%s\r\n" % (len(word), word))
        self.socket.sendall(b"".join(parts))
        return self._answer()

    def _answer(self) -> list[str]:
        line = self._file.readline()
        kind, rest = line[:1], line[1:].strip()
        match kind:
            case b"+" | b":":
                return [rest.decode()]
            case b"$":
                return [self._file.read(int(rest) + 2)[:-2].decode()] if int(rest) >= 0 else []
            case b"*":
                return [text for _ in range(int(rest)) for text in self._answer()]
            case b"-":
                raise UnhealthyError(f"Redis refuses: {rest.decode()}")
            case _:
                raise UnhealthyError("Redis hung up")


def check_service(service: str, book: str, url: str) -> str:
    """Return what to say of a service that is well.

    Raises:
        UnhealthyError: it is not.
    """
    redis = Redis(url)
    words = redis.ask("HGETALL", f"tg:{{{book}}}:health:{service}")
    said = dict(zip(words[::2], words[1::2], strict=True))
    if not said:
        raise UnhealthyError(f"{service} has said nothing yet in book {book}")
    if said.get("status") != "ready":
        raise UnhealthyError(f"{service} is {said.get('status')}: {said.get('detail') or 'no detail'}")
    now_s, now_us = map(int, redis.ask("TIME"))
    age_s = now_s + now_us / 1e6 - datetime.fromisoformat(said["beat"]).timestamp()
    if abs(age_s) > BEAT_AGE_MAX_S:
        raise UnhealthyError(f"{service} said it was ready, but {age_s:.1f} s ago")
    _check_own_process(redis)
    return f"{service} is ready, {age_s:.1f} s ago"


def _check_own_process(redis: Redis) -> None:
    """Look for a connection to Redis from this machine, other than ours, that is in use."""
    mine = redis.socket.getsockname()
    if not isinstance(mine, tuple):
        return  # a unix socket: everybody is on this machine
    me = redis.ask("CLIENT", "ID")[0]
    for line in "".join(redis.ask("CLIENT", "LIST")).splitlines():
        client = dict(word.partition("=")[::2] for word in line.split())
        host = client["addr"].rpartition(":")[0].strip("[]")
        if host == mine[0] and client["id"] != me and int(client["idle"]) <= IDLE_MAX_S:
            return
    raise UnhealthyError("this container's process does not talk to Redis")


def check_venue(ready_file: Path) -> str:
    """Return what to say of a simulated venue that answers.

    Raises:
        UnhealthyError: it does not.
    """
    told = json.loads(ready_file.read_text())
    with socket.create_connection(("127.0.0.1", told["control_port"]), TIMEOUT_S) as door:
        call = f"GET /state HTTP/1.1\r\nHost: venue\r\nAuthorization: Bearer {told['control_token']}\r\n"
        door.sendall((call + "Connection: close\r\n\r\n").encode())
        status = door.makefile("rb").readline().decode().split()
    if status[1:2] != ["200"]:
        raise UnhealthyError(f"the venue's control door says {' '.join(status) or 'nothing'}")
    return "the venue is open"


def main(service: str) -> int:
    """Say how the service is."""
    try:
        if service == "venue":
            folder = os.environ.get("VENUE_STATE_DIR") or "var/venue"
            said = check_venue(Path(folder) / "ready.json")
        else:
            url = os.environ.get("REDIS_URL") or f"redis://127.0.0.1:{REDIS_PORT}/0"
            said = check_service(service, os.environ.get("BOOK") or "main", url)
    except (UnhealthyError, OSError, ValueError, KeyError) as error:
        print(str(error) or repr(error))
        return 1
    print(said)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
