"""The venue's secrets: made at its first start, kept in its own folder, told to nobody but its owner."""

from __future__ import annotations

import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

CREDENTIALS_NAME = "credentials.json"
SECRET_MODE = 0o600
ACCESS_TOKEN_LIFE_S = 2_628_000

_ACCOUNT_ID_FIRST, _ACCOUNT_IDS = 40_000_000, 9_000_000
_TRADER_LOGIN_FIRST, _TRADER_LOGINS = 3_000_000, 900_000


@dataclass
class Credentials:
    """Who may use this venue, and under which ports it was last reached."""

    path: Path
    client_id: str
    client_secret: str
    access_token: str
    refresh_token: str
    control_token: str
    account_id: int
    trader_login: int
    port: int = 0
    control_port: int = 0

    def is_client(self, client_id: str, client_secret: str) -> bool:
        """Tell whether this is the application."""
        same_id = secrets.compare_digest(client_id.encode(), self.client_id.encode())
        return secrets.compare_digest(client_secret.encode(), self.client_secret.encode()) and same_id

    def is_token(self, token: str) -> bool:
        """Tell whether this is the access token."""
        return secrets.compare_digest(token.encode(), self.access_token.encode())

    def is_control_token(self, token: str) -> bool:
        """Tell whether this opens the control door."""
        return secrets.compare_digest(token.encode(), self.control_token.encode())

    def rotate(self, refresh_token: str) -> bool:
        """Replace the pair of tokens, on disk first; False if this is not the refresh token."""
        if not secrets.compare_digest(refresh_token.encode(), self.refresh_token.encode()):
            return False
        self.access_token, self.refresh_token = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        self.save()
        return True

    def void_access(self) -> None:
        """Make the access token worthless, on disk first; the refresh token stays good."""
        self.access_token = secrets.token_urlsafe(32)
        self.save()

    def save(self) -> None:
        """Write all of it, readable by the owner alone."""
        values = {name: value for name, value in asdict(self).items() if name != "path"}
        write_secret(self.path, orjson.dumps(values, option=orjson.OPT_INDENT_2))


def load_credentials(folder: Path) -> Credentials:
    """Return the credentials kept in `folder`, made now if there are none."""
    path = folder / CREDENTIALS_NAME
    if path.exists():
        return Credentials(path=path, **orjson.loads(path.read_bytes()))
    made = Credentials(
        path=path,
        client_id=f"venue_{secrets.token_hex(8)}",
        client_secret=secrets.token_urlsafe(32),
        access_token=secrets.token_urlsafe(32),
        refresh_token=secrets.token_urlsafe(32),
        control_token=secrets.token_urlsafe(32),
        account_id=_ACCOUNT_ID_FIRST + secrets.randbelow(_ACCOUNT_IDS),
        trader_login=_TRADER_LOGIN_FIRST + secrets.randbelow(_TRADER_LOGINS),
    )
    made.save()
    return made


def write_secret(path: Path, content: bytes) -> None:
    """Put a file in place in one move, readable by the owner alone."""
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, SECRET_MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
