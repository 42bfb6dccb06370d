"""How to record the first request: commands that work as they stand, but for the key."""

from __future__ import annotations

import json
from dataclasses import dataclass

from django.http import HttpRequest

EXAMPLE = {
    "request_id": "my-first-request",
    "user_id": "usr_1",
    "method": "GET",
    "path": "/users/17",
    "status_code": 200,
    "latency_ms": 42,
    "request_bytes": 0,
    "response_bytes": 2048,
}


@dataclass(frozen=True, slots=True)
class FirstRequest:
    curl: str
    middleware: str


def get_first_request(request: HttpRequest) -> FirstRequest:
    base_url = request.build_absolute_uri("/").rstrip("/")
    return FirstRequest(
        curl=(
            f"curl {base_url}/v1/requests \\\n"
            '  -H "Authorization: Bearer $METERBOOK_API_KEY" \\\n'
            '  -H "Content-Type: application/json" \\\n'
            f"  -d '{json.dumps(EXAMPLE, indent=2)}'"
        ),
        middleware=(
            "# settings.py\n"
            "MIDDLEWARE = [\n"
            '    "meterbook.tracking.django.TrackingMiddleware",\n'
            "    ...\n"
            "]\n"
            "METERBOOK = {\n"
            f'    "URL": "{base_url}",\n'
            '    "API_KEY": os.environ["METERBOOK_API_KEY"],\n'
            '    "TRACKING": {"USER": "meterbook.tracking.django.signed_in_user"},\n'
            "}"
        ),
    )
