"""Every route, visited by people who have no business there: nobody's data, no 500, nothing changed.

A new route needs a line in `EXAMPLES`, or this module fails.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from django.apps import apps
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse
from django.utils import timezone

from accounts.models import Environment, Membership, Organization, Role, User
from accounts.services import IssuedKey, create_project, invite_member, update_organization
from alerts.models import Crossing, Quota, Threshold
from billing.models import StripeEvent, StripeInvoice, Subscription, UsageReport
from billing.services.invoice_runs import join_run
from billing.services.reporting import plan_reports
from metering.catalogs import LAUNCHDARKLY
from metering.dialects.influx.models import Server
from metering.dialects.weave.models import QuarantinedRecord
from metering.dialects.weave.services import map_instance
from tests import factories
from tests.billing.invoices import FEE, store_invoice
from usage_reports.launchdarkly.endpoints import ENDPOINTS

JSON = "application/json"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
# In everything of the victim's that no URL names: wherever it is seen, something leaked.
SECRET = "victims-secret"


@dataclass(frozen=True)
class Example:
    """How to reach the victim's things by a route: its parameters, and the query that names the rest."""

    kwargs: dict[str, str] = field(default_factory=dict)
    query: dict[str, str] = field(default_factory=dict)
    # Anybody may visit: it holds no organization's data, or finds out itself who the visitor is.
    is_public: bool = False


def public(**kwargs: str) -> Example:
    return Example(kwargs, is_public=True)


# The values are attributes of `Victim`.
METRIC_QUERY = {"metric": "metric_code", "customer": "external_id"}
SERIES_QUERY = METRIC_QUERY | {"granularity": "granularity"}
BREAKDOWN_QUERY = METRIC_QUERY | {"group_by": "dimension"}
OF_ORGANIZATION = {"organization_id": "organization_id"}
OF_METRIC_PAGE = OF_ORGANIZATION | {"code": "metric_code"}
OF_ENDPOINT = {"endpoint_id": "endpoint_id"}
OF_DELIVERY = OF_ENDPOINT | {"delivery_id": "delivery_id"}
OF_REPORT = {"report_id": "report_id"}
# The parts of the paths of LaunchDarkly's endpoints.
OF_PATH = {
    "projectKey": "project_key",
    "environmentKey": "environment_key",
    "featureFlagKey": "flag_key",
    "type": "event_direction",
    "source": "stream_source",
}
OF_PLAN_VERSION = {"code": "plan_code", "number": "plan_version"}
OF_PLAN_PAGE = OF_ORGANIZATION | {"code": "plan_code"}
OF_SUBSCRIPTION = {"subscription_id": "subscription_id"}
OF_CREDIT = {"credit_id": "credit_id"}
OF_INVOICE = {"invoice_id": "invoice_id"}
OF_USAGE_REPORT = {"report_id": "usage_report_id"}
OF_STRIPE_INVOICE = {"push_id": "stripe_invoice_id"}
OF_THRESHOLD_PAGE = OF_ORGANIZATION | {"threshold_id": "threshold_id"}
# Their parameters name what every organization has.
NAMED_BY_EVERYBODY = {"metering_api:catalog-install", "gateway_api:setting"}
OF_QUOTA_PAGE = OF_ORGANIZATION | {"quota_id": "quota_id"}

