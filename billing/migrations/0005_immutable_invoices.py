"""What was invoiced does not change, whoever writes: a finalised invoice takes no other content and no further line, its
lines and the credit ledger no edit. None of it is deleted either, unless with the whole organization, which is judged at the end
of the transaction.

What may happen to a finalised invoice: it is voided, paid, mailed.
"""

from django.db import migrations

FORWARD = """
CREATE FUNCTION billing_refuse_change_of_invoice() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    happens text[] := ARRAY[
        'state', 'voided_at', 'void_reason', 'paid_at', 'payment_reference', 'mailed_at'
    ];
BEGIN
    IF to_jsonb(NEW) - happens <> to_jsonb(OLD) - happens
        OR (NEW.state <> OLD.state AND NOT (OLD.state = 'finalised' AND NEW.state = 'void'))
    THEN
        RAISE EXCEPTION 'invoice % is finalised and never changes', OLD.number
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER invoice_is_immutable BEFORE UPDATE ON billing_invoice
    FOR EACH ROW WHEN (OLD.state <> 'draft') EXECUTE FUNCTION billing_refuse_change_of_invoice();

CREATE FUNCTION billing_refuse_loss_of_invoice() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM accounts_organization WHERE id = OLD.organization_id) THEN
        RAISE EXCEPTION 'what was invoiced is never deleted' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER invoice_stays AFTER DELETE ON billing_invoice DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (OLD.state <> 'draft') EXECUTE FUNCTION billing_refuse_loss_of_invoice();
CREATE CONSTRAINT TRIGGER invoice_line_stays AFTER DELETE ON billing_invoiceline DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_loss_of_invoice();
CREATE CONSTRAINT TRIGGER credit_entry_stays AFTER DELETE ON billing_creditentry DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_loss_of_invoice();

CREATE FUNCTION billing_refuse_edit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are never edited', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation';
END $$;

CREATE FUNCTION billing_refuse_further_line() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM billing_invoice WHERE id = NEW.invoice_id AND state <> 'draft') THEN
        RAISE EXCEPTION 'a finalised invoice takes no further line' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER invoice_line_is_in_time BEFORE INSERT ON billing_invoiceline
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_further_line();
CREATE TRIGGER invoice_line_is_immutable BEFORE UPDATE ON billing_invoiceline
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_edit();
CREATE TRIGGER credit_entry_is_immutable BEFORE UPDATE ON billing_creditentry
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_edit();
"""

BACKWARD = """
DROP TRIGGER credit_entry_is_immutable ON billing_creditentry;
DROP TRIGGER invoice_line_is_immutable ON billing_invoiceline;
DROP TRIGGER invoice_line_is_in_time ON billing_invoiceline;
DROP FUNCTION billing_refuse_further_line();
DROP FUNCTION billing_refuse_edit();
DROP TRIGGER credit_entry_stays ON billing_creditentry;
DROP TRIGGER invoice_line_stays ON billing_invoiceline;
DROP TRIGGER invoice_stays ON billing_invoice;
DROP FUNCTION billing_refuse_loss_of_invoice();
DROP TRIGGER invoice_is_immutable ON billing_invoice;
DROP FUNCTION billing_refuse_change_of_invoice();
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0004_invoices")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
