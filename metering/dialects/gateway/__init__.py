"""The dialect of API gateways: each request that was served becomes an event with metered units."""