EXAMPLES = {
    "health-live": public(),
    "health-ready": public(),
    "metrics": public(),
    "event-stream": public(),
    "alert-stream": public(),
    # The API of accounts.
    "accounts_api:openapi": public(),
    "accounts_api:docs": public(),
    "accounts_api:organization": Example(),
    "accounts_api:customers": Example(),
    "accounts_api:customer": Example({"external_id": "external_id"}),
    "accounts_api:api-keys": Example(),
    "accounts_api:current-api-key": Example(),
    "accounts_api:api-key": Example({"key_id": "key_id"}),
    "accounts_api:rotate-api-key": Example({"key_id": "key_id"}),
    "accounts_api:revoke-api-key": Example({"key_id": "key_id"}),
    "accounts_api:projects": Example(),
    "accounts_api:project": Example({"project_key": "project_key"}),
    "accounts_api:environments": Example({"project_key": "project_key"}),
    "accounts_api:environment": Example({"project_key": "project_key", "environment_key": "environment_key"}),
    "accounts_api:members": Example(),
    "accounts_api:member": Example({"member_id": "member_id"}),
    "accounts_api:invitations": Example(),
    "accounts_api:revoke-invitation": Example({"invitation_id": "invitation_id"}),
    "accounts_api:audit-log": Example(),
    # The API of metering.
    "metering_api:events": Example(),
    "metering_api:events-validate": Example(),
    "metering_api:event": Example({"key": "event_key"}),
    "metering_api:event-void": Example({"key": "event_key"}),
    "metering_api:event-replace": Example({"key": "event_key"}),
    "metering_api:inbox": Example(),
    "metering_api:inbox-replay": Example(),
    "metering_api:inbox-discard": Example(),
    "metering_api:metrics": Example(),
    "metering_api:metric": Example({"code": "metric_code"}),
    "metering_api:catalogs": Example(),
    "metering_api:catalog-install": Example({"name": "catalog"}),
    "metering_api:usage": Example(query=METRIC_QUERY),
    "metering_api:usage-realtime": Example(query=METRIC_QUERY),
    "metering_api:usage-breakdown": Example(query=BREAKDOWN_QUERY),
    "metering_api:usage-series": Example(query=SERIES_QUERY),
    "metering_api:usage-export": Example(),
    # What is kept of an API gateway's requests.
    "gateway_api:settings": Example(),
    "gateway_api:setting": Example({"name": "setting"}),
    "gateway_api:logs": Example(),
    "gateway_admin:cleanup": Example(),
    "gateway_admin:export-data": Example({"user_id": "external_id"}),
    "gateway_admin:delete-usage": Example({"user_id": "external_id"}),
    # The API of the forward port.
    "weave_api:instances": Example(),
    "weave_api:instance": Example({"internal_instance_id": "internal_instance_id"}),
    "weave_api:quarantine": Example(),
    "weave_api:quarantine-release": Example(),
    "weave_api:quarantine-discard": Example(),
    "weave_api:settings": Example(),
    # The API of gateways.
    "gateway_api:requests": Example(),
    "gateway_api:routes": Example(),
    "gateway_api:route": Example({"route_id": "route_id"}),
    # The API of usage reports.
    "usage_reports_api:reports": Example(),
    "usage_reports_api:report": Example(OF_REPORT),
    "usage_reports_api:send-report": Example(OF_REPORT),
    "usage_reports_api:report-runs": Example(OF_REPORT),
    # The reports that LaunchDarkly's clients ask for.
    **{
        f"launchdarkly:{row.operation}": Example(
            {entry.parameter: OF_PATH[entry.parameter] for entry in row.path_filters}
        )
        for row in ENDPOINTS
    },
    # What an API gateway's requests come to.
    "request-stream": public(),
    "analytics-index-not-found": public(),
    "users-index-not-found": public(),
    "analytics-not-found": public(rest="no_token"),
    "users-not-found": public(rest="no_token"),
    "gateway_analytics:summary": Example(),
    "gateway_analytics:users": Example(),
    "gateway_analytics:routes": Example(),
    "gateway_analytics:requests": Example(),
    "gateway_analytics:daily": Example(),
    "gateway_analytics:monthly": Example(),
    "gateway_analytics:aggregate": Example(query={"user": "external_id", "group_by": "granularity"}),
    "gateway_analytics:export": Example(),
    "gateway_analytics:user-usage": Example({"user_id": "external_id"}),
    # Where influxdata's usage-client posts to, with a token or without one.
    "influx_api:servers": public(),
    "influx_api:stats": public(product="product"),
    "influx_api:usage": public(product="product"),
    "influx_api:nothing": public(rest="product"),
    # The API of billing.
    "billing_api:plans": Example(),
    "billing_api:plan": Example({"code": "plan_code"}),
    "billing_api:plan-versions": Example({"code": "plan_code"}),
    "billing_api:plan-version": Example(OF_PLAN_VERSION),
    "billing_api:activate-plan-version": Example(OF_PLAN_VERSION),
    "billing_api:subscriptions": Example(),
    "billing_api:subscription": Example(OF_SUBSCRIPTION),
    "billing_api:cancel-subscription": Example(OF_SUBSCRIPTION),
    "billing_api:change-plan": Example(OF_SUBSCRIPTION),
    "billing_api:subscription-budget": Example(OF_SUBSCRIPTION),
    "billing_api:subscription-spend": Example(OF_SUBSCRIPTION),
    "billing_api:subscription-spend-days": Example(OF_SUBSCRIPTION),
    "billing_api:pause-subscription": Example(OF_SUBSCRIPTION),
    "billing:pause_subscription": Example(OF_ORGANIZATION | OF_SUBSCRIPTION),
    "billing:resume_subscription": Example(OF_ORGANIZATION | OF_SUBSCRIPTION),
    "billing_api:resume-subscription": Example(OF_SUBSCRIPTION),
    "billing_api:billing-problems": Example(),
    "billing_api:waive-billing-period": Example({"period_id": "billing_period_id"}),
    "billing_api:invoice-runs": Example(),
    "billing_api:invoices": Example(),
    "billing_api:export-invoices": Example(),
    "billing_api:invoice": Example(OF_INVOICE),
    "billing_api:invoice-pdf": Example(OF_INVOICE),
    "billing_api:invoice-csv": Example(OF_INVOICE),
    "billing_api:explain-invoice-line": Example(OF_INVOICE | {"position": "line_position"}),
    "billing_api:verify-invoice": Example(OF_INVOICE),
    "billing_api:usage-checks": Example(),
    "billing_api:finalize-invoice": Example(OF_INVOICE),
    "billing_api:void-invoice": Example(OF_INVOICE),
    "billing_api:credit-invoice": Example(OF_INVOICE),
    "billing_api:mark-invoice-paid": Example(OF_INVOICE),
    "billing_api:invoice-run": Example({"run_id": "invoice_run_id"}),
    "billing_api:commitments": Example(OF_SUBSCRIPTION),
    "billing_api:commitment": Example(OF_SUBSCRIPTION | {"commitment_id": "commitment_id"}),
    "billing_api:credits": Example(),
    "billing_api:credit": Example(OF_CREDIT),
    "billing_api:void-credit": Example(OF_CREDIT),
    "billing_api:customer-credits": Example({"external_id": "external_id"}),
    "billing_api:tax-rates": Example(),
    "billing_api:tax-rate": Example({"code": "tax_code"}),
    "billing_api:billing-settings": Example(),
    "billing_api:billing-profile": Example({"external_id": "external_id"}),
    "billing_api:preview": Example(),
    "billing_api:simulate": Example(),
    "billing_api:preview-invoice": Example(),
    "billing_api:portal-link": Example({"external_id": "external_id"}),
    "billing_api:report-usage": Example(),
    "billing_api:usage-report": Example(OF_USAGE_REPORT),
    "billing_api:retry-usage-report": Example(OF_USAGE_REPORT),
    "billing_api:confirm-usage-report": Example(OF_USAGE_REPORT),
    "billing_api:stripe-customers": Example(),
    "billing_api:stripe-customer": Example({"external_id": "external_id"}),
    "billing_api:stripe-drifts": Example(),
    "billing_api:stripe-invoices": Example(),
    "billing_api:retry-stripe-invoice": Example(OF_STRIPE_INVOICE),
    "billing_api:sync-stripe-meters": Example(),
    "billing_api:stripe-webhook": public(),
    "billing_api:stripe-meters": Example(),
    "billing_api:stripe-meter": Example({"code": "metric_code"}),
    "billing_api:billing-usage": Example(query={"user": "external_id", "period": "month", "metric": "metric_code"}),
    # The API of alerts.
    "alerts_api:alerts": Example(),
    "alerts_api:thresholds": Example(),
    "alerts_api:threshold": Example({"threshold_id": "threshold_id"}),
    "alerts_api:threshold-trace": Example({"threshold_id": "threshold_id"}, {"customer": "external_id"}),
    "alerts_api:quotas": Example(),
    "alerts_api:quota": Example({"quota_id": "quota_id"}),
    "alerts_api:quota-check": Example(),
    "alerts_api:quota-reserve": Example(),
    "alerts_api:reservation-commit": Example({"reservation_id": "reservation_id"}),
    "alerts_api:reservation-release": Example({"reservation_id": "reservation_id"}),
    "alerts_api:webhook-endpoints": Example(),
    "alerts_api:webhook-endpoint": Example(OF_ENDPOINT),
    "alerts_api:rotate-webhook-secret": Example(OF_ENDPOINT),
    "alerts_api:test-webhook": Example(OF_ENDPOINT),
    "alerts_api:webhook-deliveries": Example(OF_ENDPOINT),
    "alerts_api:webhook-delivery": Example(OF_DELIVERY),
    "alerts_api:replay-webhook-delivery": Example(OF_DELIVERY),
    "alerts_api:my-alert-emails": Example(),
    "alerts_api:test-my-alert-emails": Example(),
    # Pages.
    "accounts:home": Example(),
    "accounts:new_organization": Example(),
    "accounts:invitation": public(token="no_token"),
    "accounts:customer_list": Example(OF_ORGANIZATION),
    "accounts:new_customer": Example(OF_ORGANIZATION),
    "accounts:edit_customer": Example(OF_ORGANIZATION | {"customer_id": "customer_id"}),
    "accounts:organization_settings": Example(OF_ORGANIZATION),
    "accounts:member_list": Example(OF_ORGANIZATION),
    "accounts:change_role": Example(OF_ORGANIZATION | {"member_id": "member_id"}),
    "accounts:remove_member": Example(OF_ORGANIZATION | {"member_id": "member_id"}),
    "accounts:revoke_invitation": Example(OF_ORGANIZATION | {"invitation_id": "invitation_id"}),
    "accounts:api_key_list": Example(OF_ORGANIZATION),
    "accounts:rotate_api_key": Example(OF_ORGANIZATION | {"key_id": "key_id"}),
    "accounts:revoke_api_key": Example(OF_ORGANIZATION | {"key_id": "key_id"}),
    "accounts:project_list": Example(OF_ORGANIZATION),
    "accounts:create_project": Example(OF_ORGANIZATION),
    "accounts:create_environment": Example(OF_ORGANIZATION),
    "accounts:audit_log": Example(OF_ORGANIZATION),
    "metering:metric_list": Example(OF_ORGANIZATION),
    "metering:new_metric": Example(OF_ORGANIZATION),
    "metering:metric": Example(OF_METRIC_PAGE),
    "metering:edit_metric": Example(OF_METRIC_PAGE),
    "metering:archive_metric": Example(OF_METRIC_PAGE),
    "metering:customer": Example(OF_ORGANIZATION | {"customer_id": "customer_id"}),
    "metering:event_list": Example(OF_ORGANIZATION),
    "metering:event_rows": Example(OF_ORGANIZATION),
    "metering:event": Example(OF_ORGANIZATION, {"key": "event_key"}),
    "metering:void_event": Example(OF_ORGANIZATION, {"key": "event_key"}),
    "metering:inbox": Example(OF_ORGANIZATION),
    "metering:catalog_list": Example(OF_ORGANIZATION),
    "metering:install_catalog": Example(OF_ORGANIZATION | {"name": "catalog"}),
    "gateway:settings": Example(OF_ORGANIZATION),
    "weave:forwarding": Example(OF_ORGANIZATION),
    "weave:map_instance": Example(OF_ORGANIZATION),
    "weave:unmap_instance": Example(OF_ORGANIZATION),
    "weave:change_settings": Example(OF_ORGANIZATION),
    "weave:quarantine": Example(OF_ORGANIZATION),
    "gateway:route_list": Example(OF_ORGANIZATION),
    "gateway:new_route": Example(OF_ORGANIZATION),
    "gateway:check_expression": Example(OF_ORGANIZATION),
    "gateway:edit_route": Example(OF_ORGANIZATION | {"code": "route_id"}),
    "gateway:delete_route": Example(OF_ORGANIZATION | {"code": "route_id"}),
    "usage_reports:explorer": Example(OF_ORGANIZATION, {"metric": "metric_code"}),
    "usage_reports:explorer_panel": Example(OF_ORGANIZATION, {"metric": "metric_code"}),
    "usage_reports:explorer_export": Example(OF_ORGANIZATION, {"metric": "metric_code"}),
    "usage_reports:explorer_suggestions": Example(OF_ORGANIZATION, {"metric": "metric_code", "key": "dimension"}),
    "analytics:page": Example(OF_ORGANIZATION),
    "analytics:rows": Example(OF_ORGANIZATION),
    "usage_reports:report_list": Example(OF_ORGANIZATION),
    "usage_reports:new_report": Example(OF_ORGANIZATION),
    "usage_reports:report": Example(OF_ORGANIZATION | OF_REPORT),
    "usage_reports:edit_report": Example(OF_ORGANIZATION | OF_REPORT),
    "usage_reports:send_report": Example(OF_ORGANIZATION | OF_REPORT),
    "usage_reports:switch_report": Example(OF_ORGANIZATION | OF_REPORT),
    "usage_reports:delete_report": Example(OF_ORGANIZATION | OF_REPORT),
    "usage_reports:download_report": Example(OF_ORGANIZATION | OF_REPORT),
    "usage_reports:download_run": Example(OF_ORGANIZATION | OF_REPORT | {"run_id": "report_run_id"}),
    "usage_reports:unsubscribe": public(token="no_token"),
    "billing:plan_list": Example(OF_ORGANIZATION),
    "billing:new_plan": Example(OF_ORGANIZATION),
    "billing:plan": Example(OF_PLAN_PAGE),
    "billing:new_version": Example(OF_PLAN_PAGE),
    "billing:archive_plan": Example(OF_PLAN_PAGE),
    "billing:make_default_plan": Example(OF_PLAN_PAGE),
    "billing:edit_version": Example(OF_ORGANIZATION | OF_PLAN_VERSION),
    "billing:activate_version": Example(OF_ORGANIZATION | OF_PLAN_VERSION),
    "billing:customer_billing": Example(OF_ORGANIZATION | {"customer_id": "customer_id"}),
    "billing:create_portal_link": Example(OF_ORGANIZATION | {"customer_id": "customer_id"}),
    "billing:simulator": Example(OF_ORGANIZATION),
    "billing:simulation_csv": Example(OF_ORGANIZATION),
    # The customer portal knows no sessions of members: a signed link and its cookie say who visits.
    "billing:portal": public(),
    "billing:portal_enter": public(token="no_token"),
    "billing:portal_leave": public(),
    "billing:portal_invoices": public(),
    "billing:portal_invoice": public(invoice_id="subscription_id"),
    "billing:portal_invoice_pdf": public(invoice_id="subscription_id"),
    "billing:portal_invoice_csv": public(invoice_id="subscription_id"),
    "billing:portal_budget": public(**OF_SUBSCRIPTION),
    "billing:save_profile": Example(OF_ORGANIZATION | {"customer_id": "customer_id"}),
    "billing:grant_credit": Example(OF_ORGANIZATION | {"customer_id": "customer_id"}),
    "billing:void_credit": Example(OF_ORGANIZATION | {"customer_id": "customer_id"} | OF_CREDIT),
    "billing:settings": Example(OF_ORGANIZATION),
    "billing:new_tax_rate": Example(OF_ORGANIZATION),
    "billing:archive_tax_rate": Example(OF_ORGANIZATION | {"code": "tax_code"}),
    "billing:cancel_subscription": Example(OF_ORGANIZATION | OF_SUBSCRIPTION),
    "billing:change_plan": Example(OF_ORGANIZATION | OF_SUBSCRIPTION),
    "billing:invoice_list": Example(OF_ORGANIZATION),
    "billing:waive_period": Example(OF_ORGANIZATION | {"period_id": "billing_period_id"}),
    "billing:run_invoices": Example(OF_ORGANIZATION),
    "billing:invoice": Example(OF_ORGANIZATION | OF_INVOICE),
    "billing:invoice_pdf": Example(OF_ORGANIZATION | OF_INVOICE),
    "billing:invoice_csv": Example(OF_ORGANIZATION | OF_INVOICE),
    "billing:invoice_line": Example(OF_ORGANIZATION | OF_INVOICE | {"position": "line_position"}),
    "billing:verify_invoice": Example(OF_ORGANIZATION | OF_INVOICE),
    "billing:usage_checks": Example(OF_ORGANIZATION),
    "billing:finalise_invoice": Example(OF_ORGANIZATION | OF_INVOICE),
    "billing:void_invoice": Example(OF_ORGANIZATION | OF_INVOICE),
    "billing:credit_invoice": Example(OF_ORGANIZATION | OF_INVOICE),
    "billing:mark_invoice_paid": Example(OF_ORGANIZATION | OF_INVOICE),
    "billing:stripe": Example(OF_ORGANIZATION),
    "billing:name_stripe_customer": Example(OF_ORGANIZATION),
    "billing:forget_stripe_customer": Example(OF_ORGANIZATION | {"customer_id": "customer_id"}),
    "billing:name_stripe_meter": Example(OF_ORGANIZATION),
    "billing:forget_stripe_meter": Example(OF_METRIC_PAGE),
    "billing:sync_stripe_meters": Example(OF_ORGANIZATION),
    "billing:report_now": Example(OF_ORGANIZATION),
    "billing:stripe_reports": Example(OF_ORGANIZATION),
    "billing:retry_stripe_report": Example(OF_ORGANIZATION | OF_USAGE_REPORT),
    "billing:confirm_stripe_report": Example(OF_ORGANIZATION | OF_USAGE_REPORT),
    "billing:stripe_invoices": Example(OF_ORGANIZATION),
    "billing:retry_stripe_invoice": Example(OF_ORGANIZATION | OF_STRIPE_INVOICE),
    "billing:stripe_events": Example(OF_ORGANIZATION),
    "billing:retry_stripe_event": Example(OF_ORGANIZATION | {"event_id": "stripe_event_id"}),
    "billing:set_budget": Example(OF_ORGANIZATION | OF_SUBSCRIPTION),
    "billing:remove_budget": Example(OF_ORGANIZATION | OF_SUBSCRIPTION),
    "alerts:alert_list": Example(OF_ORGANIZATION),
    "alerts:alert_rows": Example(OF_ORGANIZATION),
    "alerts:alert_email": Example(OF_ORGANIZATION),
    "alerts:test_alert_email": Example(OF_ORGANIZATION),
    "alerts:alert": Example(OF_ORGANIZATION | {"offset": "alert_offset"}),
    "alerts:metric_alerts": Example(OF_METRIC_PAGE),
    "alerts:customer_alerts": Example(OF_ORGANIZATION | {"customer_id": "customer_id"}),
    "alerts:threshold_list": Example(OF_ORGANIZATION),
    "alerts:new_threshold": Example(OF_ORGANIZATION),
    "alerts:threshold": Example(OF_THRESHOLD_PAGE, {"customer": "external_id"}),
    "alerts:edit_threshold": Example(OF_THRESHOLD_PAGE),
    "alerts:archive_threshold": Example(OF_THRESHOLD_PAGE),
    "alerts:quota_list": Example(OF_ORGANIZATION),
    "alerts:new_quota": Example(OF_ORGANIZATION),
    "alerts:quota": Example(OF_QUOTA_PAGE),
    "alerts:edit_quota": Example(OF_QUOTA_PAGE),
    "alerts:delete_quota": Example(OF_QUOTA_PAGE),
    "alerts:webhook_list": Example(OF_ORGANIZATION),
    "alerts:new_webhook": Example(OF_ORGANIZATION),
    "alerts:webhook": Example(OF_ORGANIZATION | OF_ENDPOINT),
    "alerts:edit_webhook": Example(OF_ORGANIZATION | OF_ENDPOINT),
    "alerts:switch_webhook": Example(OF_ORGANIZATION | OF_ENDPOINT),
    "alerts:rotate_webhook_secret": Example(OF_ORGANIZATION | OF_ENDPOINT),
    "alerts:test_webhook": Example(OF_ORGANIZATION | OF_ENDPOINT),
    "alerts:delete_webhook": Example(OF_ORGANIZATION | OF_ENDPOINT),
    "alerts:delivery": Example(OF_ORGANIZATION | OF_DELIVERY),
    "alerts:replay_delivery": Example(OF_ORGANIZATION | OF_DELIVERY),
    "influx:start": Example(query={"cluster_id": "external_id", "product": "product"}),
    "influx:fleet": Example(OF_ORGANIZATION),
    "influx:server": Example(OF_ORGANIZATION | {"server_id": "server_id"}),
    # django-allauth: about the visitor's own account only.
    "account_confirm_email": public(key="no_token"),
    "account_reset_password_from_key": public(uidb36="member_id", key="no_token"),
}
# Where paths of APIs begin that know no sessions; one may begin with a slash too many.
BY_KEY_ALONE = ("api/", "^/?api/")
# Packages' own routes without parameters: sign-in pages, and the admin, which has a test of its own.
PACKAGES = ("account_", "mfa_", "admin:")


