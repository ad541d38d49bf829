"""The phrase file of the paper's public release: downloaded once, from a pinned commit, and checked."""

import urllib.request
from http.client import HTTPException
from pathlib import Path

from cachegen.common.errors import DatasetError
from cachegen.common.files import default_cache, digest_file, write_atomically
from cachegen.common.hub import VARIABLE, offline

SIZE = 2_564_416  # bytes
COMMIT = "56b88f3434fbb146692067f3efbb541198ac2285"
URL = (
    f"https://raw.githubusercontent.com/sally-xu-42/cross-modal-taxonomic-gen/{COMMIT}"
    "/llm-backbone-exp-data/minimal_pair_sentences.jsonl"
)
SHA256 = "473fa9b2f7688f439f9cd091304a0a09e3c4312c3fab631c440d87ed7ec3109c"
TIMEOUT = 30  # seconds without a byte


def fetch_release(url: str = URL, sha256: str = SHA256, size: int = SIZE) -> Path:
    """The phrase file in the cache ($CROSSTAX_CACHE or ~/.cache/crosstax), downloaded unless it lies there whole.

    Raises `DatasetError` without a network, or when what came is not the pinned file; the cache then stays as it was.
    """
    path = default_cache() / "things" / "minimal_pair_sentences.jsonl"
    if not path.is_file() or digest_file(path) != sha256:
        write_atomically(path, lambda temporary: _download(url, sha256, size, temporary))
    return path


def _download(url: str, sha256: str, size: int, path: Path) -> None:
    do = "fetch that file elsewhere and give it with --taxonomy"
    if offline():
        raise DatasetError(f"the paper's pairs are at {url}, and nothing is downloaded (--offline or {VARIABLE}); {do}")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, path.open("wb") as file:
            file.write(answer.read(size + 1))  # however much is sent
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise DatasetError(f"cannot download {url} ({reason}); {do}") from None
    found = digest_file(path)
    if found != sha256:
        raise DatasetError(f"{url} sent a file with SHA-256 {found[:16]}..., not {sha256[:16]}...; {do}")
