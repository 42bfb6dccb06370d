"""Messages of the forward protocol in which any member is anything: whole, and otherwise as odd as they come."""

from __future__ import annotations

import gzip
import json

from hypothesis import strategies as st

# --- MessagePack, spelled out: an encoder would leave out what only other encoders write -----------------------


def _array(members: list[bytes], width: int) -> bytes:
    head = bytes([0x90 + len(members)]) if not width else bytes([0xDB + width // 2]) + len(members).to_bytes(width)
    return head + b"".join(members)


def _map(pairs: list[tuple[bytes, bytes]], width: int) -> bytes:
    head = bytes([0x80 + len(pairs)]) if not width else bytes([0xDD + width // 2]) + len(pairs).to_bytes(width)
    return head + b"".join(name + value for name, value in pairs)


def _text(content: bytes) -> bytes:
    return b"\xda" + len(content).to_bytes(2) + content


WIDTHS = st.sampled_from([0, 2, 4])
LEAVES = st.sampled_from(
    [
        *(b"\xc0", b"\xc2", b"\x01", b"\xff", b"\xcf" + b"\xff" * 8, b"\xd3\x80" + b"\x00" * 7),
        *(b"\xca\x7f\xc0\x00\x00", b"\xcb\x7f\xf8" + b"\x00" * 6),  # not a number
        *(b"\xa0", b"\xa1a", b"\xa2\xff\xfe", b"\xc4\x00", b"\xc4\x02\xff\xfe", _text(b"x" * 1_100)),
        *(b"\xd4\x05a", b"\xd7\x00" + b"\x01" * 8, b"\xd6\xff" + b"\x00" * 4, b"\xd7\xff" + b"\xff" * 8),
        *(_text(name) for name in (b"chunk", b"compressed", b"gzip", b"unique_key", b"amount_type")),
        *(_text(gzip.compress(packed)) for packed in (b"", b"\x92\x01\xc0", b"\xdc\x00\x01\xc0", b"\x92\x01")),
    ]
)
OBJECTS = st.recursive(
    LEAVES,
    lambda inner: (
        st.builds(_array, st.lists(inner, max_size=4), WIDTHS)
        | st.builds(_map, st.lists(st.tuples(inner, inner), max_size=3), WIDTHS)
    ),
    max_leaves=12,
)
OPTIONS = st.builds(
    lambda chunk, compressed: _map([(_text(b"chunk"), chunk), (_text(b"compressed"), compressed)], 2), OBJECTS, OBJECTS
)
PACKED = st.builds(lambda entries: _text(b"".join(entries)), st.lists(OBJECTS, max_size=4))
ODD_MSGPACK = st.builds(
    lambda members, width: _array(members, width),
    st.one_of(
        st.lists(OBJECTS, max_size=5),
        st.tuples(OBJECTS, OBJECTS | PACKED, OPTIONS).map(list),
        st.tuples(OBJECTS, OBJECTS, OBJECTS, OPTIONS).map(list),
    ),
    WIDTHS,
)

# --- JSON -----------------------------------------------------------------------------------------------------

# Lone halves of characters too, which JSON can say and UTF-8 cannot.
WORDS = st.text(st.characters(), max_size=4) | st.sampled_from(["chunk", "unique_key", "\ud800", "\x00"])
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
CONTENT = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=12,
)
JSON_OPTIONS = st.fixed_dictionaries({"chunk": CONTENT, "compressed": CONTENT})
ODD_JSON = st.one_of(
    st.lists(CONTENT, max_size=5),
    st.tuples(CONTENT, st.lists(st.lists(CONTENT, max_size=3) | CONTENT), JSON_OPTIONS),
    st.tuples(CONTENT, CONTENT, CONTENT, JSON_OPTIONS),
).map(lambda content: json.dumps(content).encode())
