"""The examples at the end of the help of each command, without the name of the program."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "up": (
        "up --backend home=http://127.0.0.1:11434",
        "up --playground",
        "up --listen 0.0.0.0:8080 --tls 0.0.0.0:8443 --backend near=http://10.0.0.5:11434",
    ),
    "demo": ("demo", "demo --once"),
    "status": ("status", "status --json"),
    "logs": ("logs", "logs authz --follow"),
    "run": ("run authz",),
    "drain-envoy": ("drain-envoy",),
    "simulate-ollama": ("simulate-ollama --listen 127.0.0.1:11434",),
    "create-tenant": (
        "create-tenant --name acme --allow-all-models",
        "create-tenant --name lab --models llama3.2,nomic-embed-text --rpm 120 --tpm 500k",
    ),
    "list-tenants": ("list-tenants", "list-tenants --wide"),
    "show-tenant": ("show-tenant acme",),
    "rename-tenant": ("rename-tenant --name acme --new-name Acme-Labs",),
    "delete-tenant": ("delete-tenant --name acme",),
    "disable-tenant": ("disable-tenant --name acme",),
    "enable-tenant": ("enable-tenant --name acme",),
    "create-key": (
        "create-key --tenant acme --name laptop",
        "create-key --tenant acme --name ci --scopes chat --expires 90d --rpm 30",
    ),
    "list-keys": ("list-keys --tenant acme", "list-keys --wide"),
    "set-key": (
        "set-key --tenant acme --prefix laptop --scopes chat --expires 90d",
        "set-key --prefix nz_5As3 --expires never",
    ),
    "check-key": ("check-key", "check-key --json"),
    "test-key": ("test-key", "test-key --url https://llm.example.org"),
    "connect": (
        "connect --url https://llm.example.org",
        "connect --url https://10.0.0.2:8443 --ca-file caddy-root.crt --listen 127.0.0.1:11435",
    ),
    "revoke-key": ("revoke-key --prefix nz_5As3", 'revoke-key --tenant acme --prefix laptop --reason "left the team"'),
    "rotate-key": ("rotate-key --prefix nz_5As3 --grace 24h",),
    "add-identity": (
        "add-identity --tenant acme --prefix laptop --public-key ~/.ollama/id_ed25519.pub",
        'add-identity --prefix nz_5As3 --public-key "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE… anna@laptop"',
    ),
    "remove-identity": ("remove-identity --prefix nz_5As3 --public-key id_ed25519.pub",),
    "set-limits": (
        "set-limits --tenant acme --rpm 120 --tpm 500k",
        "set-limits --tenant acme --prefix laptop --concurrent 2",
    ),
    "set-budget": ("set-budget --tenant acme --monthly 5M", "set-budget --prefix nz_5As3 --daily 100k"),
    "set-models": (
        "set-models --tenant acme --models llama3.2,qwen3:0.6b",
        "set-models --tenant acme --prefix ci --inherit",
    ),
    "export": ("export",),
    "apply": ("apply -f policies.yaml --dry-run", "apply -f policies.yaml --yes"),
    "add-backend": (
        "add-backend far https://llm.example --token-file token --write-env",
        "add-backend near http://10.0.0.5:11434 --dry-run",
    ),
    "remove-backend": ("remove-backend far --write-env",),
    "list-backends": ("list-backends",),
    "probe-ollama": ("probe-ollama",),
    "show-queue": ("show-queue", "show-queue --json"),
    "top": ("top", "top --interval 1", "top --metrics authz:9100 --metrics meter:9100", "top --json"),
    "show-usage": ("show-usage --tenant acme --by model", "show-usage --since 24h --by key --plot"),
    "show-audit": (
        "show-audit --tenant acme --status 4xx --since 1h",
        "show-audit --request-id 0a1b2c3d-0000-4000-8000-000000000000",
        "show-audit --follow",
    ),
    "show-changes": ("show-changes --since 7d", "show-changes --json --limit 500"),
    "policy-at": (
        "policy-at --time 2026-11-03T14:05:00 --prefix nz_5As3",
        "policy-at --time 2h --tenant acme --prefix laptop",
    ),
    "show-prompts": (
        "show-prompts --request-id 0a1b2c3d-0000-4000-8000-000000000000",
        "show-prompts --tenant acme --prefix laptop --since 1h",
    ),
    "list-models": ("list-models", "list-models --tenant acme"),
    "verify-audit": ("verify-audit", "verify-audit --checkpoint checkpoint-1 --public-key audit.pub"),
    "prove": (
        "prove --request-id 0a1b2c3d-0000-4000-8000-000000000000 --out proof.json",
        "prove --request-id 0a1b2c3d-0000-4000-8000-000000000000 --checkpoint checkpoint-1",
    ),
    "export-checkpoint": ("export-checkpoint --key audit.key --new-key --out checkpoint-1",),
    "doctor": ("doctor",),
    "migrate": ("migrate",),
    "prune": ("prune --yes",),
    "render-envoy": ("render-envoy --out /etc/neuronetz-gateway/envoy",),
}
