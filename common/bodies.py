"""Request bodies: read, decompressed and decoded within bounds, whatever the sender claims about them.

Every number with a fraction or an exponent becomes a `Decimal`; nothing passes through a float.
"""

import gzip
import io
import re
import sys
import zlib
from decimal import Decimal, InvalidOperation
from typing import Any, Protocol

import msgspec
import zstandard
from django.http import HttpRequest, UnreadablePostError

from common.errors import BadRequest, FieldError, InvalidInput, TooLarge, UnsupportedMediaType

# A declared length of more is too large, whatever it is.
MAX_LENGTH_DIGITS = 18
ACCEPTED_ENCODINGS = "gzip, zstd, identity"

# Stands for a number whose exponent no Decimal can hold. It has more digits than any field takes, so whoever
# examines it refuses it.
UNREADABLE_NUMBER = Decimal("1E+999999")


def read_number(digits: str) -> Decimal:
    """Return a JSON number with a fraction or an exponent, exactly; for msgspec's `float_hook`."""
    try:
        return Decimal(digits)
    except InvalidOperation:
        return UNREADABLE_NUMBER


_json = msgspec.json.Decoder(float_hook=read_number)
_BYTE_POSITION = re.compile(r"byte (\d+)")


class ReadableStream(Protocol):
    def read(self, size: int, /) -> bytes: ...


def read_body(request: HttpRequest, *, max_bytes: int, stream: ReadableStream | None = None) -> bytes:
    """Return the body, decompressed as `Content-Encoding` says; neither form may exceed `max_bytes`.

    Never holds more than `max_bytes` of either form. Raises `TooLarge`, `BadRequest` for a length that is no number
    and data that does not decompress, `UnsupportedMediaType` for another encoding.
    """
    if _declared_length(request) > max_bytes:
        raise _too_large(max_bytes)
    try:
        body = (stream or request).read(max_bytes + 1)
    except UnreadablePostError:
        raise BadRequest("The connection ended before the body did.", code="incomplete_body") from None
    if len(body) > max_bytes:
        raise _too_large(max_bytes)
    return decompress(body, request.headers.get("Content-Encoding", ""), max_bytes=max_bytes)


def _declared_length(request: HttpRequest) -> int:
    text = request.headers.get("Content-Length", "").strip()
    if text and not (text.isascii() and text.isdecimal()):
        raise BadRequest("Content-Length is not a number of bytes.", code="invalid_content_length")
    return int(text or 0) if len(text) <= MAX_LENGTH_DIGITS else sys.maxsize


def decompress(body: bytes, encoding: str, *, max_bytes: int) -> bytes:
    match encoding.strip().lower():
        case "" | "identity":
            return body
        case "gzip" | "x-gzip":
            return _decompress_gzip(body, max_bytes)
        case "zstd":
            return _decompress_zstd(body, max_bytes)
    raise UnsupportedMediaType(
        f"Content-Encoding {encoding[:50]!r} is not understood; send gzip, zstd or none.",
        code="unsupported_encoding",
        headers={"Accept-Encoding": ACCEPTED_ENCODINGS},
    )


def _decompress_gzip(body: bytes, max_bytes: int) -> bytes:
    """Decompress one or several gzip members, as `gzip -c` appends them."""
    try:
        content = gzip.GzipFile(fileobj=io.BytesIO(body)).read(max_bytes + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise _not_compressed("gzip") from None
    if len(content) > max_bytes:
        raise _too_large(max_bytes)
    return content


def _decompress_zstd(body: bytes, max_bytes: int) -> bytes:
    """Decompress exactly one frame.

    Twice on purpose: the reader bounds the memory but takes a frame that was cut short for a whole one; the
    decompression object notices the cut but has no bound.
    """
    decompressor = zstandard.ZstdDecompressor()
    try:
        if len(decompressor.stream_reader(body).read(max_bytes + 1)) > max_bytes:
            raise _too_large(max_bytes)
        frame = decompressor.decompressobj()
        content = frame.decompress(body)
    except zstandard.ZstdError:
        raise _not_compressed("zstd") from None
    if not frame.eof or frame.unused_data:
        raise _not_compressed("zstd")
    return content


def decode_json(body: bytes) -> Any:
    """Decode any JSON value. Raises `BadRequest` with the byte position where it stops being JSON."""
    try:
        return _json.decode(body)
    except msgspec.ValidationError:  # of any value: an integer of thousands of digits
        raise InvalidInput.of("body", "A number is too long to be read.", "number_out_of_range") from None
    except UnicodeDecodeError as error:
        raise malformed_json("not valid UTF-8", _find_bad_byte(body, error)) from None
    except msgspec.DecodeError as error:
        position = _BYTE_POSITION.search(str(error))
        # Without a position the decoder ran into the end (or into half of a surrogate pair).
        raise malformed_json(str(error), int(position[1]) if position else len(body)) from None
    except RecursionError:
        raise malformed_json("nested too deeply") from None


def _find_bad_byte(body: bytes, error: UnicodeDecodeError) -> int:
    """Return the position in the body; the decoder's error counts from the beginning of the string it was reading."""
    try:
        body.decode()
    except UnicodeDecodeError as error_of_body:
        return error_of_body.start
    return error.start


def malformed_json(reason: str, position: int | None = None) -> BadRequest:
    return BadRequest(
        f"The body is not valid JSON: {reason}.",
        code="malformed_json",
        errors=[FieldError("body", "malformed_json", reason)],
        extra={} if position is None else {"position": position},
    )


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"The body exceeds {max_bytes} bytes, as sent or decompressed.", code="body_too_large")


def _not_compressed(encoding: str) -> BadRequest:
    return BadRequest(f"The body is not whole, valid {encoding}.", code="malformed_compression")
