"""What the API's serializers share."""

import pytest
from rest_framework import serializers

from common.api import Flag, StrictSerializer, Text, validated
from common.errors import InvalidInput


class Inner(StrictSerializer):
    name = Text()
    is_loud = Flag(default=False)


class Outer(StrictSerializer):
    title = Text()
    volume = serializers.IntegerField(default=5)
    inner = Inner()
    items = Inner(many=True)


class TestPartial:
    def test_takes_what_is_there_without_defaults(self) -> None:
        assert validated(Outer(data={"title": "x"}, partial=True)) == {"title": "x"}

    @pytest.mark.parametrize(("data", "field"), [({"inner": {}}, "inner.name"), ({"items": [{}]}, "items[0].name")])
    def test_nested_objects_are_whole(self, data: object, field: str) -> None:
        with pytest.raises(InvalidInput) as refusal:
            validated(Outer(data=data, partial=True))
        assert [(error.field, error.code) for error in refusal.value.errors] == [(field, "required")]

    def test_nested_objects_have_their_defaults(self) -> None:
        assert validated(Outer(data={"items": [{"name": "x"}]}, partial=True)) == {
            "items": [{"name": "x", "is_loud": False}]
        }


def test_every_field_at_fault_is_named_by_its_path() -> None:
    with pytest.raises(InvalidInput) as refusal:
        validated(Outer(data={"inner": {"nam": 1}, "items": [{"name": 1}, 2]}))

    assert [(error.field, error.code) for error in refusal.value.errors] == [
        ("title", "required"),
        ("inner.nam", "unknown_field"),
        ("items[0].name", "invalid"),
        ("items[1]", "invalid"),
    ]
