"""Forms of plans. What a plan may be is said once, in the API's shapes; the forms ask them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django import forms

from billing.api import plan_serializers as shapes
from billing.domain.currencies import EXPONENTS
from billing.domain.prices import PriceModel
from billing.queries.charges import Charge
from billing.services.plans import MAX_PRICES, MAX_TRIAL_DAYS, VersionDefinition
from common.errors import ApplicationError
from common.numbers import exact_text
from metering.forms import filters_text, metric_choices, parse_filters
from metering.models import Metric

TIER_LINE = re.compile(r"\s*([^:]+?)\s*:\s*([^+]+?)\s*(?:\+\s*(\S+))?\s*\Z")
NO_END = frozenset({"beyond", "any", "*"})
MODEL_CHOICES = [
    ("", "---"),
    (PriceModel.FLAT, "Flat: once"),
    (PriceModel.PER_UNIT, "Per unit"),
    (PriceModel.GRADUATED, "Graduated: each unit by its tier"),
    (PriceModel.VOLUME, "Volume: all by the tier reached"),
    (PriceModel.PACKAGE, "Package: each one begun"),
    (PriceModel.PERCENT_OF_AMOUNT, "Percent of an amount"),
]
MAX_NUMBER_CHARACTERS = 80


def parse_tiers(text: str) -> list[dict[str, Any]]:
    """Read lines like `1000: 0.5` and `beyond: 0.2 + 100` as the API takes tiers."""
    tiers = []
    for line in filter(None, map(str.strip, text.splitlines())):
        parts = TIER_LINE.match(line)
        if parts is None:
            raise forms.ValidationError(f"“{line}” is not like “1000: 0.5” or “beyond: 0.2 + 100”.")
        up_to = None if parts[1].lower() in NO_END else parts[1]
        tiers.append({"up_to": up_to, "unit_amount": parts[2], "flat_amount": parts[3] or "0"})
    return tiers


def tiers_text(charge: Charge) -> str:
    lines = []
    for tier in charge.price.tiers:
        up_to = "beyond" if tier.up_to is None else exact_text(tier.up_to)
        flat = f" + {exact_text(tier.flat_amount)}" if tier.flat_amount else ""
        lines.append(f"{up_to}: {exact_text(tier.unit_amount)}{flat}")
    return "\n".join(lines)


def number_field(label: str, help_text: str = "") -> forms.CharField:
    return forms.CharField(
        label=label,
        required=False,
        max_length=MAX_NUMBER_CHARACTERS,
        help_text=help_text,
        widget=forms.TextInput(attrs={"inputmode": "decimal"}),
    )


class PriceForm(forms.Form):
    """One price. A form that says neither a model nor anything else is no price."""

    metric = forms.ChoiceField(required=False)
    model = forms.ChoiceField(choices=MODEL_CHOICES, required=False)
    amount = number_field("Amount", "In minor units, like cents; 0.1 is a tenth of one. Or the percentage.")
    package_size = number_field("Package size")
    included_quantity = number_field("Included", "Units that cost nothing.")
    minimum = number_field("At least")
    maximum = number_field("At most")
    name = forms.CharField(max_length=200, required=False)
    tiers = forms.CharField(
        required=False,
        max_length=10_000,
        widget=forms.Textarea(attrs={"rows": 3, "placeholder": "1000: 0.5\nbeyond: 0.2"}),
        help_text="Graduated and volume: one a line, the last without an end. “+ 100” is charged once in the tier.",
    )
    filters = forms.CharField(
        label="Only usage with",
        required=False,
        max_length=10_000,
        widget=forms.Textarea(attrs={"rows": 3, "placeholder": "region = us | eu"}),
        help_text="One dimension a line. Empty: what no other price of the metric charges.",
    )

    def __init__(self, *args: Any, metrics: Sequence[Metric], **options: Any) -> None:
        super().__init__(*args, **options)
        choices = [("", "None: a fee of the plan"), *metric_choices(metrics)]
        self.fields["metric"].choices = choices  # type: ignore[attr-defined]  # a ChoiceField

    def clean_tiers(self) -> list[dict[str, Any]]:
        return parse_tiers(self.cleaned_data["tiers"])

    def clean_filters(self) -> dict[str, list[str]]:
        return parse_filters(self.cleaned_data["filters"])

    @property
    def is_price(self) -> bool:
        return any(self.cleaned_data.values())

    def as_request(self) -> dict[str, Any]:
        """Return the price as the API would be sent it."""
        return {name: value for name, value in self.cleaned_data.items() if value}

    @staticmethod
    def initial_of(charge: Charge) -> dict[str, Any]:
        price = charge.price
        numbers = {
            name: "" if (value := getattr(price, name)) is None else exact_text(value) for name in shapes.PLAIN_TERMS
        }
        return numbers | {
            "metric": charge.metric.code if charge.metric else "",
            "model": price.model.value,
            "name": charge.name,
            "included_quantity": exact_text(price.included_quantity) if price.included_quantity else "",
            "tiers": tiers_text(charge),
            "filters": filters_text(charge.filters),
        }


PriceFormSet = forms.formset_factory(PriceForm, extra=1, max_num=MAX_PRICES, absolute_max=MAX_PRICES)


class VersionForm(forms.Form):
    """What all prices of a version share."""

    currency = forms.ChoiceField(choices=[(code, code) for code in sorted(EXPONENTS)], initial="USD")
    trial_days = forms.IntegerField(min_value=0, max_value=MAX_TRIAL_DAYS, initial=0, help_text="They cost nothing.")


class NewPlanForm(VersionForm):
    code = forms.CharField(max_length=64, help_text="Its name in the API: a-z, 0-9 and _ . : -.")
    name = forms.CharField(max_length=200)
    description = forms.CharField(max_length=2000, required=False, widget=forms.Textarea(attrs={"rows": 2}))
    field_order = ("code", "name", "currency", "trial_days", "description")


class PlanEditor:
    """The forms of a version together: its own and one per price. `form` is bound exactly when the prices are."""

    def __init__(
        self,
        form_class: type[VersionForm],
        *,
        metrics: Sequence[Metric],
        data: Mapping[str, Any] | None = None,
        initial: Mapping[str, Any] | None = None,
        charges: Sequence[Charge] = (),
    ) -> None:
        # What it begins with.
        self.charges = charges
        self.form = form_class(data, initial=dict(initial) if initial else None)
        self.prices = PriceFormSet(
            data,
            prefix="prices",
            initial=[PriceForm.initial_of(charge) for charge in charges],
            form_kwargs={"metrics": metrics},
        )
        self.body: dict[str, Any] = {}
        # The forms of the prices in the body, in its order: a problem of `prices[1]` is shown in the second of them.
        self._price_forms: list[PriceForm] = []

    def is_valid(self) -> bool:
        """Ask the API's shape, and put what it refuses at the fields."""
        if not (self.form.is_valid() and self.prices.is_valid()):
            return False
        self._price_forms = [form for form in self.prices.forms if form.cleaned_data and form.is_price]
        request = {name: value for name, value in self.form.cleaned_data.items() if value != ""}
        request["prices"] = [form.as_request() for form in self._price_forms]
        shape_class = shapes.PlanWrite if isinstance(self.form, NewPlanForm) else shapes.NewVersion
        shape = shape_class(data=request)
        if not shape.is_valid():
            for path, message in _flat_errors(shape.errors):
                self.add_problem(path, message)
            return False
        self.body = dict(shape.validated_data)
        return True

    def definition(self) -> VersionDefinition:
        """Return the version that the forms say. Only after `is_valid`."""
        return shapes.version_definition(dict(self.body))

    def add_refusal(self, error: ApplicationError) -> None:
        if not error.errors:
            self.form.add_error(None, error.message)
        for problem in error.errors:
            self.add_problem(problem.field, problem.message)

    def add_problem(self, path: str, message: str) -> None:
        """Show a problem at the field that a path like `prices[1].tiers[0].up_to` means.

        What is wrong in a tier or a filter is shown at the field that holds them all, and of a body as a whole above.
        """
        place = re.match(r"prices\[(\d+)\]\.?([a-z_]*)", path)
        if place is None:
            name = path.partition(".")[0]
            self.form.add_error(name if name in self.form.fields else None, message)
            return
        form = self._price_forms[int(place[1])]
        form.add_error(place[2] if place[2] in form.fields else None, message)


def _flat_errors(errors: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield DRF's nested errors with their paths."""
    if isinstance(errors, Mapping):
        for name, inner in errors.items():
            yield from _flat_errors(inner, f"{path}[{name}]" if isinstance(name, int) else f"{path}.{name}".lstrip("."))
    elif isinstance(errors, list):
        for place, inner in enumerate(errors):
            yield from _flat_errors(inner, f"{path}[{place}]" if isinstance(inner, Mapping) else path)
    else:
        yield path, str(errors)
