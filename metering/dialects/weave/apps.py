from django.apps import AppConfig


class WeaveConfig(AppConfig):
    name = "metering.dialects.weave"
    label = "weave"
