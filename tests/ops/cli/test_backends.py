"""The commands about backends, against working and misconfigured servers as operators meet them."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from click.testing import CliRunner
from pydantic import SecretStr

from gateway.settings import load_file_alone
from gateway.settings.backend import Backend
from ops.backends.probe import OllamaClient, ProbeError
from ops.cli import cli
from ops.simulator.access import Auth
from ops.simulator.app import application
from tests.certificates import self_signed
from tests.http_servers import HttpServers, servers
from tests.ops.cli.conftest import Operator
from tests.ports import free_port

TOKEN = "s3cret-token"


@pytest.fixture(scope="module")
def running() -> Iterator[HttpServers]:
    with servers() as started:
        yield started


@pytest.fixture(scope="module")
def ollama(running: HttpServers) -> str:
    """An Ollama that requires the token."""
    return running.serve(application(models=("a:1b", "b:1b"), auth=Auth(SecretStr(TOKEN))))


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    """An operator whose env file lists no backends; no database is needed."""
    env = tmp_path / "gateway.env"
    env.write_text("# mine\nDEFAULT_RPM=7\n")
    env.chmod(0o640)
    return Operator(env)


@pytest.fixture
def token_file(tmp_path: Path) -> str:
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    return str(path)


def answering(path: str = "/api/tags", **response: Any) -> web.Application:
    """A server that returns this response at `path`, and a valid version."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(**response)

    async def version(request: web.Request) -> web.Response:
        return web.json_response({"version": "1.0"})

    served = web.Application()
    served.add_routes([web.get(path, answer), web.get("/api/version", version)])
    return served


def test_adding_a_backend_changes_nothing_else_in_the_file(operator: Operator, ollama: str, token_file: str) -> None:
    operator.env_file.write_text(f"# mine\nOLLAMA_BASE_URL={ollama}\nOLLAMA_AUTH_TOKEN={TOKEN}\nDEFAULT_RPM=7 # so\n")
    result = operator.run(
        "add-backend", "far", ollama, "--token-file", token_file, "--write-env", str(operator.env_file)
    )
    assert (result.exit_code, TOKEN in result.output) == (0, False), result.output
    assert "OLLAMA_BASE_URL" in result.stderr, "a note explains what happens to the single backend"
    lines = operator.env_file.read_text().splitlines()
    assert lines[0] == "# mine"
    assert lines[3] == "DEFAULT_RPM=7 # so"
    assert stat.S_IMODE(operator.env_file.stat().st_mode) == 0o640
    backends = load_file_alone(operator.env_file).ollama_backends
    assert [backend.name for backend in backends] == ["default", "far"]
    assert all(backend.auth_token == SecretStr(TOKEN) for backend in backends)


def test_a_backend_is_added_to_a_file_that_has_only_the_single_one(operator: Operator) -> None:
    operator.env_file.write_text("OLLAMA_BASE_URL=http://127.0.0.1:9\n")
    result = operator.run("add-backend", "far", "http://127.0.0.1:7 ", "--no-validate", "--write-env")
    assert result.exit_code == 0, result.output
    urls = [backend.base_url for backend in load_file_alone(operator.env_file).ollama_backends]
    assert urls == ["http://127.0.0.1:9", "http://127.0.0.1:7"]


def test_without_a_file_to_write_the_line_is_printed_with_stars(operator: Operator, ollama: str) -> None:
    before = operator.env_file.read_text()
    result = operator.run("add-backend", "far", ollama, "--token", TOKEN)
    assert result.exit_code == 0
    assert json.loads(result.stdout.partition("=")[2].strip().strip("'")) == [
        {"name": "far", "base_url": ollama, "auth_token": "***"}
    ]
    assert "--write-env" in result.stderr
    result = operator.run(
        "add-backend", "far", ollama, "--token", TOKEN, "--write-env", str(operator.env_file), "--dry-run"
    )
    assert result.exit_code == 0
    assert operator.env_file.read_text() == before


def test_a_token_can_be_read_from_standard_input(operator: Operator, ollama: str, tmp_path: Path) -> None:
    new = tmp_path / "new.env"
    arguments = ["add-backend", "far", ollama, "--token-file", "-", "--write-env", str(new), "--json"]
    result = CliRunner().invoke(cli, arguments, input=TOKEN + "\n")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["probe"]["models"] == 2
    assert document["backends"][0]["auth_token"] == "***"
    assert stat.S_IMODE(new.stat().st_mode) == 0o600
    assert load_file_alone(new).ollama_backends[0].auth_token == SecretStr(TOKEN)


