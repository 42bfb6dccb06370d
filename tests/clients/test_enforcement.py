"""Enforcement: who is capped, since when and until when."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from meterbook import Client, Event, Threshold
from meterbook.enforcement import UsageCaps

from tests.clients.alert_servers import AlertServers, running
from tests.clients.conftest import MakeCaps
from tests.runtime.installation import wait_for

SECONDS = 60.0


@pytest.fixture
def servers(alert_servers: AlertServers) -> AlertServers:
    return alert_servers


def wait_until(condition: Callable[[], bool], seconds: float = SECONDS) -> None:
    wait_for(condition, seconds)


class TestCaps:
    def test_who_crossed_before_the_start_is_capped_as_soon_as_it_is_ready(
        self, make_caps: MakeCaps, servers: AlertServers
    ) -> None:
        servers.append(1, **running(customer="acme", metric="requests"))

        caps = make_caps()

        cap = caps.find_cap("acme")
        assert cap is not None
        assert (cap.customer, cap.metric, cap.threshold_code, cap.offset) == ("acme", "requests", "cap", 1)
        assert not caps.is_capped("bolt")

    def test_who_crosses_later_is_capped_by_the_stream(self, make_caps: MakeCaps, servers: AlertServers) -> None:
        caps = make_caps()
        assert not caps.is_capped("acme")

        servers.append(1, **running(customer="acme"))

        wait_until(lambda: caps.is_capped("acme"))

    def test_other_thresholds_do_not_cap(self, make_caps: MakeCaps, servers: AlertServers) -> None:
        servers.append(1, **running(threshold_code="quota_80"))
        servers.append(2, **running(customer="bolt"))

        caps = make_caps()

        assert not caps.is_capped("acme")
        assert caps.is_capped("bolt")

    def test_silence_of_a_metric_caps_nobody(self, make_caps: MakeCaps, servers: AlertServers) -> None:
        servers.append(1, **running(customer=None))

        assert make_caps()._caps == {}

    def test_cap_ends_with_the_period_and_not_before(self, make_caps: MakeCaps, servers: AlertServers) -> None:
        servers.append(1, **running(hours=1))
        caps = make_caps()
        cap = caps.find_cap("acme")
        assert cap is not None

        assert caps.is_capped("acme", now=cap.until - timedelta(microseconds=1))
        assert not caps.is_capped("acme", now=cap.until)

    def test_alert_of_a_period_that_is_over_caps_nobody(self, make_caps: MakeCaps, servers: AlertServers) -> None:
        servers.append(1, **running(hours=-1))

        assert not make_caps().is_capped("acme")

    def test_cap_that_lasts_longest_is_told_and_metrics_can_be_asked_for(
        self, make_caps: MakeCaps, servers: AlertServers
    ) -> None:
        servers.append(1, **running(hours=5, metric="long"))
        servers.append(2, **running(hours=1, metric="short"))
        caps = make_caps()

        assert [getattr(caps.find_cap("acme", metric), "metric", None) for metric in (None, "short", "other")] == [
            "long",
            "short",
            None,
        ]

    def test_lifted_customer_passes_until_the_next_crossing(self, make_caps: MakeCaps, servers: AlertServers) -> None:
        servers.append(1, **running())
        caps = make_caps()

        caps.lift("acme")

        assert not caps.is_capped("acme")
        servers.append(2, **running())
        wait_until(lambda: caps.is_capped("acme"))

    def test_what_is_over_is_forgotten(self, make_caps: MakeCaps, servers: AlertServers) -> None:
        servers.append(1, **running())
        caps = make_caps()

        caps._sweep(datetime.now(UTC) + timedelta(hours=2))

        assert caps._caps == {}

    def test_long_log_is_not_read_from_its_beginning(self, make_caps: MakeCaps, servers: AlertServers) -> None:
        old = datetime.now(UTC) - timedelta(days=60)
        servers.append(*range(1, 5001), **running(hours=-24, triggered_at=old.isoformat()))
        servers.append(5001, 5002, **running(customer="acme"))

        caps = make_caps()

        assert caps.is_capped("acme")
        assert servers.log_requests[-1] == 5000  # one page, after the last alert that is too old
        assert len(servers.log_requests) < 30

    def test_outage_at_the_start_caps_nobody_and_is_waited_out(
        self, alert_client: Client, servers: AlertServers
    ) -> None:
        servers.append(1, **running())
        servers.refusals += [500] * 2

        with UsageCaps(alert_client, thresholds="cap") as caps:
            assert not caps.is_capped("acme")
            assert caps.wait_until_ready(SECONDS)
            assert caps.is_capped("acme")

    def test_refused_key_is_told_and_tried_again(self, alert_client: Client, servers: AlertServers) -> None:
        servers.append(1, **running())
        servers.refusals += [401]

        with UsageCaps(alert_client, thresholds="cap") as caps:
            wait_until(lambda: caps.last_failure is not None or caps.is_ready)
            assert caps.wait_until_ready(SECONDS)
            assert caps.last_failure is None

    def test_caps_need_the_codes_that_cap(self, alert_client: Client) -> None:
        with pytest.raises(ValueError, match="codes"):
            UsageCaps(alert_client, thresholds=[])

    def test_close_is_prompt_and_keeps_what_is_known(self, make_caps: MakeCaps, servers: AlertServers) -> None:
        servers.append(1, **running())
        caps = make_caps()
        wait_until(lambda: len(servers.stream_requests) == 1)

        began = time.monotonic()
        caps.close()

        assert time.monotonic() - began < 2
        assert not caps._thread.is_alive()
        assert caps.is_capped("acme")

    def test_child_of_a_fork_follows_the_stream_itself(self, make_caps: MakeCaps, servers: AlertServers) -> None:
        servers.append(1, **running(customer="before"))
        caps = make_caps()
        wait_until(lambda: len(servers.stream_requests) == 1)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                assert caps.is_capped("before")
                os.write(writing, b"1")
                wait_until(lambda: caps.is_capped("after"), 30)
                os._exit(7)
            finally:
                os._exit(1)
        assert os.read(reading, 1) == b"1"

        servers.append(2, **running(customer="after"))

        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        wait_until(lambda: caps.is_capped("after"))  # the parent's own connection is whole


@pytest.mark.xdist_group("client_installation")
def test_void_below_the_threshold_does_not_lift_the_cap_and_lift_does(tenant_client: Client) -> None:
    tenant_client.metrics.create("calls", "sum", thresholds=[Threshold("hard_cap", 10)])
    with UsageCaps(tenant_client, thresholds="hard_cap") as caps:
        assert caps.wait_until_ready(SECONDS)
        tenant_client.ingest(Event(customer="acme", metric="calls", value=10, idempotency_key="big"))
        wait_until(lambda: caps.is_capped("acme"))

        tenant_client.void("big", reason="a mistake")
        [threshold] = tenant_client.thresholds.list()
        wait_until(lambda: "Armed again" in tenant_client.thresholds.trace(threshold.id, "acme").explanation)

        assert caps.is_capped("acme")
        caps.lift("acme")
        assert not caps.is_capped("acme")
        tenant_client.ingest(Event(customer="acme", metric="calls", value=11))
        wait_until(lambda: caps.is_capped("acme"))


def test_package_imports_neither_django_nor_a_web_framework() -> None:
    code = "import meterbook, meterbook.enforcement, sys; print(sorted({'django', 'asgiref'} & set(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout == "[]\n"
