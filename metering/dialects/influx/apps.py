from django.apps import AppConfig


class InfluxConfig(AppConfig):
    name = "metering.dialects.influx"
    label = "influx"
