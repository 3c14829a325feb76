"""Whether MLflow can use a store at all, asked before the work whose results would go there."""

from __future__ import annotations

from autoprune.errors import ConfigError, one_line
from autoprune.tracking.uris import is_server, mask_secrets, mask_uri, store_file


def require_usable(uri: str) -> None:
    """Checks an address without waiting for what answers there: servers that are down are tried again later.

    Raises:
        ConfigError: MLflow has no store of this kind, or lacks its driver.
    """
    # MLflow takes seconds to import; of these kinds it always has a store.
    if is_server(uri) or store_file(uri) is not None:
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
