"""The dialect of influxdata's usage-client: servers that report what they are and what they count."""
