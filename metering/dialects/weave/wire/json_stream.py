"""JSON texts one after the other without separators, in pieces that end anywhere.

What is whole is read by the C scanner of `json` where it stands. What is not is scanned for its end alone, each
character once however small the pieces are, and read when it is whole: the cost is linear in the bytes.
"""

from __future__ import annotations

import json
import re
from codecs import getincrementaldecoder
from decimal import Decimal
from io import StringIO
from typing import Any

from metering.dialects.weave.wire.messages import HEARTBEAT, MAX_MESSAGE_BYTES, MAX_SHOWN_BYTES, Unreadable

_SPACE = re.compile(r"[ \t\r\n]*")
_OUTSIDE_STRING = re.compile(r'["\[\]{}]')
_IN_STRING = re.compile(r'["\\]')
_MESSAGE_START = re.compile(r"[\[{]")
_NULL = "null"


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _scanner() -> Any:
    # Numbers with a fraction keep their digits; integers are exact anyway.
    return json.JSONDecoder(parse_float=Decimal, parse_constant=_refuse_constant).scan_once  # type: ignore[attr-defined]


class JsonStream:
    is_json = True

    def __init__(self, *, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self.held_bytes = 0
        # Of everything that was taken or passed over, for whoever accounts for it.
        self._passed = 0
        self._max_message = max_message_bytes
        # Bytes that are not UTF-8 pass as lone surrogates, so that they spoil their own record only.
        self._decode = getincrementaldecoder("utf-8")("surrogateescape").decode
        self._scan = _scanner()
        self._text = ""
        self._place = 0
        self._tail: _Tail | None = None

    @property
    def taken_bytes(self) -> int:
        return self._passed + self._place

    def feed(self, data: bytes) -> None:
        text = self._decode(data)
        self._passed += self._place
        self._text = self._text[self._place :] + text if self._place < len(self._text) else text
        self._place = 0

    def next_message(self) -> Any:
        if self._tail is not None:
            return self._follow_tail(self._tail)
        text, place = self._text, self._place
        if text.startswith("[", place):  # the usual case, before anything else is asked
            try:
                message, self._place = self._scan(text, place)
            except (StopIteration, ValueError, RecursionError):
                return self._begin_tail()
            return message
        return self._next_unusual()

    def give_up_message(self) -> None:
        if self._tail is not None:
            self._tail.give_up()
            self.held_bytes = 0

    def _next_unusual(self) -> Any:
        """Pass over space; tell a heartbeat, an object, and what cannot be the beginning of a message."""
        space = _SPACE.match(self._text, self._place)
        assert space is not None  # it matches nothing as well
        self._place = space.end()
        text, place = self._text, self._place
        if place == len(text):
            self._empty()
            return None
        if text[place] in "[{":
            return self._begin_tail() if text[place] == "{" else self.next_message()
        if text.startswith(_NULL, place):
            self._place += len(_NULL)
            return HEARTBEAT
        if len(text) - place < len(_NULL) and _NULL.startswith(text[place:]):
            return None
        return self._pass_over_rubbish()

    def _pass_over_rubbish(self) -> Unreadable:
        """Go on where the next message may begin: one sender's slip must not cost what it sends later."""
        start = self._place
        found = _MESSAGE_START.search(self._text, start)
        self._place = found.start() if found else len(self._text)
        rubbish = self._text[start : min(self._place, start + MAX_SHOWN_BYTES)]
        return Unreadable("Between messages stands what is not JSON.", rubbish)

    def _begin_tail(self) -> Any:
        self._tail = _Tail(self._max_message)
        return self._follow_tail(self._tail)

    def _follow_tail(self, tail: _Tail) -> Any:
        """Look for the end of a message that is not whole, or that could not be read."""
        end = tail.scan(self._text, self._place)
        if end is None:
            self._empty()
            self.held_bytes = tail.held
            return None
        self._place, self._tail, self.held_bytes = end, None, 0
        if tail.is_given_up:
            return Unreadable("The message is too large.", tail.whole(), is_oversized=True)
        return self._read_whole(tail.whole())

    def _empty(self) -> None:
        self._passed += len(self._text)
        self._text, self._place = "", 0

    def _read_whole(self, text: str) -> Any:
        try:
            message, end = self._scan(text, 0)
        except (StopIteration, ValueError, RecursionError) as error:
            reason = str(error) or "a value is missing"
            return Unreadable(f"The message is not JSON: {reason[:200]}", text)
        return message if end == len(text) else Unreadable("The message is not JSON: its brackets differ.", text)


class _Tail:
    """The text of one message as it arrives, and how deep in it we are: the brackets outside of strings, counted."""

    def __init__(self, max_characters: int) -> None:
        self.held = 0
        self.is_given_up = False
        self._max = max_characters
        self._text = StringIO()
        self._depth = 0
        self._in_string = False
        self._is_escaped = False

    def scan(self, text: str, start: int) -> int | None:
        """Take in the text from `start`; return where the message ends, None if it does not end in it."""
        end = self._find_end(text, start)
        if not self.is_given_up:
            self.held += self._text.write(text[start:end])
            if self.held > self._max:
                self.give_up()
        return end

    def give_up(self) -> None:
        self.is_given_up = True
        self._text = StringIO(self._text.getvalue()[:MAX_SHOWN_BYTES])
        self.held = 0

    def whole(self) -> str:
        return self._text.getvalue()

    def _find_end(self, text: str, place: int) -> int | None:
        if self._is_escaped and place < len(text):
            place, self._is_escaped = place + 1, False
        while True:
            found = (_IN_STRING if self._in_string else _OUTSIDE_STRING).search(text, place)
            if found is None:
                return None
            place = found.end()
            character = found[0]
            if character == '"':
                self._in_string = not self._in_string
            elif character == "\\":
                if place == len(text):
                    self._is_escaped = True
                    return None
                place += 1
            elif character in "[{":
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth <= 0:
                    return place
