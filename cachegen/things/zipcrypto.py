"""ZipCrypto, the old password protection of zip files, for many entries at once.

The cipher runs byte by byte, each key depending on the byte before, so that Python's zipfile decrypts 2 MB/s: half an
hour for the images of the paper. Entries do not depend on each other: here one step decrypts the j-th byte of a
thousand of them (40 to 55 MB/s on one core). APPNOTE.TXT of PKWARE, section 6.1.
"""

import numpy as np

HEADER = 12  # random bytes before the data, encrypted with them

_POLYNOMIAL = np.uint32(0xEDB88320)
_MULTIPLIER = np.uint32(134775813)


def _crc_table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ _POLYNOMIAL, table >> 1)
    return table


def _stream_table() -> np.ndarray:
    """Key-stream byte of each value of the low 16 bits of the third key."""
    key = np.arange(1 << 16, dtype=np.uint32) | 2
    return ((key * (key ^ 1)) >> 8).astype(np.uint8)


_CRC = _crc_table()
_STREAM = _stream_table()


def decrypt(entries: list[bytes], password: bytes) -> list[bytes]:
    """Plain bytes of `entries` (each with its 12-byte header, which is dropped), all under one password.

    A wrong password gives noise: compare the CRC of what comes out. Memory: three times the bytes of as many entries
    of the longest one's length, so bring entries of similar length together.
    """
    lengths = np.array([len(entry) for entry in entries])
    order = np.argsort(-lengths, kind="stable")
    steps = lengths[order[0]]
    # bytes_EL: entry, step; the longest entry first, so that those still running at any step are the first ones.
    bytes_EL = np.zeros((len(entries), steps), np.uint8)
    for row, number in enumerate(order):
        bytes_EL[row, : lengths[number]] = np.frombuffer(entries[number], np.uint8)
    bytes_LE = np.ascontiguousarray(bytes_EL.T)
    running = np.searchsorted(-lengths[order], -np.arange(steps), side="left")
    keys = tuple(np.full(len(entries), key, np.uint32) for key in (0x12345678, 0x23456789, 0x34567890))
    for byte in password:
        keys = _advance(keys, np.uint8(byte))
    for step, count in enumerate(running):
        if count < len(keys[0]):
            keys = tuple(key[:count] for key in keys)
        plain = bytes_LE[step, :count]
        plain ^= _STREAM.take(keys[2].astype(np.uint16))
        keys = _advance(keys, plain)
    bytes_EL = np.ascontiguousarray(bytes_LE.T)
    plain_of = {number: bytes_EL[row, HEADER : lengths[number]].tobytes() for row, number in enumerate(order)}
    return [plain_of[number] for number in range(len(entries))]


def _advance(keys: tuple[np.ndarray, ...], plain: np.ndarray | np.uint8) -> tuple[np.ndarray, ...]:
    """Keys after one plain byte of each entry; casts to uint8 take the low byte, uint32 arithmetic wraps."""
    first, second, third = keys
    first = _CRC.take(first.astype(np.uint8) ^ plain) ^ (first >> 8)
    second = (second + first.astype(np.uint8)) * _MULTIPLIER + np.uint32(1)
    third = _CRC.take((second >> 24).astype(np.uint8) ^ third.astype(np.uint8)) ^ (third >> 8)
    return first, second, third
