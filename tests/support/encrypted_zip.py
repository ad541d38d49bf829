"""A writer of zips with ZipCrypto, which Python's zipfile reads but does not write (APPNOTE.TXT, section 6.1)."""

import struct
import zlib
from pathlib import Path


def encrypt(plain: bytes, password: bytes, crc: int) -> bytes:
    """The cipher one byte at a time, after a header whose last byte is the high byte of the CRC."""
    keys = [0x12345678, 0x23456789, 0x34567890]

    def crc_step(crc: int, byte: int) -> int:
        return zlib.crc32(bytes([byte]), crc ^ 0xFFFFFFFF) ^ 0xFFFFFFFF

    def advance(byte: int) -> None:
        keys[0] = crc_step(keys[0], byte)
        keys[1] = ((keys[1] + (keys[0] & 255)) * 134775813 + 1) & 0xFFFFFFFF
        keys[2] = crc_step(keys[2], keys[1] >> 24)

    for byte in password:
        advance(byte)
    out = bytearray()
    for byte in bytes(range(11)) + bytes([crc >> 24]) + plain:
        low = (keys[2] | 2) & 0xFFFF
        out.append(byte ^ (((low * (low ^ 1)) >> 8) & 255))
        advance(byte)
    return bytes(out)


def write_zip(path: Path, files: dict[str, bytes], password: bytes | None, **declared: int) -> None:
    """Deflated entries, encrypted unless `password` is None; `declared` has lies about lengths by stem of a file."""
    body, directory = b"", b""
    for name, content in files.items():
        crc = zlib.crc32(content)
        packed = zlib.compress(content, wbits=-15)
        if password is not None:
            packed = encrypt(packed, password, crc)
        flags = 0 if password is None else 1
        size = declared.get(Path(name).stem, len(content))
        common = struct.pack("<HHHHHLLLHH", 20, flags, 8, 0, 33, crc, len(packed), size, len(name), 0)
        directory += b"PK\1\2" + struct.pack("<H", 20) + common + struct.pack("<HHHLL", 0, 0, 0, 0, len(body))
        directory += name.encode()
        body += b"PK\3\4" + common + name.encode() + packed
    end = struct.pack("<HHHHLLH", 0, 0, len(files), len(files), len(directory), len(body), 0)
    path.write_bytes(body + directory + b"PK\5\6" + end)
