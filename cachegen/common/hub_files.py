"""Downloads from the Hugging Face hub that are told before they start: each file with its size and hash.

Size and hash are what the hub says of the newest revision when it is asked. What arrives is compared with them.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cachegen.common.errors import ModelError, is_fault
from cachegen.common.files import digest_file
from cachegen.common.hub import advice
from cachegen.common.progress import progress_bar


@dataclass(frozen=True)
class HubFile:
    """One file of a repository at a revision. `hash`: SHA-256 of a large file, else Git's SHA-1 of it as a blob."""

    repository: str
    revision: str
    name: str
    bytes: int
    hash: str

    @property
    def path(self) -> Path | None:
        """Where it lies in the local cache; None if it does not."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.repository, self.name, revision=self.revision)
        return Path(found) if isinstance(found, str) else None

    @property
    def told(self) -> str:
        """The file, its size and hash, in words."""
        kind = "SHA-256" if len(self.hash) == 64 else "Git's SHA-1"
        return f"{self.repository}/{self.name}: {self.bytes / 1e6:,.2f} MB, {kind} {self.hash}"

    def check(self, path: Path) -> None:
        """Raise `ModelError`, and remove the file, unless it has the hash that the hub told."""
        if len(self.hash) == 64:
            found = digest_file(path)
        else:  # small files only
            content = path.read_bytes()
            found = hashlib.sha1(b"blob %d\0%b" % (len(content), content), usedforsecurity=False).hexdigest()
        if found != self.hash:
            path.resolve().unlink()
            path.unlink(missing_ok=True)
            raise ModelError(
                f"{self.repository}/{self.name} is not what the hub announced; the same command fetches it anew"
            )


def hub_files(repository: str, patterns: Sequence[str], without: Sequence[str] = ()) -> list[HubFile]:
    """The files of the newest revision that fit one of `patterns`, and none of `without`. Raises `ModelError`."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import filter_repo_objects

    try:
        info = HfApi().model_info(repository, files_metadata=True)
    except Exception as error:  # a dozen unrelated types
        raise ModelError(f"{repository} {advice(repository, error)}") from None
    known = {each.rfilename: each for each in info.siblings or []}
    found = []
    for name in filter_repo_objects(known, allow_patterns=list(patterns), ignore_patterns=list(without)):
        each = known[name]
        digest = each.lfs.sha256 if each.lfs else each.blob_id
        if each.size is None or digest is None or info.sha is None:
            raise ModelError(f"{repository}: the hub does not tell the size and hash of {name}; fetch it by hand")
        found.append(HubFile(repository, info.sha, name, each.size, digest))
    return found


def fetch(files: Sequence[HubFile]) -> None:
    """Bring the files that are not here yet into the hub's local cache, compare them, and make them the newest there.

    Raises `ModelError` if one cannot be fetched, is another than announced, or a repository has changed meanwhile.
    """
    from huggingface_hub import hf_hub_download

    with progress_bar("download", len(files), "files") as advance:
        for file in files:
            try:
                if file.path is None:
                    file.check(Path(hf_hub_download(file.repository, file.name, revision=file.revision)))
                newest = Path(hf_hub_download(file.repository, file.name))  # notes which revision is the newest
            except ModelError:
                raise
            except BaseException as error:
                if not is_fault(error):
                    raise
                raise ModelError(f"{file.repository} {advice(file.repository, error)}") from None
            if file.revision not in newest.parts:
                raise ModelError(f"{file.repository} has changed on the hub meanwhile; give the same command again")
            advance(1)
