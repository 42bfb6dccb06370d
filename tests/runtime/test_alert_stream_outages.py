"""The live stream of alerts on a whole installation whose parts die: late perhaps, but complete and in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from signal import SIGTERM

import httpx
import pytest

from tests.runtime.alert_reader import AlertReader, Refused
from tests.runtime.crossing_log import offsets
from tests.runtime.installation import Installation, alive, free_port, wait_for


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    data_dir: Path = tmp_path_factory.mktemp("alert-stream") / "var"
    running = Installation(data_dir, free_port()).start()
    try:
        yield running.wait_until_ready()
    finally:
        running.end(SIGTERM)


class Shop:
    """An organization whose every event crosses the threshold once more."""

    def __init__(self, installation: Installation, name: str) -> None:
        self.url = f"http://127.0.0.1:{installation.port}"
        self.key = installation.create_organization(name)
        threshold = {"code": "each", "value": "1", "recurring": True}
        self._post("/v1/metrics", {"code": "calls", "aggregation": "count", "thresholds": [threshold]}, 201)

    def call(self, how_many: int) -> None:
        self._post("/v1/events", [{"customer": "cust_42", "type": "calls"}] * how_many, 200)

    def listen(self, **options: int) -> AlertReader:
        return AlertReader(self.url, self.key, **options)

    def _post(self, path: str, body: object, status: int) -> None:
        headers = {"Authorization": f"Bearer {self.key}"}
        answer = httpx.post(f"{self.url}{path}", json=body, headers=headers, timeout=30, trust_env=False)
        assert answer.status_code == status, answer.text


def kill(installation: Installation, part: str) -> None:
    """Kill -9; return when it is gone. The supervisor starts it again."""
    process = installation.find(part)
    process.kill()
    wait_for(lambda: not alive([process]), 10)


def test_reader_stays_while_the_database_restarts(installation: Installation) -> None:
    shop = Shop(installation, "Initech")
    with shop.listen() as reader:
        shop.call(3)
        assert offsets(reader.take(3)) == [1, 2, 3]

        kill(installation, "bin/postgres")
        installation.wait_until_ready()
        shop.call(4)

        assert offsets(reader.take(4)) == [4, 5, 6, 7]


def test_reader_that_comes_back_after_the_stream_died_misses_nothing(installation: Installation) -> None:
    shop = Shop(installation, "Hooli")
    with shop.listen() as reader:
        shop.call(2)
        last = reader.take(2)[-1]
        kill(installation, "config.asgi")
        shop.call(5)
        assert reader.next() is None

    assert offsets(come_back(shop, last.offset).take(5)) == [3, 4, 5, 6, 7]


def come_back(shop: Shop, last_event_id: int) -> AlertReader:
    """Reconnect as clients do: again and again, until the stream is there."""
    readers: list[AlertReader] = []

    def try_again() -> bool:
        try:
            readers.append(shop.listen(last_event_id=last_event_id))
        except (OSError, Refused):
            return False
        return True

    wait_for(try_again, 60)
    return readers[0]
