"""What Django's models cannot say about the hot tables: sequences, the reading type, and storage settings."""

from django.db import migrations

FORWARD = """
CREATE SEQUENCE metering_ingestbatch_id_seq;
CREATE SEQUENCE metering_series_id_seq;

-- A reading with its place in time: records compare field by field, so max() is the latest.
CREATE TYPE metering_reading AS (occurred_at timestamptz, "offset" bigint, value numeric);

-- Insert-only tables are vacuumed by the number of inserts; with the default share of a tenth, a table of ten
-- million rows would wait too long for its visibility map.
ALTER TABLE metering_event SET (autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

-- Rows that are updated while their bucket is open: leave room for the new versions in the same page.
ALTER TABLE metering_rollup_minute SET (fillfactor = 80);
ALTER TABLE metering_rollup_hour SET (fillfactor = 80);
ALTER TABLE metering_rollup_day SET (fillfactor = 80);
ALTER TABLE metering_ingestbatch SET (autovacuum_vacuum_scale_factor = 0.02);

-- No statistics on the tenant: an organization that came after the last ANALYZE would be taken for one row, and the
-- planner would read everything it has through the primary key instead of using the index that fits the question.
-- Without any, it assumes a share of the table and picks that index.
ALTER TABLE metering_event ALTER COLUMN organization_id SET STATISTICS 0;
ALTER TABLE metering_ingestbatch ALTER COLUMN organization_id SET STATISTICS 0;
ALTER TABLE metering_series ALTER COLUMN organization_id SET STATISTICS 0;
ALTER TABLE metering_rollup_minute ALTER COLUMN organization_id SET STATISTICS 0;
ALTER TABLE metering_rollup_hour ALTER COLUMN organization_id SET STATISTICS 0;
ALTER TABLE metering_rollup_day ALTER COLUMN organization_id SET STATISTICS 0;
ALTER TABLE metering_member ALTER COLUMN organization_id SET STATISTICS 0;
ALTER TABLE metering_member_set ALTER COLUMN organization_id SET STATISTICS 0;

-- Bitmaps are compressed already.
ALTER TABLE metering_member_set ALTER COLUMN added SET STORAGE EXTERNAL;
ALTER TABLE metering_member_set ALTER COLUMN removed SET STORAGE EXTERNAL;
"""

BACKWARD = """
DROP TYPE metering_reading;
DROP SEQUENCE metering_series_id_seq;
DROP SEQUENCE metering_ingestbatch_id_seq;
"""


class Migration(migrations.Migration):
    dependencies = [("metering", "0001_initial")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
