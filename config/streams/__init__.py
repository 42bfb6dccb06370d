"""Server-Sent Events: who may listen, how a web server sends clients here, and what goes over the wire.

Streams live in their own ASGI process, so that a thousand idle listeners cost no thread of the web server, which
answers them with a redirect. `events`, `requests` and `alerts` are the streams, `access` and `wire` what they share.
"""

from config.streams import alerts, events, requests
from config.streams.access import TICKET_SALT, make_ticket
from config.streams.events import encode_delivery

__all__ = ["TICKET_SALT", "alerts", "encode_delivery", "events", "make_ticket", "requests"]
