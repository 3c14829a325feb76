"""Addresses of MLflow stores: where the default one lies, and how an address is shown without its secrets."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

#: Names the store where no option does: MLflow's own variable.
_VARIABLE = "MLFLOW_TRACKING_URI"
#: What stands where a secret was.
MASK = "***"
#: The user part of an address ends at the last `@` before the host: passwords may hold an unescaped `@`.
_USER = re.compile(r"(?P<scheme>[a-zA-Z][\w+.-]*)://(?P<user>[^/?#\s]*)@")
_SECRET_KEY = re.compile(
    r"(?P<key>[?&;](?:[\w.-]*(?:password|passwd|pwd|secret|token|signature|credential)[\w.-]*|[\w.-]*key"
    r"|sig|auth))=[^&;#\s]+",
    re.IGNORECASE,
)


def named_store(uri: str | None) -> str | None:
    """Returns the MLflow store that a person names: by the option, else by MLflow's variable; None where by neither."""
    return uri or os.environ.get(_VARIABLE) or None


def default_store(folder: Path) -> str:
    """Returns the address of the SQLite store in a folder, for example the parent of the run folder."""
    return f"sqlite:///{folder.resolve() / 'mlflow.db'}"


def store_file(uri: str) -> Path | None:
    """Returns the database file of a SQLite store, or None for any other store."""
    if not uri.startswith("sqlite:///"):
        return None
    name = uri.removeprefix("sqlite:///").partition("?")[0]
    return Path(name) if name and name != ":memory:" else None


def place_on_disk(uri: str) -> Path | None:
    """Returns the file or folder of this machine that a store would write to, None where it is elsewhere."""
    scheme, colon, rest = uri.partition("://")
    if not colon:
        return Path(uri.removeprefix("file:").removeprefix("sqlite:"))
    if not scheme.lower().startswith(("sqlite", "file")):
        return None
    # `sqlite:///relative.db`, `sqlite:////absolute.db`, `file:///absolute`.
    path = rest.partition("?")[0].removeprefix("/") if scheme.lower().startswith("sqlite") else rest
    return Path(path)


def artifact_root(uri: str) -> str | None:
    """Returns where a new experiment keeps its files: beside a SQLite store, else None: the server decides.

    MLflow's own default is `./mlruns`, which would litter whatever folder the search is started in.
    """
    file = store_file(uri)
    return (file.resolve().parent / "mlartifacts").as_uri() if file is not None else None


def is_server(uri: str) -> bool:
    """Returns whether the store is a server, which needs no `mlflow ui` of its own."""
    return uri.startswith(("http://", "https://"))


def server_base(uri: str) -> str:
    """Returns the address to open in a browser: without user, password and query, which a link does not need."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"


def mask_uri(uri: str) -> str:
    """Returns an address fit to be shown: passwords, bare tokens and secret query values read `***`."""
    return mask_secrets(uri)


def mask_secrets(text: str) -> str:
    """Returns a text, an error message say, with the secrets of every address in it masked."""
    return _SECRET_KEY.sub(rf"\g<key>={MASK}", _USER.sub(_mask_user, text))


def _mask_user(match: re.Match[str]) -> str:
    user, colon, _ = match["user"].partition(":")
    # `https://TOKEN@host` has no password, yet its user name is the secret; `postgresql://me@host` has none.
    shown = MASK if match["scheme"].lower().startswith("http") else user
    return f"{match['scheme']}://{shown}{':' + MASK if colon else ''}@"
