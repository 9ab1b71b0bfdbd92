import pytest

from ops.simulator.__main__ import read_options


def test_a_listen_address_without_a_port_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        read_options(["--listen", "localhost"])
    assert stopped.value.code == 2
    assert "HOST:PORT" in capsys.readouterr().err


def test_the_command_line_sets_address_models_and_behaviour() -> None:
    options = read_options(["--listen", "[::1]:0", "--models", "a:1, b:2", "--seed", "3", "--tokens-per-s", "60"])
    assert (options.host, options.port, options.models) == ("::1", 0, ["a:1", "b:2"])
    assert (options.behaviour.seed, options.behaviour.tokens_per_s) == (3, 60)