@dataclass(frozen=True)
class Route:
    name: str
    path: str
    parameters: frozenset[str]

    @property
    def is_api(self) -> bool:
        return self.path.startswith(("v1/", *BY_KEY_ALONE, "admin/")) and not self.is_in_admin

    @property
    def is_in_admin(self) -> bool:
        """Whether it is a page of Django's own admin, which has tests of its own."""
        return self.name.startswith("admin:")

    @property
    def has_sessions(self) -> bool:
        """Whether a signed-in person may ask without a key."""
        return not self.path.startswith(BY_KEY_ALONE)

    @property
    def example(self) -> Example:
        if self.name not in EXAMPLES and not self.parameters and self.name.startswith(PACKAGES):
            return Example(is_public=True)
        return EXAMPLES[self.name]


def list_routes(resolver: URLResolver | None = None, namespace: str = "", path: str = "") -> Iterator[Route]:
    for entry in (resolver or get_resolver()).url_patterns:
        here = path + str(entry.pattern)
        parameters = frozenset(entry.pattern.regex.groupindex)
        if isinstance(entry, URLResolver):
            inner = f"{namespace}{entry.namespace}:" if entry.namespace else namespace
            yield from (
                Route(route.name, route.path, route.parameters | parameters)
                for route in list_routes(entry, inner, here)
            )
        else:
            yield Route(f"{namespace}{entry.name or ''}", here, parameters)


