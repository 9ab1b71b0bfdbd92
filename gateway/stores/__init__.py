"""The stores: the only home of the PostgreSQL and Redis drivers. Values in, values out; no rule is decided here."""
