from __future__ import annotations

import asyncio

import pytest

from gateway.catalog.snapshot import BackendState, Catalog, HostedModel
from gateway.catalog.store import CatalogStore
from gateway.settings import load
from gateway.stores.redis import connect
from ops.cli.presets import PRESETS
from tests.ops.cli.conftest import Operator
from tests.redis_server import one_server


@pytest.fixture
def acme(operator: Operator) -> Operator:
    operator.does("create-tenant", "--name", "Acme", "--rpm", "10")
    return operator


@pytest.fixture
def prefix(acme: Operator) -> str:
    prefix: str = acme.reads("create-key", "--tenant", "acme", "--name", "laptop")["prefix"]
    return prefix


def test_inherit_resets_a_limit_of_a_tenant_to_the_default(acme: Operator) -> None:
    limits = acme.reads("set-limits", "--tenant", "Acme", "--tpm", "500")
    assert (limits["tenant"], limits["rpm"], limits["tpm"], limits["concurrent"]) == ("Acme", 10, 500, None)
    assert limits["in_force"]["concurrent"] == {"value": 8, "from": "default"}
    assert acme.reads("set-limits", "--tenant", "Acme", "--rpm", "INHERIT")["rpm"] is None


def test_a_change_of_limits_prints_the_numbers_in_force_of_a_tenant(acme: Operator) -> None:
    assert acme.does("set-limits", "--tenant", "acme", "--tpm", "500") == (
        "the tenant acme now has rpm 10 (of the tenant), tpm 500 (of the tenant), "
        "concurrent 8 (default of the settings), max_output 4,096 (default of the settings), "
        "max_body 8,388,608 (default of the settings), weight 1\n"
    )


def test_a_change_of_limits_prints_the_numbers_in_force_of_a_key(acme: Operator, prefix: str) -> None:
    assert acme.does("set-limits", "--prefix", prefix, "--rpm", "5", "--concurrent", "99") == (
        f"the key {prefix} now has rpm 5 (of the key), tpm 100,000 (default of the settings), "
        "concurrent 8 (default of the settings), max_output 4,096 (default of the settings), "
        "max_body 8,388,608 (default of the settings)\n"
    )
    in_force = acme.reads("set-limits", "--prefix", prefix, "--rpm", "1000")["in_force"]
    assert in_force["rpm"] == {"value": 10, "from": "tenant"}


def test_budgets_are_set_and_removed(acme: Operator, prefix: str) -> None:
    budget = acme.reads("set-budget", "--prefix", prefix, "--daily", "0", "--monthly", "5", "--total", "9")
    assert budget == {"prefix": prefix, "budget_day": 0, "budget_month": 5, "budget_total": 9}
    assert acme.does("set-budget", "--prefix", prefix, "--monthly", "none") == (
        f"the key {prefix} now has daily budget 0, no monthly budget, total budget 9\n"
    )


def test_a_budget_that_a_longer_period_makes_ineffective_is_named_in_a_note(acme: Operator) -> None:
    result = acme.run("set-budget", "--tenant", "acme", "--daily", "100k", "--monthly", "50")
    assert (result.exit_code, result.stderr) == (
        0,
        "note: the daily budget of 100,000 has no effect, because the monthly budget is only 50\n",
    )


def test_models_allows_the_listed_models_and_no_others(acme: Operator) -> None:
    acme.does("set-models", "--tenant", "acme", "--allow-all")
    models = acme.reads("set-models", "--tenant", "acme", "--models", "Qwen3:0.6b,library/llama3.2:latest,llama3.2")
    assert (models["allow_all_models"], models["allowed_models"]) == (False, ["llama3.2:latest", "qwen3:0.6b"])


def test_allow_all_and_no_allow_all_leave_the_list_unchanged(acme: Operator) -> None:
    acme.does("set-models", "--tenant", "acme", "--models", "a:x")
    assert acme.does("set-models", "--tenant", "acme", "--allow-all") == (
        "the tenant acme now has all models, and a:x by name\n"
    )
    assert acme.does("set-models", "--tenant", "acme", "--no-allow-all") == "the tenant acme now has the models a:x\n"


