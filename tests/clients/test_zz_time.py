import time, json
from io import StringIO
from tests.scenarios.test_demo_totals import *
def test_times(server, tmp_path):
    c = tmp_path/"demo.json"; t=time.time(); print(load(server,c), time.time()-t)
    org=Organization.objects.get(name=demo.ORGANIZATION_NAME)
    with Client(server.url, json.loads(c.read_text())["api_key"]) as client:
        from meterbook import Period; from datetime import timedelta
        at=timezone.now(); y=Period(at-timedelta(days=366),at+timedelta(days=1))
        for phase in (0,1):
            for m in ("flights","air_miles","longest_hop","last_arrival_delay","tail_numbers"):
                t=time.time(); client.breakdown(metric=m,group_by="customer",period=y); print(phase,m,time.time()-t,flush=True)
            if not phase:
                t=time.time(); roll_up_organization(organization_id=org.pk, now=timezone.now()); print("rollup",time.time()-t)
