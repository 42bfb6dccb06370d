"""Analytics over the requests that API gateways report."""
