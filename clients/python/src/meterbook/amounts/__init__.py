"""Usage amounts over fluentd's forward protocol, as Weave's Go billing-client sends them, but acknowledged.

    from meterbook.amounts import SAMPLES, AmountsClient, AmountsConfig

    with AmountsClient(AmountsConfig(ingester_host_port="localhost:24225")) as amounts:
        amounts.add_amounts(report_id, "1234", datetime.now(UTC), {SAMPLES: 7}, {"report": report_url})

The server names a customer by the internal instance id; which one is configured there. Needs no API key: whoever
reaches the port may send, so it belongs on a loopback or private address.
"""

from meterbook.amounts.client import AmountsClient
from meterbook.amounts.config import AmountsConfig, register_flags
from meterbook.amounts.records import CONTAINER_SECONDS, NODE_SECONDS, SAMPLES, WEAVENET_SECONDS
from meterbook.amounts.telemetry import read_counts, register_metrics
from meterbook.errors import StoppingError

__all__ = [
    "CONTAINER_SECONDS",
    "NODE_SECONDS",
    "SAMPLES",
    "WEAVENET_SECONDS",
    "AmountsClient",
    "AmountsConfig",
    "StoppingError",
    "read_counts",
    "register_flags",
    "register_metrics",
]
