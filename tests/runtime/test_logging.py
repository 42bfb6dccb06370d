"""What a log line looks like, and what never gets into one."""

import logging

import pytest

from config.settings.logging import remove_secrets, render_text

KEY = "mb_1a2b3c4d5e6f_" + "0f" * 32


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"authorization": f"Bearer {KEY}"}, {"authorization": "[secret]"}),
        ({"new_password": "hunter2"}, {"new_password": "[secret]"}),
        ({"event": f"refused {KEY}!"}, {"event": "refused mb_1a2b3c4d5e6f_[secret]!"}),
        ({"exception": f"KeyError: '{KEY}'"}, {"exception": "KeyError: 'mb_1a2b3c4d5e6f_[secret]'"}),
        ({"event": "to redis://:pw@host/0"}, {"event": "to redis://:[secret]@host/0"}),
        ({"event": "to postgresql://me:pw@host/db"}, {"event": "to postgresql://me:[secret]@host/db"}),
        ({"event": "stored", "count": 3}, {"event": "stored", "count": 3}),
    ],
)
def test_secrets_are_removed(event: dict[str, object], expected: dict[str, object]) -> None:
    assert remove_secrets(None, "info", dict(event)) == expected


def test_line_is_level_event_and_pairs() -> None:
    line = render_text(None, "info", {"level": "info", "event": "rolled up", "batches": 3, "why": 'said "now"'})

    assert line == 'info     rolled up batches=3 why="said \\"now\\""'


def test_traceback_follows_on_its_own_lines() -> None:
    line = render_text(None, "error", {"level": "error", "event": "failed", "exception": "Traceback …\nValueError"})

    assert line == "error    failed\nTraceback …\nValueError"


def test_lines_of_other_libraries_go_through_the_same_steps(capsys: pytest.CaptureFixture[str]) -> None:
    formatter = logging.getLogger().handlers
    handlers = [handler for handler in formatter if type(handler) is logging.StreamHandler]
    record = logging.LogRecord("library", logging.WARNING, "", 0, "key %s", (KEY,), None)

    texts = [handler.format(record) for handler in handlers]

    assert texts
    assert all("[secret]" in text and "0f0f" not in text for text in texts)
