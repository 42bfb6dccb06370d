"""The "account usage" API as LaunchDarkly's own clients speak it, answered from the catalog `launchdarkly`."""
