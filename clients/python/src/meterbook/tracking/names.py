"""Who asked, with which key, for which route: functions of the program, whose mistakes cost no request its answer."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Generic, TypeAlias, TypeVar

from meterbook.tracking.recorder import RequestRecorder
from meterbook.tracking.watch import Watch

Source = TypeVar("Source")
# From what the framework hands over to a name; None: there is none.
NameOf: TypeAlias = Callable[[Source], str | None]
AnyNameOf: TypeAlias = Callable[[Source], str | Awaitable[str | None] | None]


class Names(Generic[Source]):
    """The functions that were given, by the field that each fills; called when the request is over."""

    def __init__(self, recorder: RequestRecorder, **functions: AnyNameOf[Source] | None) -> None:
        self._recorder = recorder
        self._functions = tuple((field, function) for field, function in functions.items() if function is not None)

    def fill(self, watch: Watch, source: Source) -> None:
        for field, function in self._functions:
            try:
                name = function(source)
                if name is not None:
                    setattr(watch, field, name)
            except Exception as failure:  # the program's; the request is recorded without this field
                self._recorder.note_failure(failure)

    async def fill_async(self, watch: Watch, source: Source) -> None:
        for field, function in self._functions:
            try:
                found = function(source)
                name = await found if inspect.isawaitable(found) else found
                if name is not None:
                    setattr(watch, field, name)
            except Exception as failure:
                self._recorder.note_failure(failure)