ROUTES = list(list_routes())
OURS = [route for route in ROUTES if not route.is_in_admin]


@dataclass(frozen=True)
class Victim:
    """Somebody else's organization, with one of everything."""

    organization_id: int
    external_id: str
    customer_id: int
    key_id: int
    project_key: str
    environment_key: str
    member_id: int
    invitation_id: int
    metric_code: str
    event_key: str
    threshold_id: int
    quota_id: int
    reservation_id: str
    endpoint_id: int
    delivery_id: int
    alert_offset: int
    report_id: int
    report_run_id: int
    server_id: int
    subscription_id: int
    invoice_run_id: int
    usage_report_id: int
    credit_id: int
    invoice_id: int
    billing_period_id: int
    stripe_invoice_id: int
    stripe_event_id: int
    commitment_id: int
    tax_code: str = "tax-of-victim"
    plan_code: str = "plan-of-victim"
    plan_version: int = 2
    line_position: int = 1
    month: str = "2026-11"
    catalog: str = "demo"
    granularity: str = "day"
    dimension: str = "place"
    flag_key: str = "flag-of-victim"
    event_direction: str = "received"
    stream_source: str = "server"
    internal_instance_id: str = "instance-of-victim"
    route_id: str = "route-of-victim"
    setting: str = "usage_store_ip"
    product: str = "influxdb"
    no_token: str = "x-y"

    def url(self, route: Route, example: Example) -> str:
        query = "&".join(f"{name}={getattr(self, value)}" for name, value in example.query.items())
        path = reverse(route.name, kwargs={name: getattr(self, value) for name, value in example.kwargs.items()})
        return f"{path}?{query}" if query else path


