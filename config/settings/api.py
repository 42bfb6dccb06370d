"""The REST APIs: Django REST framework, how errors look, and the OpenAPI document."""

# What puts an error in the shape that the clients of an API know, by the beginning of its paths.
API_ERRORS = {
    "/v1/": "common.errors.answer_error",
    "/admin/analytics": "common.errors.answer_error",
    "/admin/users": "common.errors.answer_error",
    "/api/v2/": "usage_reports.launchdarkly.errors.answer_error",
    "/api/v1/": "metering.dialects.influx.errors.answer_error",
    "//api/v1/": "metering.dialects.influx.errors.answer_error",  # of a client whose URL ends with a slash
}

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["accounts.api.authentication.CallerAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": [],  # each view names the scope that each of its methods needs
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["common.api.JSONParser"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "common.api.AlwaysFirstRenderer",
    "DEFAULT_METADATA_CLASS": None,
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "common.api.handle_exception",
    "UNAUTHENTICATED_USER": None,
    "URL_FORMAT_OVERRIDE": None,
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}

SPECTACULAR_SETTINGS = {
    "TITLE": "Meterbook",
    "DESCRIPTION": "Usage metering: send events, read exact usage, manage who may do either.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "SCHEMA_PATH_PREFIX": "/v1",
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_NAME_OVERRIDES": {
        "DeliveryState": "alerts.models.DeliveryState",
        "DigestFrequency": "alerts.domain.DigestFrequency",
        "PlanVersionState": "billing.models.VersionState",
        "PriceModel": "billing.domain.prices.PriceModel",
        "QuotaMode": "alerts.domain.QuotaMode",
        "ReportFrequency": "usage_reports.domain.Frequency",
        "ReportRunState": "usage_reports.domain.RunState",
        "Role": "accounts.domain.Role",
        "Scope": "accounts.domain.Scope",
        "UsageMode": "metering.api.serializers.MODES",
    },
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "metering.api.schema.add_ingest_routes",
        "metering.dialects.gateway.api.schema.add_recording_route",
        "accounts.api.schema.add_error_responses",
        "usage_reports.launchdarkly.errors.describe_errors",
    ],
}
