"""Looking at a page as it is: on a wide and on a narrow screen, light and dark; for people, as pictures too."""

from __future__ import annotations

import os
from pathlib import Path
from time import monotonic

from playwright.sync_api import Page

from tests.browser.conftest import NARROW, WIDE

# A directory for screenshots; usually none.
PICTURES = os.environ.get("METERBOOK_TEST_PICTURES")

FITS = "document.readyState === 'complete' && document.documentElement.scrollWidth <= innerWidth"
PATIENCE_SECONDS = 5.0


def look_at(page: Page, name: str) -> None:
    """Fail if the page scrolls sideways on a wide or a narrow screen. It stays open as it was, but narrow."""
    for size, scheme in ((WIDE, "light"), (NARROW, "dark")):
        page.set_viewport_size(size)  # type: ignore[arg-type]  # plain dictionaries
        if PICTURES:
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]  # a literal
            page.screenshot(path=Path(PICTURES) / f"{name}-{size['width']}-{scheme}.png", full_page=True)
        assert _fits(page), (name, size)


def _fits(page: Page) -> bool:
    """Ask until the page is there: the click before may still be under way to it."""
    give_up_at = monotonic() + PATIENCE_SECONDS
    while not (answer := page.evaluate(FITS)) and monotonic() < give_up_at:
        page.wait_for_timeout(50)
    return bool(answer)