def test_a_taken_name_requires_replace(operator: Operator, ollama: str) -> None:
    write = ("--write-env", str(operator.env_file))
    for name in ("one", "two"):
        assert operator.run("add-backend", name, ollama, "--token", TOKEN, *write).exit_code == 0
    assert "--replace" in operator.fails("add-backend", "one", ollama, "--token", TOKEN, *write)
    assert operator.run("add-backend", "one", "http://127.0.0.1:1", "--replace", "--no-validate", *write).exit_code == 0
    first, second = load_file_alone(operator.env_file).ollama_backends
    assert (first.name, first.base_url, first.auth_token) == ("one", "http://127.0.0.1:1", None)
    assert (second.name, second.auth_token) == ("two", SecretStr(TOKEN))
    assert (
        operator.run("add-backend", "two", ollama, "--header", "X-Key", "--replace", "--no-validate", *write).exit_code
        == 0
    )
    _, second = load_file_alone(operator.env_file).ollama_backends
    assert (second.auth_header, second.auth_token) == ("X-Key", SecretStr(TOKEN))


def test_the_slots_of_a_replica_are_given_or_learnt(operator: Operator, ollama: str) -> None:
    write = ("--no-validate", "--replace", "--write-env", str(operator.env_file))
    for given, expected in (("4", 4), (None, 4), ("auto", "auto")):
        assert operator.run("add-backend", "one", ollama, *(("--slots", given) if given else ()), *write).exit_code == 0
        assert load_file_alone(operator.env_file).ollama_backends[0].slots == expected
    for wrong in ("0", "100001", "many", "4.0", ""):
        result = operator.run("add-backend", "one", ollama, "--slots", wrong, *write)
        assert result.exit_code == 2
        assert "--slots: expected a number from 1 to 100,000, or auto" in result.stderr


def test_a_backend_is_removed(operator: Operator, ollama: str) -> None:
    write = ("--write-env", str(operator.env_file))
    for name in ("one", "two"):
        assert operator.run("add-backend", name, ollama, "--token", TOKEN, *write).exit_code == 0
    assert [row["name"] for row in operator.reads("list-backends")] == ["one", "two"]
    operator.does("remove-backend", "one", *write)
    assert [row["name"] for row in operator.reads("list-backends")] == ["two"]
    assert "two" in operator.fails("remove-backend", "one", *write)
    result = operator.run("remove-backend", "two", *write)
    assert (result.exit_code, "OLLAMA_BASE_URL" in result.stderr) == (0, True)
    assert [row["name"] for row in operator.reads("list-backends")] == ["default"]
    assert "OLLAMA_BASE_URL" in operator.fails("remove-backend", "default", *write)


def test_list_backends_shows_no_token(operator: Operator, ollama: str) -> None:
    operator.run("add-backend", "far", ollama, "--token", TOKEN, "--write-env", str(operator.env_file))
    assert operator.reads("list-backends")[0]["auth_token"] == "***"
    assert "***" in operator.does("list-backends")
    assert TOKEN not in operator.does("list-backends") + operator.does("list-backends", "--json")


@pytest.mark.parametrize(
    ("name", "url", "options", "expected"),
    [
        ("Far", "http://h", (), "NAME: expected a name of 1 to 40 lower-case letters"),
        ("far", "h:1", (), "URL: expected http://HOST"),
        ("far", "http://u:s3cret-token@h", (), "URL: credentials do not belong in a URL"),
        ("far", "http://h", ("--header", "Host"), "--header: expected a header that carries nothing else"),
        ("far", "http://h", ("--token", "s3cret-token\nX: y"), "--token: expected a token of visible ASCII"),
        ("far", "http://h:99999", (), "expected a port from 1 to 65535"),
        ("far", "http://h:s3cret-port", (), "expected a port from 1 to 65535"),
        ("far", "http://h", ("--token", "a", "--token-file", "-"), "either --token or --token-file"),
    ],
)
def test_an_invalid_backend_is_wrong_usage(
    operator: Operator, name: str, url: str, options: tuple[str, ...], expected: str
) -> None:
    shown = operator.misuses("add-backend", name, url, *options)
    assert expected in shown
    assert TOKEN not in shown


def test_a_file_that_cannot_be_written_is_reported(operator: Operator, tmp_path: Path) -> None:
    sentence = operator.fails(
        "add-backend", "far", "http://127.0.0.1:1", "--no-validate", "--write-env", str(tmp_path / "nowhere" / "env")
    )
    assert "cannot be written" in sentence


def unused_port(running: HttpServers, directory: Path) -> tuple[str, tuple[str, ...], str]:
    return f"http://127.0.0.1:{free_port()}", (), "refuses connections"


