"""list-models."""

from __future__ import annotations

from typing import Any

import rich_click as click

from gateway.catalog.allow_list import effective_models
from gateway.catalog.ollama_version import is_too_old
from gateway.catalog.snapshot import Catalog, HostedModel
from gateway.errors import NotFound
from gateway.settings import Settings
from ops.backends.findings import DIGEST_SHOWN_CHARACTERS, digests_differ, findings
from ops.cli.catalog import read_catalog
from ops.cli.output import print_json
from ops.cli.parameters import Name, json_option
from ops.cli.session import Session, pass_session
from ops.cli.table import Column, print_table
from ops.database.tenants import Tenant, TenantRepository


@click.command("list-models")
@click.option("--tenant", type=Name(), help="Also list the models that this tenant may use.")
@json_option
@pass_session
def list_models(session: Session, tenant: str | None, as_json: bool) -> None:
    """List the models of each backend, as discovery last saw them, and those of all backends together."""
    tenant_record = session.run(lambda database: TenantRepository(database).get_tenant(tenant)) if tenant else None
    catalog = _published_catalog(session.settings)
    states = {state.name for state in catalog.backends}
    unseen = [backend.name for backend in session.settings.backends if backend.name not in states]
    if as_json:
        return print_json(_document(catalog, unseen, tenant_record))
    _print_backends(catalog, unseen)
    _print_union(catalog)
    if tenant_record is not None:
        _print_tenant(catalog, tenant_record)
    for finding in findings(catalog):
        click.echo(f"\nwarning: {finding.text}: {finding.remedy}")
    return None


def _published_catalog(settings: Settings) -> Catalog:
    catalog = read_catalog(settings)
    if catalog is None:
        raise NotFound("no catalog published; start control, or run `neuronetz-gateway doctor`")
    return catalog


def _effective(catalog: Catalog, tenant: Tenant) -> list[str]:
    policy = tenant.policy
    allowed = policy["allowed_models"] or ()
    names = effective_models(catalog, allow_all=bool(policy["allow_all_models"]), allowed=allowed)
    return [catalog.models[name].spelling for name in names]


def _hosted_by(catalog: Catalog, backend: str) -> list[HostedModel]:
    return [model for model in catalog.models.values() if backend in model.backends]


def _document(catalog: Catalog, unseen: list[str], tenant: Tenant | None) -> dict[str, Any]:
    backends = [
        {
            "name": state.name,
            "answers": state.answers,
            "version": state.version,
            "version_too_old": is_too_old(state.version),
            "models": [
                {"name": model.spelling, "digest": model.digests.get(state.name), "loaded": state.name in model.loaded}
                for model in _hosted_by(catalog, state.name)
            ],
        }
        for state in catalog.backends
    ]
    unanswered: list[dict[str, Any]] = [
        {"name": name, "answers": False, "version": None, "version_too_old": False, "models": []} for name in unseen
    ]
    document: dict[str, Any] = {
        "backends": [*backends, *unanswered],
        "models": [
            {
                "name": model.spelling,
                "size": model.tag.get("size"),
                "backends": list(model.backends),
                "loaded": list(model.loaded),
                "digests_differ": digests_differ(model),
                "context_tokens": model.context_tokens,
                "context_source": model.context_source,
            }
            for model in catalog.models.values()
        ],
        "warnings": [f"{finding.text}: {finding.remedy}" for finding in findings(catalog)],
    }
    if tenant is not None:
        document["tenant"] = {"name": tenant.name, "models": _effective(catalog, tenant)}
    return document


def _print_backends(catalog: Catalog, unseen: list[str]) -> None:
    for state in catalog.backends:
        version = f"Ollama {state.version}" if state.version else "version unknown"
        stale = "" if state.answers else " (unreachable; showing the last known state)"
        click.echo(f"{state.name}: {version}{stale}")
        print_table(
            ("model", ">GB", "digest", "loaded"),
            [_row(model, state.name) for model in _hosted_by(catalog, state.name)],
            empty="no models",
        )
        click.echo()
    for name in unseen:
        click.echo(f"{name}: no answer yet\n")


def _row(model: HostedModel, backend: str) -> tuple[object, ...]:
    size, digest = model.tag.get("size"), model.digests.get(backend)
    shown = digest and digest[:DIGEST_SHOWN_CHARACTERS]
    return (
        model.spelling,
        f"{size / 1e9:.1f}" if isinstance(size, int) else None,
        f"{shown} differs" if digests_differ(model) else shown,
        backend in model.loaded,
    )


def _print_union(catalog: Catalog) -> None:
    click.echo("all backends")
    rows = [(model.spelling, _context(model), model.backends) for model in catalog.models.values()]
    heads = ("model", "context", Column("backends, in order of priority", folds=True))
    print_table(heads, rows, empty="no models")


def _context(model: HostedModel) -> str:
    """The context in force and where it comes from."""
    tokens = model.context_tokens
    return model.context_source if tokens is None else f"{tokens} ({model.context_source})"


def _print_tenant(catalog: Catalog, tenant: Tenant) -> None:
    click.echo(f"\ntenant {tenant.name}")
    print_table(("model",), [(name,) for name in _effective(catalog, tenant)], empty="no models")
