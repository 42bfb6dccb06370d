"""Finding a customer by its external id: a statement of every usage read that names one.

Raw SQL where the ORM could say the same, because compiling the ORM's query took longer than PostgreSQL's answer.
"""

from __future__ import annotations

from django.db import connection
from psycopg.sql import SQL, Identifier

from accounts.models import Customer, Organization

_COLUMNS = [str(field.column) for field in Customer._meta.concrete_fields]

# At most one row. Uses customer_external_id_once, or the primary key.
_FIND = SQL("""
SELECT {columns}
FROM accounts_customer
WHERE organization_id = %(organization)s
  AND (%(external_id)s::text IS NULL OR external_id = %(external_id)s)
  AND (%(id)s::bigint IS NULL OR id = %(id)s)
LIMIT 1
""").format(columns=SQL(", ").join(map(Identifier, _COLUMNS)))


def find_customer(*, organization: Organization, external_id: str | None, customer_id: int | None) -> Customer | None:
    """Return the customer that has each given id, or None. At least one is given."""
    with connection.cursor() as cursor:
        cursor.execute(_FIND, {"organization": organization.pk, "external_id": external_id, "id": customer_id})
        row = cursor.fetchone()
    return None if row is None else Customer.from_db(connection.alias, _COLUMNS, row)
