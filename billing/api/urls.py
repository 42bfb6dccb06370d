"""Routes of the billing API under `/v1/`."""

from django.urls import path

from billing.api import plans, reporting, spend, subscriptions

app_name = "billing_api"
urlpatterns = [
    path("plans", plans.PlanListView.as_view(), name="plans"),
    path("plans/<str:code>", plans.PlanView.as_view(), name="plan"),
    path("plans/<str:code>/versions", plans.VersionListView.as_view(), name="plan-versions"),
    path("plans/<str:code>/versions/<int:number>", plans.VersionView.as_view(), name="plan-version"),
    path(
        "plans/<str:code>/versions/<int:number>/activate",
        plans.ActivateVersionView.as_view(),
        name="activate-plan-version",
    ),
    path("subscriptions", subscriptions.SubscriptionListView.as_view(), name="subscriptions"),
    path("subscriptions/<int:subscription_id>", subscriptions.SubscriptionView.as_view(), name="subscription"),
    path(
        "subscriptions/<int:subscription_id>/cancel",
        subscriptions.SubscriptionCancelView.as_view(),
        name="cancel-subscription",
    ),
    path(
        "subscriptions/<int:subscription_id>/change-plan",
        subscriptions.SubscriptionChangePlanView.as_view(),
        name="change-plan",
    ),
    path(
        "subscriptions/<int:subscription_id>/spend",
        subscriptions.SubscriptionSpendView.as_view(),
        name="subscription-spend",
    ),
    path("billing/preview", spend.PreviewView.as_view(), name="preview"),
    path("billing/report-usage", reporting.ReportUsageView.as_view(), name="report-usage"),
    path("billing/report-usage/<int:report_id>", reporting.UsageReportView.as_view(), name="usage-report"),
    path("billing/report-usage/<int:report_id>/retry", reporting.RetryReportView.as_view(), name="retry-usage-report"),
    path("billing/stripe/customers", reporting.StripeCustomerListView.as_view(), name="stripe-customers"),
    path(
        "billing/stripe/customers/<external_id:external_id>",
        reporting.StripeCustomerView.as_view(),
        name="stripe-customer",
    ),
    path("billing/stripe/drifts", reporting.StripeDriftListView.as_view(), name="stripe-drifts"),
    path("billing/stripe/meters", reporting.StripeMeterListView.as_view(), name="stripe-meters"),
    path("billing/stripe/meters/<str:code>", reporting.StripeMeterView.as_view(), name="stripe-meter"),
    path("billing/usage", spend.BillingUsageView.as_view(), name="billing-usage"),
]
