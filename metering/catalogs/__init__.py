"""Metric definitions as data, and the named sets of them that dialects and examples need.

To add a catalog, add a module with it and an entry to `CATALOGS`: no other code knows a metric by name, except the
dialect that a catalog is for.
"""

from metering.catalogs.api_gateway import API_GATEWAY
from metering.catalogs.definition import Catalog, MetricDefinition
from metering.catalogs.demo import DEMO
from metering.catalogs.launchdarkly import LAUNCHDARKLY
from metering.catalogs.usage_client import USAGE_CLIENT
from metering.catalogs.weave import WEAVE

CATALOGS = {catalog.name: catalog for catalog in (DEMO, LAUNCHDARKLY, API_GATEWAY, WEAVE, USAGE_CLIENT)}

__all__ = ["API_GATEWAY", "CATALOGS", "DEMO", "LAUNCHDARKLY", "USAGE_CLIENT", "WEAVE", "Catalog", "MetricDefinition"]
