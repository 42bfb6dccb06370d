"""Routes of the billing pages, below `/o/<organization>/`, and of the customer portal, which is below `/portal/`."""

from django.urls import include, path

from billing.views import (
    budgets,
    credits,
    customers,
    explain,
    invoices,
    plans,
    portal,
    profiles,
    settings,
    simulation,
    stripe,
)

app_name = "billing"

organization_patterns = [
    path("plans/", plans.plan_list, name="plan_list"),
    path("new-plan", plans.new_plan, name="new_plan"),
    path("plans/<str:code>/", plans.plan, name="plan"),
    path("plans/<str:code>/new-version", plans.new_version, name="new_version"),
    path("plans/<str:code>/archive", plans.archive_plan, name="archive_plan"),
    path("plans/<str:code>/make-default", plans.make_default_plan, name="make_default_plan"),
    path("plans/<str:code>/versions/<int:number>/edit", plans.edit_version, name="edit_version"),
    path("plans/<str:code>/versions/<int:number>/activate", plans.activate_version, name="activate_version"),
    path("simulator/", simulation.simulator, name="simulator"),
    path("simulator/csv", simulation.simulation_csv, name="simulation_csv"),
    path("invoices/", invoices.invoice_list, name="invoice_list"),
    path("billing-periods/<int:period_id>/waive", invoices.waive_period, name="waive_period"),
    path("run-invoices", invoices.run_invoices, name="run_invoices"),
    path("invoices/<int:invoice_id>/", invoices.invoice, name="invoice"),
    path("invoices/<int:invoice_id>/lines/<int:position>", explain.invoice_line, name="invoice_line"),
    path("invoices/<int:invoice_id>/verify", explain.verify_invoice, name="verify_invoice"),
    path("billing-checks", explain.usage_checks, name="usage_checks"),
    path("invoices/<int:invoice_id>/pdf", invoices.invoice_pdf, name="invoice_pdf"),
    path("invoices/<int:invoice_id>/csv", invoices.invoice_csv, name="invoice_csv"),
    path("invoices/<int:invoice_id>/finalise", invoices.finalise_invoice, name="finalise_invoice"),
    path("invoices/<int:invoice_id>/void", invoices.void_invoice, name="void_invoice"),
    path("invoices/<int:invoice_id>/credit", invoices.credit_invoice, name="credit_invoice"),
    path("invoices/<int:invoice_id>/mark-paid", invoices.mark_invoice_paid, name="mark_invoice_paid"),
    path("customers/<int:customer_id>/billing", customers.customer_billing, name="customer_billing"),
    path("customers/<int:customer_id>/portal-link", portal.create_link, name="create_portal_link"),
    path("customers/<int:customer_id>/billing-profile", profiles.save_profile, name="save_profile"),
    path("customers/<int:customer_id>/credits", credits.grant_credit, name="grant_credit"),
    path("customers/<int:customer_id>/credits/<int:credit_id>/void", credits.void_credit, name="void_credit"),
    path("stripe/", stripe.stripe, name="stripe"),
    path("stripe/customers", stripe.name_stripe_customer, name="name_stripe_customer"),
    path("stripe/customers/<int:customer_id>/forget", stripe.forget_stripe_customer, name="forget_stripe_customer"),
    path("stripe/meters", stripe.name_stripe_meter, name="name_stripe_meter"),
    path("stripe/meters/<str:code>/forget", stripe.forget_stripe_meter, name="forget_stripe_meter"),
    path("stripe/sync-meters", stripe.sync_stripe_meters, name="sync_stripe_meters"),
    path("stripe/report-now", stripe.report_now, name="report_now"),
    path("stripe/reports", stripe.stripe_reports, name="stripe_reports"),
    path("stripe/reports/<int:report_id>/retry", stripe.retry_stripe_report, name="retry_stripe_report"),
    path("stripe/reports/<int:report_id>/confirm", stripe.confirm_stripe_report, name="confirm_stripe_report"),
    path("stripe/invoices", stripe.stripe_invoices, name="stripe_invoices"),
    path("stripe/invoices/<int:push_id>/retry", stripe.retry_stripe_invoice, name="retry_stripe_invoice"),
    path("stripe/events", stripe.stripe_events, name="stripe_events"),
    path("stripe/events/<int:event_id>/retry", stripe.retry_stripe_event, name="retry_stripe_event"),
    path("billing-settings", settings.billing_settings, name="settings"),
    path("tax-rates", settings.new_tax_rate, name="new_tax_rate"),
    path("tax-rates/<str:code>/archive", settings.archive_rate, name="archive_tax_rate"),
    path("subscriptions/<int:subscription_id>/cancel", customers.cancel_subscription, name="cancel_subscription"),
    path("subscriptions/<int:subscription_id>/change-plan", customers.change_plan, name="change_plan"),
    path("subscriptions/<int:subscription_id>/pause", customers.pause_subscription, name="pause_subscription"),
    path("subscriptions/<int:subscription_id>/resume", customers.resume_subscription, name="resume_subscription"),
    path("subscriptions/<int:subscription_id>/budget", budgets.set_budget, name="set_budget"),
    path("subscriptions/<int:subscription_id>/remove-budget", budgets.remove_budget, name="remove_budget"),
]

portal_patterns = [
    path("", portal.overview, name="portal"),
    path("enter/<str:token>", portal.enter, name="portal_enter"),
    path("leave", portal.leave, name="portal_leave"),
    path("invoices/", portal.invoice_list, name="portal_invoices"),
    path("invoices/<int:invoice_id>/", portal.invoice, name="portal_invoice"),
    path("invoices/<int:invoice_id>/pdf", portal.invoice_pdf, name="portal_invoice_pdf"),
    path("invoices/<int:invoice_id>/csv", portal.invoice_csv, name="portal_invoice_csv"),
    path("subscriptions/<int:subscription_id>/budget", portal.budget, name="portal_budget"),
]

urlpatterns = [
    path("o/<int:organization_id>/", include(organization_patterns)),
    path("portal/", include(portal_patterns)),
]
