"""The user's copy of the THINGS images, unpacked folders or password-protected zips, as found and as put in place.

OSF serves `images_THINGS.zip` (`object_images/<concept>/<concept>_01b.jpg`); before, it served `object_images_A-C.zip`
and so on. Only the last two parts of a name decide where an image goes, so an archive cannot write elsewhere.
"""

import errno
import filecmp
import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from cachegen.common.errors import CrosstaxError, DatasetError, some
from cachegen.common.files import reason_of, remedy_of
from cachegen.things.pairs import RESPELT
from cachegen.things.zipcrypto import decrypt

THINGS_NAME = re.compile(r".+_\d\d[a-z]?\.jpe?g", re.IGNORECASE)  # aardvark_01b.jpg
LARGEST = 64 * 2**20  # bytes that one image may declare; those of THINGS stay far below
DEPTH = 4  # folders between the one given and the folder of a concept
BATCH, BATCH_BYTES = 1024, 128 * 2**20  # entries decrypted together
ENCRYPTED, STRONG = 0x1, 0x40  # flags of an entry
READABLE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
NO_LINK = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS)


@dataclass(frozen=True)
class Picture:
    """One image: a file, or an entry of the zip at `path`. leaf, name: its place in the dataset. size: bytes."""

    leaf: str
    name: str
    size: int
    path: Path
    entry: zipfile.ZipInfo | None = None

    @property
    def key(self) -> str:
        """As in a dataset: "crow/crow_01b.jpg"."""
        return f"{self.leaf}/{self.name}"

    @property
    def encrypted(self) -> bool:
        return self.entry is not None and bool(self.entry.flag_bits & ENCRYPTED)

    def present(self, images: Path) -> bool:
        """Whether it lies whole in the dataset's folder `images`, by checksum or as the same or an equal file."""
        target = images / self.key
        if not target.is_file() or target.stat().st_size != self.size:
            return False
        if self.entry is None:
            return filecmp.cmp(self.path, target)
        return zlib.crc32(target.read_bytes()) == self.entry.CRC


def find_pictures(source: Path, leaves: set[str]) -> tuple[list[Picture], list[str]]:
    """Images of `leaves` under a folder, in the zips of a folder, or in one zip; in key order, with notes.

    Files that are not named as THINGS names them are left out and noted. Raises `DatasetError`.
    """
    if source.is_dir():
        pictures, strange = _in_folder(source, leaves)
        zips = sorted(path for path in source.iterdir() if path.suffix.lower() == ".zip")
        if not pictures:
            for path in zips:
                found, names = _in_zip(path, leaves)
                pictures, strange = pictures + found, strange + names
    elif source.is_file():
        pictures, strange = _in_zip(source, leaves)
    else:
        raise DatasetError(f"{source} does not exist; give --images a folder or zip of THINGS")
    if not pictures:
        raise DatasetError(
            f"{source} holds no image of THINGS; expected folders such as aardvark/ with aardvark_01b.jpg in it, "
            f"somewhere below a folder or in a zip (a zip of zips: unpack it once and give its folder)"
        )
    notes = []
    if strange:
        notes.append(f"{len(strange):,} files are not named as in THINGS and were left out: {some(strange)}")
    return _unique(pictures), notes


def place_pictures(
    pictures: list[Picture],
    images: Path,
    scratch: Path,
    passwords: Callable[[], list[bytes]],
    advance: Callable[[int], None],
) -> dict[str, int]:
    """Put pictures into `images`, each by a temporary file in `scratch` (same file system) and a rename.

    Files are hard links where the file system allows it, else copies: a link needs no space, outlives the removal of
    the original, and is a plain file to everything that reads it, which a symbolic link is not. What lies there whole
    is left alone. `passwords` is asked once, if an entry that is not there yet is encrypted.
    Returns how many were "present", "linked", "copied", "unpacked". Raises `DatasetError`.
    """
    images.mkdir(parents=True, exist_ok=True)
    scratch.mkdir(parents=True, exist_ok=True)
    done = dict.fromkeys(("present", "linked", "copied", "unpacked"), 0)
    packed: list[Picture] = []
    for picture in pictures:
        if picture.present(images):
            done["present"] += 1
        elif picture.entry is not None:
            packed.append(picture)
            continue
        else:
            done[_place_file(picture, images, scratch)] += 1
        advance(1)
    candidates = passwords() if any(picture.encrypted for picture in packed) else []
    # Entries of similar length together: the shared decryption is as long as the longest.
    packed.sort(key=lambda picture: (picture.path, picture.encrypted, _entry(picture).compress_size))
    for (path, encrypted), group in groupby(packed, key=lambda picture: (picture.path, picture.encrypted)):
        done["unpacked"] += _unpack(path, list(group), images, scratch, candidates if encrypted else None, advance)
    return done


