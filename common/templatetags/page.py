"""Template tags of every page: numbers, times, icons, and the product's own version."""

import tomllib
from datetime import datetime
from decimal import Decimal
from functools import cache
from pathlib import Path

from django import template
from django.conf import settings
from django.templatetags.static import static
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timesince import timesince

from common.numbers import exact_text, readable_text

register = template.Library()

ABSENT = SafeString('<span class="is-faint" title="none">\u2013</span>')


@register.filter
def quantity(value: Decimal | int | None) -> SafeString:
    """Show a number for reading, with every digit in its title and value."""
    if value is None:
        return ABSENT
    exact = Decimal(value)
    text = exact_text(exact)
    return format_html('<data class="number" value="{}" title="{}">{}</data>', text, text, readable_text(exact))


@register.filter
def moment(value: datetime | None) -> SafeString:
    """Show an instant to the second in the page's time zone; its title has microseconds and UTC."""
    return ABSENT if value is None else _time_element(value, f"{timezone.localtime(value):%-d %b %Y, %H:%M:%S}")


@register.filter
def day(value: datetime | None) -> SafeString:
    """Show the local day of an instant."""
    return ABSENT if value is None else _time_element(value, f"{timezone.localtime(value):%-d %b %Y}")


@register.filter
def ago(value: datetime | None) -> SafeString:
    """Show how long ago an instant was, by its two largest units at most."""
    if value is None:
        return ABSENT
    if (timezone.now() - value).total_seconds() < 60:
        return _time_element(value, "just now")
    return _time_element(value, f"{timesince(value, depth=1)} ago")


def _time_element(value: datetime, text: str) -> SafeString:
    utc = value.astimezone(timezone.get_default_timezone())
    return format_html(
        '<time datetime="{}" title="{}">{}</time>', utc.isoformat(), f"{utc:%Y-%m-%d %H:%M:%S.%f} UTC", text
    )


@register.simple_tag
def icon(name: str) -> SafeString:
    return format_html(
        '<svg class="icon" aria-hidden="true"><use href="{}#{}"></use></svg>', static("img/icons.svg"), name
    )


@register.simple_tag
@cache
def product_version() -> str:
    project = Path(settings.BASE_DIR) / "pyproject.toml"
    return str(tomllib.loads(project.read_text())["project"]["version"])
