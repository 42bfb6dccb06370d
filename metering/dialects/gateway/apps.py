from django.apps import AppConfig


class GatewayConfig(AppConfig):
    name = "metering.dialects.gateway"
    label = "gateway"