def wrong_token(running: HttpServers, directory: Path) -> tuple[str, tuple[str, ...], str]:
    url = running.serve(application(auth=Auth(SecretStr("another"))))
    return url, ("--token", TOKEN), "rejects the token in the header Authorization (401)"


def wrong_header(running: HttpServers, directory: Path) -> tuple[str, tuple[str, ...], str]:
    url = running.serve(application(auth=Auth(SecretStr(TOKEN), "X-Key")))
    return url, ("--token", TOKEN), "the header and scheme that the server expects"


def no_token(running: HttpServers, directory: Path) -> tuple[str, tuple[str, ...], str]:
    return running.serve(application(auth=Auth(SecretStr(TOKEN)))), (), "requires a token (401)"


def forbidden(running: HttpServers, directory: Path) -> tuple[str, tuple[str, ...], str]:
    return running.serve(answering(status=403)), (), "denies /api/tags (403)"


def web_page(running: HttpServers, directory: Path) -> tuple[str, tuple[str, ...], str]:
    page = answering(text="<html>hello</html>", content_type="text/html")
    return running.serve(page), (), "is not an Ollama: /api/tags returned no JSON;"


def another_shape(running: HttpServers, directory: Path) -> tuple[str, tuple[str, ...], str]:
    return running.serve(answering(text='{"data": []}')), (), "is not an Ollama: /api/tags returned no list of models"


def a_list(running: HttpServers, directory: Path) -> tuple[str, tuple[str, ...], str]:
    return running.serve(answering(text="[]")), (), "is not an Ollama: /api/tags returned no JSON object"


def no_such_path(running: HttpServers, directory: Path) -> tuple[str, tuple[str, ...], str]:
    return running.serve(answering("/other")), (), "is not an Ollama: it has no /api/tags (404)"


def broken(running: HttpServers, directory: Path) -> tuple[str, tuple[str, ...], str]:
    return running.serve(answering(status=500)), (), "returned 500 for /api/tags; see that server's log"


def moved(running: HttpServers, directory: Path) -> tuple[str, tuple[str, ...], str]:
    to = "https://user:s3cret-token@elsewhere.example/api/tags?s3cret-token"
    return running.serve(answering(status=301, headers={"Location": to})), (), "to https://elsewhere.example (301)"


def self_signed_certificate(running: HttpServers, directory: Path) -> tuple[str, tuple[str, ...], str]:
    url = running.serve(application(), self_signed(directory, "127.0.0.1"))
    return url, (), "by an authority that is not trusted; set the backend's ca_file to its authority's certificate"


def another_authority(running: HttpServers, directory: Path) -> tuple[str, tuple[str, ...], str]:
    other = self_signed(directory, "other.example").certificate
    url = running.serve(application(), self_signed(directory, "127.0.0.1"))
    return url, ("--ca-file", str(other)), "by none of the authorities in"


def another_name(running: HttpServers, directory: Path) -> tuple[str, tuple[str, ...], str]:
    certificate = self_signed(directory, "ollama.example")
    url = running.serve(application(), certificate)
    return url, ("--ca-file", str(certificate.certificate)), "is not for 127.0.0.1; use a host name that it covers"


def expired(running: HttpServers, directory: Path) -> tuple[str, tuple[str, ...], str]:
    certificate = self_signed(directory, "127.0.0.1", days=-1)
    url = running.serve(application(), certificate)
    return url, ("--ca-file", str(certificate.certificate)), "has expired"


def no_tls(running: HttpServers, directory: Path) -> tuple[str, tuple[str, ...], str]:
    return running.serve(application()).replace("http:", "https:"), (), "use http://"


def tls(running: HttpServers, directory: Path) -> tuple[str, tuple[str, ...], str]:
    return running.serve(application(), self_signed(directory, "127.0.0.1")).replace("https:", "http:"), (), "127.0.0.1"


def no_authority_file(running: HttpServers, directory: Path) -> tuple[str, tuple[str, ...], str]:
    return "https://127.0.0.1:1", ("--ca-file", str(directory / "nowhere")), "nowhere cannot be read as PEM"


def unknown_host(running: HttpServers, directory: Path) -> tuple[str, tuple[str, ...], str]:
    return "http://absent.invalid:1", (), "the host name absent.invalid of http://absent.invalid:1 does not resolve"


