"""The base of every DRF view of the API: who calls, with which scope, with which query.

A view says for each of its methods which scope it needs, which query it takes and whether it takes a body; forgetting
one is an error of the view's author that the structure tests find, not an open door.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from rest_framework.request import Request
from rest_framework.views import APIView

from accounts.access import Caller
from accounts.domain import Scope
from common.api import NoQuery, StrictSerializer, read_query, validated


class CallerView(APIView):
    # No OPTIONS: it would describe the view to anybody.
    http_method_names = ["get", "post", "put", "patch", "delete", "head"]

    # The scope that each method needs; None: any caller.
    scopes: ClassVar[Mapping[str, Scope | None]] = {}
    # The query that a method takes; not named: none.
    queries: ClassVar[Mapping[str, type[StrictSerializer]]] = {}
    # Methods that take no body: whatever is in one is refused before anything is done.
    methods_without_body: ClassVar[frozenset[str]] = frozenset({"DELETE"})
    # Methods open to keys that are bound to a customer or to metrics; the view then narrows what they see.
    methods_for_bound_keys: ClassVar[frozenset[str]] = frozenset()

    caller: Caller
    query: dict[str, Any]

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        self.caller = request.auth  # type: ignore[assignment]  # `CallerAuthentication` answers or raises
        method = "GET" if request.method == "HEAD" else str(request.method)
        if method not in self.allowed_methods:
            return  # `dispatch` answers 405
        if method not in self.methods_for_bound_keys:
            self.caller.require_unbound()
        scope = self.scopes[method]
        if scope is not None:
            self.caller.require(scope)
        self.query = self.read_query(request, self.queries.get(method, NoQuery))
        if method in self.methods_without_body and request.data:
            self.read_body(StrictSerializer)

    def read_query(self, request: Request, serializer_class: type[StrictSerializer]) -> dict[str, Any]:
        """Return the query's values. Views whose parameters have free names take those out first."""
        return read_query(request.query_params, serializer_class)

    def read_body(self, serializer_class: type[StrictSerializer], *, is_partial: bool = False) -> dict[str, Any]:
        """Return the validated body; with `is_partial` only the fields that were sent."""
        return validated(serializer_class(data=self.request.data, partial=is_partial))
