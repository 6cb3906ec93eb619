"""Objects at an fsspec URI: whole ones are put, got, listed and deleted, by relative names.

No credential is read here: the library behind each scheme finds its own. What it says when it
fails may quote one, so only the name of its error is repeated.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from x1.config import mirror_fault
from x1.text import UserError

S3_OPTIONS = {
    "client_options": {
        "timeout": timedelta(minutes=10),  # a checkpoint takes longer than the usual 30 s
        "connect_timeout": timedelta(seconds=10),
        "allow_http": True,  # for a store of one's own; it is only asked where an endpoint says so
    },
    "retry_config": {"max_retries": 3, "retry_timeout": timedelta(minutes=1)},
}


@dataclass(frozen=True)
class Store:
    """Objects under a URI, by names that are relative to it."""

    uri: str
    fs: Any
    root: str

    def names(self, under: str) -> list[str]:
        """Names of the objects under a folder, sorted; none if there is no such folder."""
        self.fs.invalidate_cache()
        try:
            found = self.fs.find(f"{self.root}/{under}")
        except FileNotFoundError:
            return []
        return sorted(path[path.rindex(f"/{under}/") + 1 :] for path in found)

    def get(self, name: str) -> bytes:
        return bytes(self.fs.cat_file(f"{self.root}/{name}"))

    def put(self, name: str, content: bytes) -> None:
        self.fs.pipe_file(f"{self.root}/{name}", content)

    def put_file(self, path: Path, name: str) -> None:
        self.fs.put_file(str(path), f"{self.root}/{name}")

    def get_file(self, name: str, path: Path) -> None:
        self.fs.get_file(f"{self.root}/{name}", str(path))

    def delete(self, name: str) -> None:
        self.fs.rm_file(f"{self.root}/{name}")


@contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Any failure of the store's library becomes one sentence without the library's own words."""
    try:
        yield
    except UserError:
        raise
    except Exception as fault:
        raise UserError("mirror.unreachable", uri=uri, fault=type(fault).__name__) from None


def open_store(uri: str) -> Store:
    """The store at a URI. Raises UserError for one that is refused, or has no library here."""
    refused = mirror_fault(uri)
    if refused:
        raise UserError(refused)
    import fsspec  # a second of start-up, for those who mirror

    scheme = uri.partition(":")[0]
    options: dict[str, Any] = {"auto_mkdir": True} if scheme == "file" else {}
    if scheme == "s3":
        try:
            from obstore.fsspec import register
        except ImportError:
            if find_spec("s3fs") is None:
                raise UserError("mirror.no_library", scheme=scheme) from None
        else:
            register("s3")
            options = S3_OPTIONS
    with reaching(uri):
        fs, root = fsspec.core.url_to_fs(uri, **options)
    return Store(uri, fs, root.rstrip("/"))