def passwords_in(text: str) -> list[bytes]:
    """What may be the password in a file: its one line, or what OSF's `password_images.txt` says after a colon."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [match[1] for line in lines if (match := re.search(r"password.*:\s*(\S+)$", line, re.IGNORECASE))]
    return [word.encode() for word in dict.fromkeys(said + (lines if len(lines) == 1 else []))]


def _in_folder(source: Path, leaves: set[str]) -> tuple[list[Picture], list[str]]:
    pictures, strange = [], []
    try:
        for leaf, folder in _leaf_folders(source, leaves, DEPTH):
            for file in sorted(folder.iterdir()):
                if file.name.startswith(".") or file.is_dir():
                    continue
                if THINGS_NAME.fullmatch(file.name):
                    pictures.append(Picture(leaf, file.name, file.stat().st_size, file))
                else:
                    strange.append(f"{folder.name}/{file.name}")
    except OSError as error:
        raise DatasetError(f"{error.filename} cannot be read ({reason_of(error)}); {remedy_of(error)}") from None
    return pictures, strange


def _leaf_folders(folder: Path, leaves: set[str], depth: int) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_dir():
            continue
        leaf = RESPELT.get(path.name, path.name)
        if leaf in leaves:
            yield leaf, path
        elif depth > 1:
            yield from _leaf_folders(path, leaves, depth - 1)


def _in_zip(path: Path, leaves: set[str]) -> tuple[list[Picture], list[str]]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise DatasetError(
            f"{path} cannot be read as a zip ({error}); {remedy_of(error, 'download it again')}"
        ) from None
    pictures, strange = [], []
    for entry in entries:
        parts = PurePosixPath(entry.filename.replace("\\", "/")).parts
        leaf = RESPELT.get(parts[-2], parts[-2]) if len(parts) > 1 else ""
        if entry.is_dir() or leaf not in leaves or parts[-1].startswith("."):
            continue
        if not THINGS_NAME.fullmatch(parts[-1]):
            strange.append("/".join(parts[-2:]))
            continue
        if problem := _suspicious(entry, parts):
            raise DatasetError(f"{path}: {entry.filename!r} {problem}")
        pictures.append(Picture(leaf, parts[-1], entry.file_size, path, entry))
    return pictures, strange


def _suspicious(entry: zipfile.ZipInfo, parts: tuple[str, ...]) -> str | None:
    """Why an entry is not what OSF serves, or not what can be read here."""
    if ".." in parts or parts[0] == "/" or ":" in parts[0] or not parts[-1].isprintable():
        return "would leave the folder it is unpacked to; this is not OSF's archive, download it from osf.io/jum2f"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "is a symbolic link; this is not OSF's archive, download it from osf.io/jum2f"
    if max(entry.file_size, entry.compress_size) > LARGEST:
        return f"declares {entry.file_size:,} bytes; this is not OSF's archive, download it from osf.io/jum2f"
    if entry.compress_type not in READABLE or entry.flag_bits & STRONG:
        return "is packed or encrypted in a way that Python cannot read; unpack the zip with 7-Zip and give its folder"
    return None


def _unique(pictures: list[Picture]) -> list[Picture]:
    """Sorted by key; entries that are the same in two zips once."""
    found: dict[str, Picture] = {}
    for picture in pictures:
        other = found.setdefault(picture.key, picture)
        same = picture.entry and other.entry and (picture.size, picture.entry.CRC) == (other.size, other.entry.CRC)
        if other is not picture and not same:
            raise DatasetError(
                f"{picture.key} is found twice, in {other.path} and {picture.path}; give --images the one to use"
            )
    return [found[key] for key in sorted(found)]


def _place_file(picture: Picture, images: Path, scratch: Path) -> str:
    original, temporary = picture.path.resolve(), scratch / "picture"
    temporary.unlink(missing_ok=True)
    try:
        try:
            os.link(original, temporary)
            how = "linked"
        except OSError as error:
            if error.errno not in NO_LINK:
                raise
            shutil.copy2(original, temporary)
            how = "copied"
        _rename(temporary, images / picture.key)
    except OSError as error:
        raise _cannot_write(picture, error) from error
    return how


def _unpack(
    path: Path,
    pictures: list[Picture],
    images: Path,
    scratch: Path,
    passwords: list[bytes] | None,
    advance: Callable[[int], None],
) -> int:
    """Unpack entries of one zip, all of them encrypted or (passwords None) none; returns how many."""
    with path.open("rb") as archive:
        password = None if passwords is None else _right_password(archive, pictures[0], passwords)
        for batch in _batches(pictures):
            raw = [_read_raw(archive, picture) for picture in batch]
            plain = raw if password is None else decrypt(raw, password)
            for picture, packed in zip(batch, plain, strict=True):
                content = _inflate(picture, packed)
                if content is None:
                    raise DatasetError(
                        f"{path}: {picture.key} is damaged (its checksum differs); download the zip again"
                    )
                try:
                    temporary = scratch / "picture"
                    temporary.unlink(missing_ok=True)  # it may be a link that a killed run left behind
                    temporary.write_bytes(content)
                    _rename(temporary, images / picture.key)
                except OSError as error:
                    raise _cannot_write(picture, error) from error
                advance(1)
    return len(pictures)


def _batches(pictures: list[Picture]) -> Iterator[list[Picture]]:
    batch: list[Picture] = []
    for picture in pictures:
        # Sorted by length, so that this one's is the longest of the batch.
        if batch and (len(batch) == BATCH or (len(batch) + 1) * _entry(picture).compress_size > BATCH_BYTES):
            yield batch
            batch = []
        batch.append(picture)
    yield batch


def _right_password(archive: BinaryIO, picture: Picture, passwords: list[bytes]) -> bytes:
    raw = _read_raw(archive, picture)
    for password in passwords:
        if _inflate(picture, decrypt([raw], password)[0]) is not None:
            return password
    raise DatasetError(f"{picture.path}: wrong password; the right one is in password_images.txt at osf.io/jum2f")


def _read_raw(archive: BinaryIO, picture: Picture) -> bytes:
    """Bytes of an entry as they lie in the zip (APPNOTE.TXT, section 4.3.7: 30 bytes, a name, extra fields, data)."""
    entry = _entry(picture)
    archive.seek(max(0, entry.header_offset))  # a zip that lost its beginning has negative ones
    header = archive.read(30)
    archive.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), os.SEEK_CUR)
    raw = archive.read(entry.compress_size)
    if header[:4] != b"PK\3\4" or len(raw) != entry.compress_size:
        raise DatasetError(f"{picture.path}: {picture.key} is cut off or damaged; download the zip again")
    return raw


def _inflate(picture: Picture, packed: bytes) -> bytes | None:
    """Content of an entry; None when its length or checksum is not the declared one."""
    entry = _entry(picture)
    if entry.compress_type == zipfile.ZIP_DEFLATED:
        try:
            packed = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, entry.file_size + 1)
        except zlib.error:
            return None
    return packed if (len(packed), zlib.crc32(packed)) == (entry.file_size, entry.CRC) else None


def _entry(picture: Picture) -> zipfile.ZipInfo:
    assert picture.entry is not None
    return picture.entry


def _rename(temporary: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    temporary.replace(target)


def _cannot_write(picture: Picture, error: OSError) -> CrosstaxError:
    return CrosstaxError(f"cannot write {picture.key}: {reason_of(error)}; {remedy_of(error)}")
