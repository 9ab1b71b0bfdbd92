"""The operator's command line. It parses arguments, calls a store and prints; it holds no SQL and no rules."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from gateway import __version__
from ops.cli.group import CommandGroup
from ops.cli.output import console
from ops.cli.session import STATE_DIR_NAME, Session, env_file_option, state_home

# Panel of the help -> command -> `module:attribute`, in the order of the help. A module is imported when its command is
# used.
PANELS: dict[str, dict[str, str]] = {
    "Run": {
        "up": "ops.cli.up:up",
        "status": "ops.cli.status:status",
        "logs": "ops.cli.status:logs",
        "demo": "ops.cli.demo:demo",
        "run": "ops.cli.services:run",
        "drain-envoy": "ops.cli.drain:drain_envoy",
        "simulate-ollama": "ops.cli.services:simulate_ollama",
    },
    "Tenants and keys": {
        "create-tenant": "ops.cli.tenants:create_tenant",
        "list-tenants": "ops.cli.tenants:list_tenants",
        "show-tenant": "ops.cli.tenants:show_tenant",
        "rename-tenant": "ops.cli.account_changes:rename_tenant",
        "disable-tenant": "ops.cli.tenants:disable_tenant",
        "enable-tenant": "ops.cli.tenants:enable_tenant",
        "delete-tenant": "ops.cli.account_changes:delete_tenant",
        "create-key": "ops.cli.keys:create_key",
        "list-keys": "ops.cli.keys:list_keys",
        "set-key": "ops.cli.account_changes:set_key",
        "check-key": "ops.cli.key_check:check_key",
        "test-key": "ops.cli.key_trial:test_key",
        "connect": "ops.cli.connect:connect",
        "revoke-key": "ops.cli.keys:revoke_key",
        "rotate-key": "ops.cli.keys:rotate_key",
        "add-identity": "ops.cli.identities:add_identity",
        "remove-identity": "ops.cli.identities:remove_identity",
    },
    "Policy": {
        "set-limits": "ops.cli.policy:set_limits",
        "set-budget": "ops.cli.policy:set_budget",
        "set-models": "ops.cli.policy:set_models",
        "export": "ops.cli.policy_file:export",
        "apply": "ops.cli.policy_file:apply",
    },
    "Backends": {
        "add-backend": "ops.cli.backends:add_backend",
        "remove-backend": "ops.cli.backends:remove_backend",
        "list-backends": "ops.cli.backends:list_backends",
        "probe-ollama": "ops.cli.backends:probe_ollama",
    },
    "Reports": {
        "show-usage": "ops.cli.usage:show_usage",
        "show-audit": "ops.cli.audit:show_audit",
        "show-changes": "ops.cli.changes:show_changes",
        "policy-at": "ops.cli.changes:policy_at",
        "show-prompts": "ops.cli.prompts:show_prompts",
        "show-queue": "ops.cli.queue:show_queue",
        "top": "ops.cli.top.command:top",
        "list-models": "ops.cli.models:list_models",
        "verify-audit": "ops.cli.chain:verify_audit",
        "export-checkpoint": "ops.cli.chain:export_checkpoint",
        "prove": "ops.cli.prove:prove",
    },
    "Maintenance": {
        "doctor": "ops.cli.doctor:doctor",
        "migrate": "ops.cli.maintenance:migrate",
        "prune": "ops.cli.maintenance:prune",
        "render-envoy": "ops.cli.maintenance:render_envoy",
    },
}


@click.group(
    name="neuronetz-gateway",
    cls=CommandGroup,
    panels=PANELS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@env_file_option()
@state_home
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context, env_file: Path | None, state_home: Path) -> None:
    """Run and administer the secure multi-tenant gateway in front of Ollama clusters."""
    if console().no_color:
        # click does not read NO_COLOR (https://no-color.org), rich does.
        context.color = False
    context.obj = Session(env_file, state_home.expanduser() / STATE_DIR_NAME)


def main() -> None:
    """Runs the program. Exit code 0 when done, 1 with one error on stderr, 2 for wrong usage, 130 after Ctrl-C."""
    cli(prog_name="neuronetz-gateway")
