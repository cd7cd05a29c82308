"""Damaged files as hypothesis draws them: a seed with bytes changed, cut, doubled, spliced and overwritten."""

import struct

from hypothesis import strategies as st

from tests.fuzz.seeds import seeds

__all__ = ["damaged", "edits", "mutate"]

# numbers that lengths, sizes and rates go wrong at
EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
WORDS = (
    b"\0",
    b"\n",
    b"../",
    b'"',
    b"'",
    b"{",
    b"}",
    b"[",
    b"]",
    b"&a ",
    b"*a",
    b"<<: ",
    b"!!",
    b": ",
    b"1e999",
    b"-1",
    b"NaN",
    b"\xff\xfe",
    b"\xe2\x80\xae",
    b"CON",
    b"C:\\",
    b"null",
    b"cos\nsystem\n",
    b"R",
    b"\x85\x86\x87",
)
_edge = st.builds(
    lambda value, form: struct.pack(form, value & (256 ** struct.calcsize(form) - 1)),
    st.sampled_from(EDGES),
    st.sampled_from(("B", "<H", ">H", "<I", ">I", "<Q", ">Q")),
)
_piece = st.one_of(_edge, st.sampled_from(WORDS), st.binary(max_size=8))
edits = st.lists(
    st.tuples(
        st.sampled_from(("set", "insert", "delete", "double", "cut", "flip", "splice")),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 64),
        _piece,
    ),
    min_size=1,
    max_size=6,
)


def mutate(data: bytes, changes: list[tuple[str, float, int, bytes]], other: bytes = b"") -> bytes:
    """Apply changes (kind, place as a share of the length, length, bytes) in turn."""
    for kind, place, length, piece in changes:
        at = int(place * len(data))
        head, tail = data[:at], data[at:]
        match kind:
            case "set":
                data = head + piece + tail[len(piece) :]
            case "insert":
                data = head + piece + tail
            case "delete":
                data = head + tail[length:]
            case "double":
                data = head + tail[:length] * 2 + tail[length:]
            case "cut":
                data = head if length % 4 == 0 else data
            case "flip":
                data = head + bytes(byte ^ (1 << length % 8) for byte in tail[:1]) + tail[1:]
            case "splice":
                data = head + other[int(place * len(other)) :]
    return data


def damaged(reader: str) -> st.SearchStrategy[bytes]:
    """Files of a reader with a few faults."""
    seed = st.sampled_from(seeds(reader))
    return st.builds(mutate, seed, edits, seed)
