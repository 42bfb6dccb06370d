"""What was sold does not change: neither an active plan version nor its prices, whoever writes.

Prices of a version that a subscription uses do not go either, unless the version goes with them: a whole organization
can be removed. That is judged at the end of the transaction, since it may take the prices away before the version.
"""

from django.db import migrations

FORWARD = """
CREATE FUNCTION billing_refuse_change_of_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'plan version % is active and never changes', OLD.id USING ERRCODE = 'integrity_constraint_violation';
END $$;

CREATE TRIGGER plan_version_is_immutable BEFORE UPDATE ON billing_planversion
    FOR EACH ROW WHEN (OLD.state = 'active') EXECUTE FUNCTION billing_refuse_change_of_version();

CREATE FUNCTION billing_refuse_change_of_price() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM billing_planversion
        WHERE id IN (NEW.version_id, CASE WHEN TG_OP = 'UPDATE' THEN OLD.version_id END) AND state = 'active'
    ) THEN
        RAISE EXCEPTION 'prices of an active plan version never change' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER price_is_immutable BEFORE INSERT OR UPDATE ON billing_price
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_change_of_price();

CREATE FUNCTION billing_refuse_loss_of_price() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM billing_planversion WHERE id = OLD.version_id)
        AND EXISTS (SELECT FROM billing_subscriptionphase WHERE version_id = OLD.version_id)
    THEN
        RAISE EXCEPTION 'prices of an active plan version never change' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER price_stays AFTER DELETE ON billing_price DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_loss_of_price();
"""

BACKWARD = """
DROP TRIGGER price_stays ON billing_price;
DROP FUNCTION billing_refuse_loss_of_price();
DROP TRIGGER price_is_immutable ON billing_price;
DROP FUNCTION billing_refuse_change_of_price();
DROP TRIGGER plan_version_is_immutable ON billing_planversion;
DROP FUNCTION billing_refuse_change_of_version();
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0001_initial")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
