"""Reads what stands on the pages of a PDF that Typst wrote: enough of the format for that, and no more.

Follows each page to its fonts and each font to its table of characters, as a viewer does that copies text. What a font
has no character for comes out as U+FFFD, which is the box that a reader would see.
"""

from __future__ import annotations

import re
import zlib

OBJECT = re.compile(rb"(\d+) 0 obj\n(.*?)\nendobj", re.DOTALL)
STREAM = re.compile(rb"(.*?)stream\r?\n(.*)\nendstream", re.DOTALL)
# Outside of a string: it begins (after that name it is not shown), a font is chosen, or a run of text ends.
TOKEN = re.compile(rb"(?:/ActualText)?\(|/(f\d+) [\d.]+ Tf|\bET\b")
# Within one: an escape, or a parenthesis, which is part of it where it has a partner.
MARK = re.compile(rb"\\(?:[0-7]{3}|.)|[()]", re.DOTALL)
ESCAPE = re.compile(rb"\\([0-7]{1,3}|.)", re.DOTALL)
CONTROLS = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f"}
MISSING = "\ufffd"
# What Typst's table says of a box.
UNKNOWN = "\uffff"


def pages_of(pdf: bytes) -> list[str]:
    """Return the text of each page, a line for every run."""
    objects = {int(number): content for number, content in OBJECT.findall(pdf)}
    pages = [content for content in objects.values() if b"/Type/Page/" in content]
    return ["\n".join(_runs(page, objects)) for page in pages]


def text_of(pdf: bytes) -> str:
    """Return all that stands in it, without the ends of runs, which may be anywhere."""
    return "".join(pages_of(pdf)).replace("\n", "").replace("\u200b", "")


def _runs(page: bytes, objects: dict[int, bytes]) -> list[str]:
    fonts = {
        name: _characters(objects[int(number)], objects)
        for name, number in re.findall(rb"/(f\d+) (\d+) 0 R", objects[_reference(page, b"Resources")])
    }
    content = _stream(objects[_reference(page, b"Contents")])
    runs, run, place = [], "", 0
    characters: dict[int, str] = {}
    while found := TOKEN.search(content, place):
        place = found.end()
        if found[1]:
            characters = fonts[found[1]]
        elif found[0].endswith(b"("):
            end = _end_of_string(content, place)
            codes = ESCAPE.sub(_unescape, content[place:end]) if found[0] == b"(" else b""
            place = end + 1
            pairs = [int.from_bytes(codes[at : at + 2]) for at in range(0, len(codes), 2)]
            run += "".join(characters.get(code, MISSING) for code in pairs).replace(UNKNOWN, MISSING)
        else:
            runs.append(run)
            run = ""
    return runs


def _end_of_string(content: bytes, place: int) -> int:
    depth = 1
    for found in MARK.finditer(content, place):
        depth += {b"(": 1, b")": -1}.get(found[0], 0)
        if depth == 0:
            return found.start()
    raise AssertionError("a string does not end")


def _characters(font: bytes, objects: dict[int, bytes]) -> dict[int, str]:
    table = _stream(objects[_reference(font, b"ToUnicode")]).decode("ascii")
    single = re.findall(r"^<([0-9A-F]+)> <([0-9A-F]+)>$", table, re.MULTILINE)
    return {int(code, 16): bytes.fromhex(text).decode("utf-16-be") for code, text in single if len(code) == 4}


def _reference(content: bytes, name: bytes) -> int:
    found = re.search(rb"/" + name + rb" (\d+) 0 R", content)
    assert found is not None, content[:200]
    return int(found[1])


def _stream(content: bytes) -> bytes:
    found = STREAM.match(content)
    assert found is not None
    return zlib.decompress(found[2]) if b"FlateDecode" in found[1] else found[2]


def _unescape(found: re.Match[bytes]) -> bytes:
    text = found[1]
    return bytes([int(text, 8)]) if text.isdigit() else CONTROLS.get(text, text)
