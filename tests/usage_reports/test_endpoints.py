"""The table, row by row, against the vendor's contract: same endpoints, same words, same limits."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.urls import Resolver404, resolve

from metering.catalogs import CATALOGS
from metering.models import Aggregation
from tests.launchdarkly.contract import ENDPOINTS as CONTRACT
from tests.launchdarkly.contract import Endpoint as Agreed
from usage_reports.launchdarkly.endpoints import ENDPOINTS, Answer, Endpoint
from usage_reports.launchdarkly.parameters import list_parameters
from usage_reports.launchdarkly.schema import list_parameters as describe_parameters

ROWS = {row.operation: row for row in ENDPOINTS}
METRICS = {metric.code: metric for metric in CATALOGS["launchdarkly"].metrics}
DEFAULTS = {"24h": timedelta(hours=24), "7d": timedelta(days=7), "30d": timedelta(days=30), "60d": timedelta(days=60)}

each_agreed = pytest.mark.parametrize("agreed", CONTRACT, ids=lambda agreed: agreed.id)
each_row = pytest.mark.parametrize("row", ENDPOINTS, ids=lambda row: row.path)


def test_there_are_exactly_the_agreed_endpoints() -> None:
    assert len(ENDPOINTS) == 23
    assert {row.operation: f"/api/v2/usage/{row.path}" for row in ENDPOINTS} == {
        agreed.method: agreed.path for agreed in CONTRACT
    }


@each_agreed
class TestAgreement:
    def row(self, agreed: Agreed) -> Endpoint:
        return ROWS[agreed.method]

    def test_takes_the_parameters_of_both_client_versions(self, agreed: Agreed) -> None:
        assert sorted(list_parameters(self.row(agreed))) == sorted(agreed.parameters_of("25"))

    def test_takes_the_parts_of_the_path(self, agreed: Agreed) -> None:
        assert [entry.parameter for entry in self.row(agreed).path_filters] == list(agreed.path_parameters)

    def test_repeats_what_may_be_repeated(self, agreed: Agreed) -> None:
        added = agreed.new_in_25.get("parameters", {})
        filters = {entry.parameter: entry.is_repeatable for entry in self.row(agreed).filters}
        expected = {name: name in agreed.repeatable or name in added for name in agreed.filters}
        assert filters == {name: expected[name] for name in filters}

    def test_splits_by_the_groups_of_both_client_versions(self, agreed: Agreed) -> None:
        row = self.row(agreed)
        assert sorted(group.name for group in row.groups) == sorted(agreed.all_groups)
        assert agreed.group_by in {None, row.group_parameter}

    def test_counts_what_may_be_asked_for_and_the_same_by_default(self, agreed: Agreed) -> None:
        row = self.row(agreed)
        combinations = {
            (choice.name, granularity) for choice in row.aggregations for granularity in choice.granularities
        }
        if agreed.aggregations:
            assert combinations == set(agreed.combinations)
            assert row.aggregations[0].name == agreed.default_aggregation
            assert row.aggregations[0].granularities[0] == "daily"
        else:
            assert not row.has_aggregation_parameter

    def test_has_the_agreed_range(self, agreed: Agreed) -> None:
        row = self.row(agreed)
        expected = DEFAULTS.get(agreed.default_range or "")
        if not row.range.is_fixed:
            assert row.range.default == expected
        assert row.range.longest == (agreed.longest_days and timedelta(days=agreed.longest_days))

    def test_answers_numbers_of_the_agreed_type(self, agreed: Agreed) -> None:
        row = self.row(agreed)
        kind = "list" if row.answer != Answer.SERIES else "number" if row.has_fractions else "integer"
        assert kind == agreed.values

    def test_refuses_the_values_that_are_not_agreed(self, agreed: Agreed) -> None:
        row = self.row(agreed)
        choices = {entry.parameter: set(entry.choices) for entry in (*row.path_filters, *row.filters) if entry.choices}
        for name, values in agreed.allowed.items():
            if name in choices:
                assert choices[name] >= set(values), name
            else:
                assert name in {"aggregationType", "granularity", row.group_parameter}, name


@each_row
class TestRow:
    def test_its_metric_is_in_the_catalog_with_every_dimension_that_it_needs(self, row: Endpoint) -> None:
        declared = {dimension["key"] for dimension in METRICS[row.metric].dimensions}
        assert row.dimensions <= declared

    def test_only_counts_of_distinct_keys_know_primary_kinds_and_are_added_up(self, row: Endpoint) -> None:
        if row.counts_primary_kind or row.added_up_over:
            assert METRICS[row.metric].aggregation == Aggregation.COUNT_UNIQUE

    def test_its_route_has_no_slash_at_the_end(self, row: Endpoint) -> None:
        path = "/api/v2/usage/" + row.path.replace("{", "").replace("}", "")
        assert resolve(path).url_name == row.operation
        with pytest.raises(Resolver404):
            resolve(f"{path}/")

    def test_the_document_describes_each_parameter_once(self, row: Endpoint) -> None:
        described = [parameter.name for parameter in describe_parameters(row)]
        assert sorted(described) == sorted([entry.parameter for entry in row.path_filters] + list_parameters(row))