@pytest.mark.parametrize(
    "case",
    [
        unused_port,
        wrong_token,
        wrong_header,
        no_token,
        forbidden,
        web_page,
        another_shape,
        a_list,
        no_such_path,
        broken,
        moved,
        self_signed_certificate,
        another_authority,
        another_name,
        expired,
        no_tls,
        tls,
        no_authority_file,
        unknown_host,
    ],
)
def test_a_backend_that_fails_its_probe_is_not_added_and_the_error_says_how_to_fix_it(
    operator: Operator, running: HttpServers, tmp_path: Path, case: Any
) -> None:
    url, options, expected = case(running, tmp_path)
    before = operator.env_file.read_text()
    sentence = operator.fails("add-backend", "far", url, *options, "--write-env", str(operator.env_file))
    assert sentence.startswith("error: far was not added: ")
    assert expected in sentence
    assert TOKEN not in sentence
    assert operator.env_file.read_text() == before


def test_a_backend_with_a_private_certificate_authority_is_added(
    operator: Operator, running: HttpServers, tmp_path: Path
) -> None:
    certificate = self_signed(tmp_path, "127.0.0.1")
    url = running.serve(application(models=("a:1b",)), certificate)
    document = operator.run("add-backend", "far", url, "--ca-file", str(certificate.certificate), "--json")
    assert json.loads(document.stdout)["probe"]["ok"] is True


async def test_the_probe_of_a_silent_backend_times_out(running: HttpServers) -> None:
    async def silent(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    served = web.Application()
    served.add_routes([web.get("/{any:.*}", silent)])
    url = running.serve(served)
    backend = Backend(name="silent", base_url=url)
    async with aiohttp.ClientSession() as session:
        with pytest.raises(ProbeError, match="did not answer /api/tags in time"):
            await OllamaClient(session, 1.0, answer_timeout_s=0.2).probe(backend, url)


def test_every_replica_is_probed_and_one_failure_is_exit_code_1(
    operator: Operator, ollama: str, running: HttpServers
) -> None:
    dead, _, _ = unused_port(running, Path())
    backends: list[dict[str, Any]] = [
        {"name": "near", "base_url": ollama, "auth_token": TOKEN, "replicas": [dead]},
        {"name": "far", "base_url": running.serve(application())},
    ]
    operator.env_file.write_text(f"OLLAMA_BACKENDS={json.dumps(backends)}\n")
    result = operator.run("probe-ollama", "--json")
    assert (result.exit_code, TOKEN in result.output) == (1, False)
    assert result.stderr.startswith(f"error: near: {dead} refuses connections")
    first, second, third = json.loads(result.stdout)
    assert (first["backend"], first["ok"], first["models"], first["some_models"]) == ("near", True, 2, ["a:1b", "b:1b"])
    assert (first["token_sent"], second["ok"], third["token_sent"], third["ok"]) == (True, False, False, True)
    assert first["version"]
    del backends[0]["replicas"]
    operator.env_file.write_text(f"OLLAMA_BACKENDS={json.dumps(backends)}\n")
    assert "ok" in operator.does("probe-ollama")


def test_envoys_files_are_rendered_into_the_given_directory(operator: Operator, ollama: str, tmp_path: Path) -> None:
    operator.run("add-backend", "far", ollama, "--token", TOKEN, "--write-env", str(operator.env_file))
    document = operator.reads("render-envoy", "--out", str(tmp_path / "envoy"))
    assert document == {
        "directory": str(tmp_path / "envoy"),
        "bootstrap": str(tmp_path / "envoy" / "bootstrap.yaml"),
    }
    holding = [path for path in (tmp_path / "envoy").iterdir() if TOKEN in path.read_text(errors="replace")]
    assert [path.suffix for path in holding] == [".token"]
    assert stat.S_IMODE(holding[0].stat().st_mode) == 0o600


def test_write_env_without_a_file_changes_the_one_in_use(operator: Operator) -> None:
    result = operator.run("add-backend", "far", "http://127.0.0.1:1", "--no-validate", "--write-env")
    assert result.stdout == f"added far; {operator.env_file} now lists the backends: far\n"
    assert "nothing was changed" not in result.stderr
    result = operator.run("remove-backend", "far", "--write-env")
    assert result.stdout == f"removed far; {operator.env_file} now lists the backends: none\n"


def test_a_command_that_only_prints_the_list_reports_that_nothing_was_changed(operator: Operator) -> None:
    before = operator.env_file.read_text()
    arguments = ["add-backend", "far", "http://127.0.0.1:1", "--no-validate"]
    result = operator.run(*arguments)
    assert f"note: nothing was changed; add --write-env to change {operator.env_file}\n" in result.stderr
    result = operator.run(*arguments, "--write-env", "--dry-run")
    assert "note: nothing was changed; run it without --dry-run to change " in result.stderr
    assert operator.env_file.read_text() == before