def secret_usage(example: Mapping[str, Any], external_id: str) -> dict[str, Any]:
    """Return an example event of a catalog as the victim's: what a report may show of it is secret."""
    told = {"projectKey": "project-of-victim", "environmentKey": "production", "flagKey": Victim.flag_key}
    secret = dict.fromkeys(("contextKey", "contextKind", "sdkName", "sdkVersion", "variation", "experimentId"), SECRET)
    properties = example["properties"]
    return {
        **example,
        "customer": external_id,
        "value": 987654321,
        "properties": properties | {name: text for name, text in (told | secret).items() if name in properties},
    }


@pytest.fixture
def victim(org: Organization, alice: User, api_client: Client, api_key: IssuedKey) -> Victim:
    User.objects.filter(pk=alice.pk).update(name=SECRET, email=f"{SECRET}@example.test")
    update_organization(organization=org, actor=SECRET, changes={"name": SECRET, "is_unmatched_kept": True})
    customer = factories.make_customer(organization=org, external_id="cust-of-victim", name=SECRET)
    create_project(organization=org, actor=SECRET, key="project-of-victim", name=SECRET)
    invitation = invite_member(
        organization=org,
        actor=SECRET,
        actor_role=Role.OWNER,
        email=f"{SECRET}@invited.test",
        role=Role.VIEWER,
        now=timezone.now(),
    ).invitation
    metric = {
        "code": "metric-of-victim",
        "aggregation": "sum",
        "dimensions": [{"key": "place"}],
        "description": SECRET,
    }
    event = {
        "idempotency_key": "event-of-victim",
        "customer": customer.external_id,
        "metric": "metric-of-victim",
        "value": 987654321,
        "properties": {"place": SECRET},
    }
    unmatched = event | {"idempotency_key": "unmatched", "metric": "nothing-listens", "customer": SECRET}
    assert api_client.post("/v1/metrics", metric, content_type=JSON).status_code == 201
    assert api_client.post("/v1/events", [event, unmatched], content_type=JSON).json()["stored"] == 1
    assert api_client.post("/v1/catalogs/launchdarkly/install").status_code == 200
    reported = [secret_usage(event, customer.external_id) for event in LAUNCHDARKLY.examples]
    assert api_client.post("/v1/events", reported, content_type=JSON).json()["stored"] == len(reported)
    threshold = {"code": "threshold-of-victim", "metric": "metric-of-victim", "value": 1}
    assert api_client.post("/v1/thresholds", threshold, content_type=JSON).status_code == 201
    quota = {"metric": "metric-of-victim", "customer": customer.external_id, "limit": 2 * 987654321}
    assert api_client.post("/v1/quotas", quota, content_type=JSON).status_code == 201
    reserved = {"metric": "metric-of-victim", "customer": customer.external_id, "amount": 1}
    reservation = api_client.post("/v1/quota/reserve", reserved, content_type=JSON)
    assert reservation.status_code == 201
    endpoint = api_client.post("/v1/webhook-endpoints", {"url": f"https://hooks.test/{SECRET}"}, content_type=JSON)
    assert endpoint.status_code == 201
    delivery = api_client.post(f"/v1/webhook-endpoints/{endpoint.json()['id']}/test")
    assert delivery.status_code == 202
    report = api_client.post(
        "/v1/reports",
        {"name": SECRET, "metric": "metric-of-victim", "recipients": [f"{SECRET}@example.test"]},
        content_type=JSON,
    )
    assert report.status_code == 201
    report_run = api_client.post(f"/v1/reports/{report.json()['id']}/send")
    assert report_run.status_code == 202
    route = {"id": Victim.route_id, "name": SECRET, "path_pattern": f"/{SECRET}"}
    assert api_client.post("/v1/routes", route, content_type=JSON).status_code == 201
    requested = {"method": "GET", "path": f"/{SECRET}", "status_code": 200, "latency_ms": 1, "user_id": SECRET}
    assert api_client.post("/v1/requests", requested, content_type=JSON).json()["stored"] == 1
    map_instance(
        organization=org,
        internal_instance_id=Victim.internal_instance_id,
        customer_external_id=SECRET,
        actor=SECRET,
    )
    for owner in (org, None):
        # The second is nobody's, and shown to those alone to whom the port is open.
        QuarantinedRecord.objects.create(
            organization=owner,
            internal_instance_id=SECRET,
            reason="unknown_instance",
            record=SECRET,
            digest=str(owner).encode(),
            received_at=timezone.now(),
        )
    server = {"cluster_id": SECRET, "server_id": SECRET, "host": SECRET, "product": SECRET, "version": SECRET}
    token = {"X-Authorization": api_key.text}
    assert api_client.post("/api/v1/servers", server, content_type=JSON, headers=token).status_code == 201
    plan = {
        "code": "plan-of-victim",
        "name": SECRET,
        "currency": "USD",
        "prices": [{"metric": "metric-of-victim", "name": SECRET, "model": "per_unit", "amount": 1}],
    }
    assert api_client.post("/v1/plans", plan, content_type=JSON).status_code == 201
    draft = {"currency": "USD", "prices": [{"name": SECRET, "model": "flat", "amount": 1}]}
    assert api_client.post("/v1/plans/plan-of-victim/versions", draft, content_type=JSON).status_code == 201
    subscribed = {"customer": customer.external_id, "plan": "plan-of-victim", "start": "2026-11-01T00:00:00Z"}
    subscription = api_client.post("/v1/subscriptions", subscribed, content_type=JSON)
    assert subscription.status_code == 201
    committed = f"/v1/subscriptions/{subscription.json()['id']}/commitments"
    commitment = api_client.post(committed, {"amount_minor": 987654321}, content_type=JSON)
    assert commitment.status_code == 201
    granted = {"customer": customer.external_id, "currency": "USD", "amount_minor": 987654321, "name": SECRET}
    credit = api_client.post("/v1/credits", granted, content_type=JSON)
    assert credit.status_code == 201
    tax = {"code": Victim.tax_code, "name": SECRET, "percent": 7}
    assert api_client.post("/v1/tax-rates", tax, content_type=JSON).status_code == 201
    paying = f"/v1/billing/customers/{customer.external_id}/profile"
    assert api_client.put(paying, {"name": SECRET}, content_type=JSON).status_code == 200
    seller = {"seller_name": SECRET, "grace_hours": 1}
    assert api_client.patch("/v1/billing/settings", seller, content_type=JSON).status_code == 200
    stripe = "/v1/billing/stripe"
    named = {"stripe_customer_id": "cus_victim"}
    assert api_client.put(f"{stripe}/customers/{customer.external_id}", named, content_type=JSON).status_code == 200
    named = {"event_name": SECRET}
    assert api_client.put(f"{stripe}/meters/metric-of-victim", named, content_type=JSON).status_code == 200
    plan_reports(organization=org, months=None, now=timezone.now())
    subscribed_row = Subscription.objects.for_organization(org).select_related("organization", "customer").get()
    invoice = store_invoice(subscribed_row, SECRET, FEE, void_reason=SECRET)
    pushed = StripeInvoice.objects.create(
        organization=org, invoice=invoice, stripe_customer_id=SECRET, state="rejected", last_error=SECRET
    )
    told = StripeEvent.objects.create(
        organization=org, stripe_event_id=SECRET, type=SECRET, payload={}, state="failed", error=SECRET
    )
    own = Threshold.objects.for_organization(org).get(code="threshold-of-victim")
    now = timezone.now()
    crossing = Crossing.objects.create(
        organization=org,
        offset=1,
        threshold=own,
        metric=own.metric,
        customer=customer,
        period_start=now,
        period_end=now,
        threshold_code=SECRET,
        threshold_value=1,
        previous_value=0,
        value_at_cross=987654321,
        triggered_at=now,
    )
    return Victim(
        organization_id=org.pk,
        external_id=customer.external_id,
        customer_id=customer.pk,
        key_id=api_key.api_key.pk,
        project_key="project-of-victim",
        environment_key=Environment.objects.for_organization(org).get().key,
        member_id=Membership.objects.for_organization(org).get(user=alice).pk,
        invitation_id=invitation.pk,
        metric_code="metric-of-victim",
        event_key="event-of-victim",
        threshold_id=own.pk,
        quota_id=Quota.objects.for_organization(org).get().pk,
        reservation_id=reservation.json()["id"],
        endpoint_id=int(endpoint.json()["id"]),
        delivery_id=int(delivery.json()["id"]),
        alert_offset=crossing.offset,
        report_id=int(report.json()["id"]),
        report_run_id=int(report_run.json()["id"]),
        subscription_id=int(subscription.json()["id"]),
        invoice_run_id=join_run(organization=org, actor=SECRET, now=now).pk,
        credit_id=int(credit.json()["id"]),
        invoice_id=invoice.pk,
        billing_period_id=invoice.period_id,
        stripe_invoice_id=pushed.pk,
        stripe_event_id=told.pk,
        commitment_id=int(commitment.json()["id"]),
        usage_report_id=UsageReport.objects.for_organization(org).get().pk,
        server_id=Server.objects.for_organization(org).get().pk,
    )


