"""Metric definitions as data, and the named sets of them that dialects and examples need.

To add a catalog, add a module with it and an entry to `CATALOGS`: no other code knows a metric by name, except the
dialect that a catalog is for.
"""

from metering.catalogs.definition import Catalog, MetricDefinition
from metering.catalogs.demo import DEMO
from metering.catalogs.launchdarkly import LAUNCHDARKLY

CATALOGS = {catalog.name: catalog for catalog in (DEMO, LAUNCHDARKLY)}

__all__ = ["CATALOGS", "DEMO", "LAUNCHDARKLY", "Catalog", "MetricDefinition"]
