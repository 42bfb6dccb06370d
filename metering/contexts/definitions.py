"""The pages that define metrics: the form of one, and the catalogs."""

from __future__ import annotations

from dataclasses import dataclass

from django.forms import BoundField
from django.urls import reverse

from accounts.access import Caller
from metering.catalogs import CATALOGS, Catalog
from metering.contexts.words import AGGREGATION_LABELS
from metering.forms import MetricForm
from metering.models import Metric


@dataclass(frozen=True, slots=True)
class FieldGroup:
    title: str
    fields: list[BoundField]


@dataclass(frozen=True, slots=True)
class MetricFormPage:
    title: str
    submit_label: str
    cancel_url: str
    form: MetricForm
    groups: list[FieldGroup]
    metric: Metric | None = None
    has_events: bool = False


def get_metric_form_page(
    caller: Caller, form: MetricForm, *, metric: Metric | None = None, has_events: bool = False
) -> MetricFormPage:
    arguments = [caller.organization.pk]
    return MetricFormPage(
        title=f"Edit {metric.name or metric.code}" if metric else "New metric",
        submit_label="Save" if metric else "Create metric",
        cancel_url=reverse("metering:metric", args=[*arguments, metric.code])
        if metric
        else reverse("metering:metric_list", args=arguments),
        form=form,
        groups=[FieldGroup(title, [form[name] for name in names]) for title, names in MetricForm.GROUPS],
        metric=metric,
        has_events=has_events,
    )


@dataclass(frozen=True, slots=True)
class CatalogMetric:
    code: str
    aggregation_label: str


@dataclass(frozen=True, slots=True)
class CatalogCard:
    name: str
    description: str
    metrics: list[CatalogMetric]
    installed_count: int

    @property
    def is_installed(self) -> bool:
        return self.installed_count == len(self.metrics)


@dataclass(frozen=True, slots=True)
class CatalogListPage:
    catalogs: list[CatalogCard]


def get_catalog_list(caller: Caller) -> CatalogListPage:
    """One query, however many catalogs there are."""
    codes = set(Metric.objects.for_organization(caller.organization).values_list("code", flat=True))
    return CatalogListPage([_catalog_card(catalog, codes) for catalog in CATALOGS.values()])


def _catalog_card(catalog: Catalog, codes: set[str]) -> CatalogCard:
    return CatalogCard(
        name=catalog.name,
        description=catalog.description,
        metrics=[
            CatalogMetric(definition.code, AGGREGATION_LABELS[definition.aggregation]) for definition in catalog.metrics
        ],
        installed_count=sum(definition.code in codes for definition in catalog.metrics),
    )