@pytest.fixture
def rows_of_victim(org: Organization) -> Callable[[], dict[str, Any]]:
    """Return a reader of everything the organization owns, except when its keys were used last."""

    def read() -> dict[str, Any]:
        models = [model for model in apps.get_models() if any(f.name == "organization" for f in model._meta.fields)]
        rows: dict[str, Any] = {
            model._meta.label: sorted(map(repr, model._default_manager.filter(organization_id=org.pk).values_list()))
            for model in models
            if model._meta.label != "accounts.ApiKey"
        }
        keys = org.api_keys.values_list("pk", "revoked_at", "expires_at", "scopes")
        return rows | {"keys": sorted(map(repr, keys)), "itself": Organization.objects.values().get(pk=org.pk)}

    return read


def visit(client: Client, url: str, headers: dict[str, str]) -> Iterator[tuple[str, Any]]:
    """Visit by every method, with an empty form or object."""
    for method in METHODS:
        is_api = url.startswith(("/v1/", "/api/", "/admin/"))
        body, kind = ("{}", JSON) if is_api else ("", "application/x-www-form-urlencoded")
        response = client.generic(method, url, body if method != "GET" else "", content_type=kind, headers=headers)
        yield method, response


def content_of(response: Any) -> str:
    body = b"".join(response.streaming_content) if response.streaming else response.content
    return body.decode() + "".join(f"{name}: {value}\n" for name, value in response.items())


