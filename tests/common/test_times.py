"""Times as clients write them."""

from datetime import UTC, datetime

import pytest

from common.times import parse_time

MOMENT = datetime(2026, 11, 20, 10, 0, 0, 123456, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("2026-11-20T10:00:00.123456Z", MOMENT),
        ("2026-11-20T11:00:00.123456+01:00", MOMENT),
        ("2026-11-20T10:00:00.1234569Z", MOMENT),
        (1795168800, MOMENT.replace(microsecond=0)),
        (1795168800123, MOMENT.replace(microsecond=123000)),
        (1795168800123456, MOMENT),
        (1795168800123456789, MOMENT),
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        ("1970-01-01T00:00:00Z", datetime(1970, 1, 1, tzinfo=UTC)),
        (10**11 - 1, datetime(5138, 11, 16, 9, 46, 39, tzinfo=UTC)),
        (10**11, datetime(1973, 3, 3, 9, 46, 40, tzinfo=UTC)),
    ],
)
def test_understood(given: object, expected: datetime) -> None:
    assert parse_time(given) == expected
    assert parse_time(given).tzinfo is UTC


@pytest.mark.parametrize(
    "given",
    [
        "2026-11-20T10:00:00",
        "2026-11-20",
        "",
        "now",
        "1969-12-31T23:59:59Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "2026-02-30T00:00:00Z",
        "\x00",
        "\ud800",
        -1,
        10**20,
        10**400,
        1.5,
        True,
        None,
        [],
        {},
        b"2026-11-20T10:00:00Z",
    ],
)
def test_refused_with_a_sentence(given: object) -> None:
    with pytest.raises(ValueError, match=r"\.$"):
        parse_time(given)
