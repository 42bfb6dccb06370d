"""Routes of the billing pages, all below `/o/<organization>/`."""

from django.urls import include, path

from billing import views

app_name = "billing"

organization_patterns = [
    path("plans/", views.plan_list, name="plan_list"),
    path("new-plan", views.new_plan, name="new_plan"),
    path("plans/<str:code>/", views.plan, name="plan"),
    path("plans/<str:code>/new-version", views.new_version, name="new_version"),
    path("plans/<str:code>/archive", views.archive_plan, name="archive_plan"),
    path("plans/<str:code>/make-default", views.make_default_plan, name="make_default_plan"),
    path("plans/<str:code>/versions/<int:number>/edit", views.edit_version, name="edit_version"),
    path("plans/<str:code>/versions/<int:number>/activate", views.activate_version, name="activate_version"),
    path("customers/<int:customer_id>/billing", views.customer_billing, name="customer_billing"),
    path("subscriptions/<int:subscription_id>/cancel", views.cancel_subscription, name="cancel_subscription"),
    path("subscriptions/<int:subscription_id>/change-plan", views.change_plan, name="change_plan"),
]

urlpatterns = [path("o/<int:organization_id>/", include(organization_patterns))]
