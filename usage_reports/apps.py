from django.apps import AppConfig


class UsageReportsConfig(AppConfig):
    name = "usage_reports"