def test_an_empty_list_allows_no_model(acme: Operator) -> None:
    assert acme.does("set-models", "--tenant", "acme", "--models", "") == "the tenant acme now has no models\n"


def test_inherit_resets_a_key_to_the_models_of_its_tenant(acme: Operator, prefix: str) -> None:
    acme.does("set-models", "--prefix", prefix, "--models", "a:x")
    assert "models of its tenant" in acme.does("set-models", "--prefix", prefix, "--inherit")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["set-limits", "--rpm", "1"], "--tenant, or --prefix for a key"),
        (["set-limits", "--prefix", "laptop", "--rpm", "1"], "requires --tenant"),
        (["set-limits", "--tenant", "acme"], "at least one"),
        (["set-limits", "--tenant", "acme", "--rpm", "none"], "or `inherit`"),
        (["set-budget", "--tenant", "acme"], "at least one"),
        (["set-budget", "--tenant", "acme", "--daily", "-1"], "or `none`"),
        (["set-budget", "--tenant", "acme", "--daily", "inherit"], "or `none`"),
        (["set-models", "--tenant", "acme"], "give --models"),
        (["set-models", "--tenant", "acme", "--models", "ok,not ok"], "'not ok': a model name is"),
        (["set-models", "--tenant", "acme", "--models", "m@sha256:00"], "a model name is"),
        (["set-models", "--tenant", "acme", "--inherit"], "requires --prefix"),
        (["set-models", "--prefix", "nz_123456789", "--inherit", "--allow-all"], "without --models"),
    ],
)
def test_wrong_usage_names_what_is_expected(acme: Operator, arguments: list[str], reason: str) -> None:
    assert reason in acme.misuses(*arguments)


def test_the_error_for_an_unknown_key_names_the_command_that_lists_keys(acme: Operator) -> None:
    assert acme.fails("set-limits", "--prefix", "nz_123456789", "--rpm", "1") == (
        "error: there is no key with the prefix nz_123456789; `list-keys` shows the existing keys\n"
    )


def test_sizes_of_a_request_are_set_and_bounded(acme: Operator, prefix: str) -> None:
    shown = acme.reads("set-limits", "--prefix", prefix, "--max-output", "32000", "--max-body", "16777216")
    assert (shown["max_output"], shown["max_body"]) == (32000, 16777216)
    assert "from 1" in acme.misuses("set-limits", "--prefix", prefix, "--max-body", "100")
    assert acme.reads("set-limits", "--prefix", prefix, "--max-body", "inherit")["max_body"] is None


def test_a_preset_is_a_set_of_limits_over_which_options_take_precedence(operator: Operator) -> None:
    made = operator.reads("create-tenant", "--name", "a", "--preset", "agents", "--rpm", "7")
    assert {name: made[name] for name in PRESETS["agents"]} == {**PRESETS["agents"], "rpm": 7}
    help_text = operator.does("create-tenant", "--help")
    assert all(name in help_text for name in PRESETS)


def test_a_model_that_no_backend_hosts_is_named_in_a_note(acme: Operator) -> None:
    with one_server() as server:
        acme.env_file.write_text(acme.env_file.read_text().replace("redis://127.0.0.1:1/0", server.url))
        arguments = ["set-models", "--tenant", "acme", "--models", "llama3.2,lama3.2"]
        assert acme.run(*arguments).stderr == ""

        async def publish() -> None:
            redis = connect(load(acme.env_file))
            hosted = HostedModel("llama3.2:latest", ("near",), {})
            catalog = Catalog((BackendState("near", 1, "0.30.0"),), {hosted.name: hosted})
            await CatalogStore(redis, 5.0).publish(catalog, 60.0)
            await redis.aclose()

        asyncio.run(publish())
        note = "note: no backend has lama3.2:latest now; did you mean llama3.2:latest?\n"
        assert acme.run(*arguments).stderr == note
        assert acme.run("create-tenant", "--name", "lab", "--models", "lama3.2").stderr == note
