"""What is kept of requests: the form of the settings."""

from __future__ import annotations

from dataclasses import dataclass

from metering.dialects.gateway.forms import SettingsForm


@dataclass(frozen=True, slots=True)
class SettingsPage:
    form: SettingsForm
