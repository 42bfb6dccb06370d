"""One dataclass per template of the gateway's pages: everything that it shows, computed."""
