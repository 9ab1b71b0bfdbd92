"""Decides who may do what: the ext_authz service and the catalog pages. It sees no answers of backends."""
