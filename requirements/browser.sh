#!/bin/sh
# Install Chromium for the tests that drive pages. Without it they are skipped, with this reason.
set -u
for name in chromium chromium-browser google-chrome google-chrome-stable; do
    if command -v "$name" >/dev/null 2>&1; then exit 0; fi
done
if [ -n "${METERBOOK_CHROMIUM:-}" ]; then exit 0; fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing chromium for the page tests (apt-get; a minute or two) …"
    export DEBIAN_FRONTEND=noninteractive
    if apt-get update -qq </dev/null && apt-get install -y -qq --no-install-recommends chromium </dev/null; then exit 0; fi
    echo "chromium could not be installed"
fi
echo "no browser found: the page tests will be skipped. Install chromium, or set METERBOOK_CHROMIUM=/path/to/it."
