"""One connection of the forward protocol: bytes in, parcels of records out, acknowledgements back.

Owns what is read and when reading pauses. Never writes a byte to a sender that did not ask: the billing-client reads
nothing, and loses what it sent last when something is left unread at its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec
import structlog

from metering.dialects.weave.telemetry import ACKNOWLEDGEMENTS, CHUNKS_REFUSED, STREAMS_LOST
from metering.dialects.weave.wire import (
    HEARTBEAT,
    MAX_MESSAGE_BYTES,
    Carried,
    ChunkTooLarge,
    MsgpackStream,
    Stream,
    Undecodable,
    Unreadable,
    encode_ack,
    open_message,
    open_stream,
    set_aside,
)
from metering.dialects.weave.wire.handshake import MAX_PING_BYTES, Handshake, Refusal
from metering.dialects.weave.wire.msgpack_stream import RawMessage
from metering.dialects.weave.writers import MAX_PARCEL_RECORDS, Parcel

# After so many records the other connections have their turn.
TURN_RECORDS = 2_000
HANDSHAKE_SECONDS = 10.0

logger = structlog.get_logger("meterbook.forward")


class Hub(Protocol):
    """What the connections share: the room for records that are not stored yet."""

    @property
    def has_room(self) -> bool:
        """Whether records can be submitted now."""
        ...

    @property
    def is_reading(self) -> bool:
        """Whether connections should read on."""
        ...

    def submit(self, parcel: Parcel) -> None:
        """Take records in; there may be no room for more afterwards."""
        ...

    def note_held(self, change: int) -> bool:
        """Account for unfinished messages; false when all of them together are too large."""
        ...

    def forget(self, connection: ForwardConnection) -> None:
        """The connection is closed and has nothing more to submit."""
        ...


class Delivery(msgspec.Struct, eq=False):
    """What the sender of a chunk waits for: the acknowledgement, once all of its parcels are stored."""

    connection: ForwardConnection
    reply: bytes
    pending: int = 0
    is_complete: bool = False

    def settle(self) -> None:
        """Call when something changed: acknowledge if that was all."""
        if self.is_complete and not self.pending:
            self.connection.acknowledge(self.reply)


class ForwardConnection(asyncio.Protocol):
    """The life of a connection, on the loop's thread. With a handshake, nothing is read before it succeeded."""

    def __init__(self, hub: Hub, handshake: Handshake | None = None) -> None:
        self._hub = hub
        self._handshake = handshake
        self._transport: asyncio.Transport | None = None
        self._timeout: asyncio.TimerHandle | None = None
        self._peer = ""
        self._stream: Stream | None = None
        # What was taken and not yet submitted; of a message that was opened, the rest, and who waits for it.
        self._batch: list[Any] = []
        self._opened: Iterator[Any] | None = None
        self._delivery: Delivery | None = None
        # The message that is being opened, and where in the stream a failure was that nobody foresaw.
        self._message: Any = None
        self._failed_at = -1
        # How much of the stream (and of what was inflated) was accounted for.
        self._accounted = 0
        self._inflated = 0
        self._held = 0
        # Deliveries that wait for their acknowledgement.
        self._unacknowledged = 0
        # Something that was fed is not taken yet.
        self._is_behind = False
        self._is_deaf = False
        self._is_at_end = False
        self._is_closed = False
        self._is_write_blocked = False

    # --- what asyncio calls -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        address = transport.get_extra_info("peername")
        self._peer = f"{address[0]}:{address[1]}" if address else ""
        if self._handshake is not None:
            self._stream = MsgpackStream(max_message_bytes=MAX_PING_BYTES)
            self._timeout = asyncio.get_running_loop().call_later(HANDSHAKE_SECONDS, transport.abort)
            transport.write(self._handshake.hello())
        self.update_reading()

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        if self._stream is None:
            self._stream = open_stream(data)
        self._stream.feed(data)
        self.take_turn()

    def eof_received(self) -> bool:
        """Stay until the sender has its acknowledgements: it may have closed its own half only."""
        self._is_at_end = True
        return not self._is_finished

    def pause_writing(self) -> None:
        # The sender does not read its acknowledgements: it gets no more of them, and is not read either.
        self._is_write_blocked = True
        self.update_reading()

    def resume_writing(self) -> None:
        self._is_write_blocked = False
        self.update_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._is_closed = True
        if self._timeout is not None:
            self._timeout.cancel()
        if not self._is_behind:
            self._leave()

    # --- what the listener calls ------------------------------------------------------------------

    @property
    def is_quiet(self) -> bool:
        """Whether everything that was read is submitted."""
        return not self._is_behind

    @property
    def transport(self) -> asyncio.Transport | None:
        return self._transport

    def update_reading(self) -> None:
        """Read exactly while there is room for what would come."""
        if self._transport is None or self._is_closed:
            return
        if self._hub.is_reading and not self._is_behind and not self._is_write_blocked:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def take_turn(self) -> None:
        """Take what was fed, as long as there is room and the turn lasts; go on later where it is more."""
        try:
            is_done = self._take_messages()
        except Undecodable as error:
            self._turn_deaf(str(error))
            is_done = True
        except Exception as error:  # asyncio would close the connection, and what it sent before would be lost
            is_done = self._pass_over_failure(error)
        self._submit()
        if is_done:
            self._account_held()
            if self._is_behind:
                self._is_behind = False
                self.update_reading()
            self._finish_if_done()
            return
        self._is_behind = True
        self.update_reading()
        if self._hub.has_room:  # else the listener calls when there is
            asyncio.get_running_loop().call_soon(self.take_turn)

    def go_on(self) -> None:
        """There is room again."""
        if self._is_behind:
            self.take_turn()
        else:
            self.update_reading()

    def acknowledge(self, reply: bytes) -> None:
        self._unacknowledged -= 1
        if self._transport is not None and not self._is_closed:
            self._transport.write(reply)
            ACKNOWLEDGEMENTS.inc()
        self._finish_if_done()

    def abort(self) -> None:
        """Give the connection up: it failed, and the sender sends again what was not acknowledged."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Close after what was written is sent."""
        if self._transport is not None:
            self._transport.close()

    # --- taking messages --------------------------------------------------------------------------

    def _take_messages(self) -> bool:
        """Return whether everything that was fed is taken. Raises `Undecodable`."""
        stream = self._stream
        left = TURN_RECORDS
        while left > 0 and self._hub.has_room and stream is not None:
            if self._opened is not None:
                left -= self._take_opened(self._opened, left)
                continue
            batch = self._batch
            for _ in range(MAX_PARCEL_RECORDS - len(batch)):
                message = stream.next_message()
                if message is None:
                    return True
                left -= 1
                if (
                    type(message) is list  # the billing-client's: one record, and nobody who waits
                    and len(message) == 4
                    and type(message[2]) is dict
                    and type(message[1]) is int
                    and not message[3]
                ):
                    batch.append(message[2])
                else:
                    self._open(message)
                    stream = self._stream
                    break
            if len(self._batch) >= MAX_PARCEL_RECORDS:
                self._submit()
        return stream is None

    def _open(self, message: Any) -> None:
        if message is HEARTBEAT:
            return
        if self._handshake is not None:
            self._shake_hands(self._handshake, message)
            return
        self._message = message
        try:
            carried = open_message(message)
        except ChunkTooLarge as error:
            carried = Carried([Unreadable(str(error), error.beginning, is_oversized=True)])
        if isinstance(message, Unreadable) and message.is_oversized:
            CHUNKS_REFUSED.inc()
            logger.warning("a message was too large", peer=self._peer)
        if carried.chunk is not None:
            self._submit()
            assert self._stream is not None
            reply = encode_ack(carried.chunk, is_json=self._stream.is_json)
            self._delivery = Delivery(self, reply)
            self._unacknowledged += 1
        self._inflated += carried.inflated_bytes
        self._opened = iter(carried.records)

    def _take_opened(self, opened: Iterator[Any], limit: int) -> int:
        """Take records of the opened message, at most so many; return how many it were."""
        count = 0
        for record in opened:
            self._batch.append(record)
            count += 1
            if len(self._batch) >= MAX_PARCEL_RECORDS:
                self._submit()
            if count >= limit or not self._hub.has_room:
                return count
        self._close_opened()
        return count

    def _close_opened(self) -> None:
        self._opened = self._message = None
        if self._delivery is not None:
            self._submit()
            delivery, self._delivery = self._delivery, None
            delivery.is_complete = True
            delivery.settle()

    def _pass_over_failure(self, error: Exception) -> bool:
        """Quarantine the message whose reading failed, so that what follows it counts; return whether nothing does.

        It is acknowledged, for its sender would send it for ever.
        """
        logger.error("a message could not be read", peer=self._peer, exc_info=error)
        stream = self._stream
        if stream is None or self._handshake is not None or stream.taken_bytes == self._failed_at:
            self._turn_deaf("reading fails")
            return True
        self._failed_at = stream.taken_bytes
        if self._message is not None:
            self._batch.append(set_aside(self._message, error))
        self._close_opened()
        return False

    def _submit(self) -> None:
        if not self._batch:
            return
        assert self._stream is not None
        total = self._stream.taken_bytes + self._inflated
        records, self._batch = self._batch, []
        parcel = Parcel(records, self._peer, datetime.now(UTC), total - self._accounted, self._delivery)
        self._accounted = total
        if self._delivery is not None:
            self._delivery.pending += 1
        self._hub.submit(parcel)

    def _account_held(self) -> None:
        held = self._stream.held_bytes if self._stream is not None else 0
        if held == self._held:
            return
        change, self._held = held - self._held, held
        if not self._hub.note_held(change) and self._stream is not None:
            self._stream.give_up_message()
            left = self._stream.held_bytes
            self._hub.note_held(left - self._held)
            self._held = left

    def _turn_deaf(self, reason: str) -> None:
        """Read and forget from here on: nothing that follows can be told apart, and the sender reads no answer."""
        self._submit()
        self._is_deaf, self._stream = True, None
        STREAMS_LOST.inc()
        logger.warning("the rest of a connection cannot be decoded", peer=self._peer, reason=reason)

    # --- the handshake and the end ----------------------------------------------------------------

    def _shake_hands(self, handshake: Handshake, message: Any) -> None:
        assert self._transport is not None
        try:
            reply = handshake.answer(message.data if isinstance(message, RawMessage) else b"\x90")
        except Refusal as refusal:
            logger.warning("a sender was refused", peer=self._peer, reason=str(refusal))
            self._is_deaf, self._stream = True, None
            self._transport.write(refusal.answer)
            self._transport.close()
            return
        assert isinstance(self._stream, MsgpackStream)
        assert self._timeout is not None
        self._timeout.cancel()
        self._handshake = None
        self._stream.allow(MAX_MESSAGE_BYTES)
        self._transport.write(reply)

    @property
    def _is_finished(self) -> bool:
        return not self._is_behind and not self._unacknowledged

    def _finish_if_done(self) -> None:
        if self._is_closed:
            if not self._is_behind:
                self._leave()
        elif self._is_at_end and self._is_finished:
            self.close()

    def _leave(self) -> None:
        """Give back what the connection occupied; an unfinished message is a torn tail."""
        self._stream = None
        self._is_deaf = True
        self._account_held()
        self._hub.forget(self)
