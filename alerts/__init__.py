"""Telling and holding back: thresholds, crossings, the stream, webhooks, e-mail, quotas."""
