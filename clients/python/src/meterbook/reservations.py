"""Reservations in use: held for a block of code, committed at its end, released when it raises."""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from datetime import datetime
from decimal import Decimal
from types import TracebackType
from typing import Any, Self

from meterbook.errors import MeterbookError
from meterbook.events import PropertyValue
from meterbook.quantities import Quantity
from meterbook.quotas import QuotaVerdict, Reservation
from meterbook.transport import AsyncTransport, SyncTransport
from meterbook.verbs import quotas
from meterbook.wire import Plan

logger = logging.getLogger(__name__)


class _Held:
    """What both kinds know of their reservation. `data` is the server's latest answer."""

    def __init__(self, data: Reservation) -> None:
        self.data = data
        self.is_settled = False

    @property
    def id(self) -> str:
        return self.data.id

    @property
    def amount(self) -> Decimal:
        return self.data.amount

    @property
    def expires_at(self) -> datetime:
        return self.data.expires_at

    @property
    def quota(self) -> QuotaVerdict | None:
        """What was left when the amount had been reserved."""
        return self.data.quota


class HeldReservation(_Held):
    """A reservation, and a context manager that settles it.

    The end of the block commits the whole amount, which the server counts as usage; an exception releases it and
    goes on. Call `commit` or `release` in the block to settle it otherwise. A release that fails is logged: the
    reservation ends by itself at `expires_at`.
    """

    def __init__(self, transport: SyncTransport, data: Reservation) -> None:
        super().__init__(data)
        self._transport = transport

    def commit(
        self,
        *,
        amount: Quantity | None = None,
        properties: Mapping[str, PropertyValue] | None = None,
        timestamp: datetime | int | str | None = None,
    ) -> Reservation:
        """Turn it into usage: `amount` of it, by default all. Do not send an event for it as well."""
        plan = quotas.commit(self.id, amount=amount, properties=properties, timestamp=timestamp)
        return self._settle(plan)

    def release(self) -> Reservation:
        """Give it back unused."""
        return self._settle(quotas.release(self.id))

    def _settle(self, plan: Plan[Reservation]) -> Reservation:
        settled = self._transport.run(plan)
        self.is_settled = True
        return settled

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_settled:
            return
        if error is None:
            self.commit()
            return
        try:
            self.release()
        except MeterbookError as failure:
            _log_unreleased(self.data, failure)


class AsyncHeldReservation(_Held):
    """`HeldReservation` for asyncio."""

    def __init__(self, transport: AsyncTransport, data: Reservation) -> None:
        super().__init__(data)
        self._transport = transport

    async def commit(
        self,
        *,
        amount: Quantity | None = None,
        properties: Mapping[str, PropertyValue] | None = None,
        timestamp: datetime | int | str | None = None,
    ) -> Reservation:
        """Turn it into usage: `amount` of it, by default all. Do not send an event for it as well."""
        plan = quotas.commit(self.id, amount=amount, properties=properties, timestamp=timestamp)
        return await self._settle(plan)

    async def release(self) -> Reservation:
        """Give it back unused."""
        return await self._settle(quotas.release(self.id))

    async def _settle(self, plan: Plan[Reservation]) -> Reservation:
        settled = await self._transport.run(plan)
        self.is_settled = True
        return settled

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_settled:
            return
        if error is None:
            await self.commit()
            return
        try:
            await self.release()
        except MeterbookError as failure:
            _log_unreleased(self.data, failure)


class AsyncReserving:
    """A request for a reservation that has not been sent: await it, or enter it with `async with`."""

    def __init__(self, transport: AsyncTransport, plan: Plan[Reservation]) -> None:
        self._transport = transport
        self._plan = plan
        self._held: AsyncHeldReservation | None = None

    def __await__(self) -> Generator[Any, None, AsyncHeldReservation]:
        return self._reserve().__await__()

    async def _reserve(self) -> AsyncHeldReservation:
        return AsyncHeldReservation(self._transport, await self._transport.run(self._plan))

    async def __aenter__(self) -> AsyncHeldReservation:
        self._held = await self._reserve()
        return self._held

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._held is not None, "a block that is left was entered"
        await self._held.__aexit__(kind, error, trace)


def _log_unreleased(reservation: Reservation, failure: MeterbookError) -> None:
    logger.warning(
        "Reservation %s could not be released (%s); it ends by itself at %s.",
        reservation.id,
        failure,
        reservation.expires_at,
    )
