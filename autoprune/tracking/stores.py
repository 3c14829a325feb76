"""Whether MLflow can use a store at all, asked before the work whose results would go there."""

from __future__ import annotations

from autoprune.errors import ConfigError, one_line
from autoprune.tracking.uris import is_server, mask_secrets, mask_uri, store_file


def require_usable(uri: str, *, named: bool = True) -> None:
    """Checks an address without waiting for what answers there: servers that are down are tried again later.

    Args:
        uri: of the store.
        named: whether a person wrote it. MLflow makes every folder that is missing on the way to a SQLite file: that is
            meant for our own place beside a run folder to be, and hides what was mistyped.

    Raises:
        ConfigError: MLflow has no store of this kind, or lacks its driver, or the folder of its file is missing.
    """
    file = store_file(uri)
    if named and file is not None and not file.absolute().parent.is_dir():
        raise ConfigError(
            f"The folder of the MLflow store {mask_uri(uri)!r} does not exist: {str(file.parent)!r}. Make it, or name "
            "another store with --tracking-uri (an absolute path has four slashes: sqlite:////home/me/mlflow.db)."
        )
    # MLflow takes seconds to import; of these kinds it always has a store.
    if is_server(uri) or file is not None:
        return
    from autoprune.tracking.session import import_mlflow

    mlflow = import_mlflow()
    try:
        mlflow.MlflowClient(tracking_uri=uri)
    except (mlflow.exceptions.MlflowException, ImportError) as error:
        reason = mask_secrets(one_line(error)).partition(". ")[0].rstrip(".")
        raise ConfigError(
            f"MLflow cannot use the store {mask_uri(uri)!r}: {reason}. Name another with --tracking-uri, such as "
            "sqlite:///mlflow.db, or do without with --no-mlflow."
        ) from error
    except Exception:  # a database that is down now may be up when there is something to write
        return