def test_every_route_has_an_example() -> None:
    missing = {
        route.name or route.path
        for route in OURS
        if route.name not in EXAMPLES and (route.parameters or not route.name.startswith(PACKAGES))
    }
    assert missing == set()
    for route in OURS:
        assert set(route.example.kwargs) == route.parameters, route.name


def test_every_example_has_a_route() -> None:
    assert set(EXAMPLES) - {route.name for route in OURS} == set()


@pytest.mark.django_db
class TestOutsiders:
    """One test for each kind of visitor; all routes in it, because the victim's things are made once."""

    def check(
        self,
        visitor: Client,
        victim: Victim,
        rows_of_victim: Callable[[], dict[str, Any]],
        is_refusal: Callable[[Route, str, Any], bool],
        user: User | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        before = rows_of_victim()
        for route in OURS:
            example = route.example
            if user is not None:
                visitor.force_login(user)  # again for each route: one of them signs out
            for method, response in visit(visitor, victim.url(route, example), headers or {}):
                told = f"{method} {route.name} → {response.status_code}"
                assert response.status_code < 500 or route.name == "health-ready", told
                assert SECRET not in content_of(response), told
                if route.is_api and response.status_code >= 400:
                    assert response["Content-Type"] == JSON, told
                if not example.is_public:
                    assert is_refusal(route, method, response), told
        assert rows_of_victim() == before

    def test_visitor_without_a_name(
        self, client: Client, victim: Victim, rows_of_victim: Callable[[], dict[str, Any]]
    ) -> None:
        """401 from an API, else the way to the sign-in page."""

        def is_refusal(route: Route, method: str, response: Any) -> bool:
            if route.is_api:
                return response.status_code in {401, 405}
            return response.status_code == 405 or (
                response.status_code == 302 and response["Location"].startswith("/accounts/login/")
            )

        client.raise_request_exception = False
        self.check(client, victim, rows_of_victim, is_refusal)

    def test_key_of_another_organization(
        self, outsider_client: Client, victim: Victim, rows_of_victim: Callable[[], dict[str, Any]]
    ) -> None:
        """404 for whatever is named and is another's; lists and writes know the key's own organization only."""

        def is_refusal(route: Route, method: str, response: Any) -> bool:
            if not route.is_api:
                return response.status_code in {302, 405}  # a key is no session
            is_named = bool(route.parameters or route.example.query) and route.name not in NAMED_BY_EVERYBODY
            return (
                not is_named or response.status_code in {404, 405} or (response.status_code == 422 and method != "GET")
            )

        self.check(outsider_client, victim, rows_of_victim, is_refusal)

    def test_signed_in_member_of_another_organization(
        self,
        client: Client,
        other_org: Organization,
        charlie: User,
        victim: Victim,
        rows_of_victim: Callable[[], dict[str, Any]],
    ) -> None:
        """Pages of the organization are 404; naming it to the API is 404."""

        def is_refusal(route: Route, method: str, response: Any) -> bool:
            if not route.has_sessions:
                return response.status_code in {401, 405}
            if route.is_api or route.parameters:
                return response.status_code in {404, 405}
            return response.status_code in {200, 302, 405}  # pages about the visitor

        client.raise_request_exception = False
        headers = {"Meterbook-Organization": str(victim.organization_id)}
        self.check(client, victim, rows_of_victim, is_refusal, user=charlie, headers=headers)

    def test_key_bound_to_another_customer(
        self,
        org: Organization,
        api_client_for: Callable[[IssuedKey], Client],
        victim: Victim,
        rows_of_victim: Callable[[], dict[str, Any]],
    ) -> None:
        """Even with every scope: the key of one customer sees and changes nothing of the organization or its others.

        The metrics' names are the organization's price list, not a secret from its customers.
        """
        from metering.models import Metric

        Metric.objects.for_organization(org).update(description="")
        bound = factories.make_api_key(
            organization=org, customer=factories.make_customer(organization=org, external_id="bound")
        )
        visitor = api_client_for(bound)
        before = rows_of_victim()
        for route in OURS:
            if not route.is_api or route.example.is_public:
                continue
            for method, response in visit(visitor, victim.url(route, route.example), {}):
                told = f"{method} {route.name} → {response.status_code} {content_of(response)}"
                assert response.status_code < 500, told
                assert SECRET not in content_of(response), told
                assert "987654321" not in content_of(response), told
        assert rows_of_victim() == before


# Adapters of other systems, whose senders may know more fields than we do.
FOREIGN = ("weave_api:", "influx_api:", "launchdarkly:", "billing_api:stripe-webhook")
# What is said before a field that is not known: what lacks, that the environment is another project's, or that a key
# has no mail of its own.
SAID_FIRST = {
    "metering_api:event-replace",
    "gateway_api:setting",
    "accounts_api:environment",
    "alerts_api:my-alert-emails",
}


@pytest.mark.django_db
def test_unknown_field_in_any_body_of_the_api_is_named_and_nothing_is_done(
    api_client: Client, victim: Victim, rows_of_victim: Callable[[], dict[str, Any]]
) -> None:
    """By a key that may do everything, where everything is there: a wish dropped in silence is taken as granted."""
    before = rows_of_victim()
    for route in OURS:
        if not route.is_api or route.name.startswith(FOREIGN) or route.name.endswith("not-found"):
            continue
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            url = victim.url(route, route.example)
            response = api_client.generic(method, url, '{"no_such_field": 1}', content_type=JSON)
            told = f"{method} {route.name} → {response.status_code} {content_of(response)}"
            if route.name in SAID_FIRST:
                assert response.status_code in {403, 404, 405, 422}, told
            else:
                assert response.status_code == 405 or "no_such_field" in content_of(response), told
                assert response.status_code in {405, 422}, told
    assert rows_of_victim() == before


@pytest.mark.django_db
@pytest.mark.parametrize("is_signed_in", [False, True])
def test_admin_is_for_staff_alone(
    client: Client, charlie: User, victim: Victim, rows_of_victim: Callable[[], dict[str, Any]], is_signed_in: bool
) -> None:
    if is_signed_in:
        client.force_login(charlie)
    before = rows_of_victim()
    for route in ROUTES:
        if not route.is_in_admin or not route.name.removeprefix("admin:"):
            continue  # the one without a name answers what no other route knows
        values = dict.fromkeys(route.parameters, str(victim.organization_id)) | {"app_label": "accounts"}
        url = reverse(route.name, kwargs={name: values[name] for name in route.parameters})
        for method in ("GET", "POST"):
            response = client.generic(method, url, "", content_type="application/x-www-form-urlencoded")
            told = f"{method} {url} → {response.status_code}"
            assert response.status_code in {302, 403, 404, 405} or route.name in {
                "admin:login",
                "admin:jsi18n",
                "admin:logout",
            }, told
            assert SECRET not in content_of(response), told
    assert rows_of_victim() == before


@pytest.mark.django_db
def test_admin_without_a_name_for_the_route(client: Client) -> None:
    assert client.get("/admin/nothing/here").status_code == 302


def test_every_method_of_the_api_names_its_scope() -> None:
    """A view that forgot one would raise `KeyError`: a 500, but no open door."""
    from accounts.api.base import CallerView

    def views(entries: list[URLPattern | URLResolver]) -> Iterator[type[CallerView]]:
        for entry in entries:
            if isinstance(entry, URLResolver):
                yield from views(entry.url_patterns)
            elif isinstance(view := getattr(entry.callback, "cls", None), type) and issubclass(view, CallerView):
                yield view

    found = list(views(get_resolver().url_patterns))
    assert len(found) > 20
    for view in found:
        handled = {name.upper() for name in view.http_method_names if hasattr(view, name)} - {"HEAD"}
        assert set(view.scopes) == handled, view
        assert set(view.queries) <= handled, view
        assert view.methods_for_bound_keys <= handled, view
