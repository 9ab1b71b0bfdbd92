"""Who may do what, now: the ext_authz service and the catalog. Never sees an answer, never imports the meter."""
