import os
import time, json
from tests.scenarios.test_demo_totals import *
from django.db import connection
from metering.services.rollup import roll_up_chunk, RolledUp
def test_times(server, tmp_path):
    c = tmp_path/"demo.json"; t=time.time(); load(server,c); print("load", time.time()-t)
    org=Organization.objects.get(name=demo.ORGANIZATION_NAME)
    with Client(server.url, json.loads(c.read_text())["api_key"]) as client:
        t=time.time(); demo.totals_of_server(client, at=timezone.now()); print("totals pending", time.time()-t)
    def timer(execute, sql, params, many, context):
        t=time.time(); r=execute(sql, params, many, context); d=time.time()-t
        if d>.5: print(f"   {d:.2f}s {str(sql if isinstance(sql,str) else sql.as_string(None))[:90]!r}", flush=True)
        return r
    more=True; i=0
    with connection.execute_wrapper(timer):
        while more:
            t=time.time(); c0=time.process_time(); more=roll_up_chunk(organization_id=org.pk, now=timezone.now(), rolled=RolledUp()); print("chunk",i,time.time()-t,os.getloadavg()[0],flush=True); i+=1
