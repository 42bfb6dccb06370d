"""The dialect of Weave's billing-client: amounts that arrive over fluentd's forward protocol."""
