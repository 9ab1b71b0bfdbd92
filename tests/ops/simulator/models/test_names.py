import pytest

from ops.simulator.models import names


@pytest.mark.parametrize(
    "spelling",
    [
        "llama3.2",
        "LLAMA3.2:Latest",
        " llama3.2\n",
        "\u00a0llama3.2",
        "llama3.2:local",
        "llama3.2:latest:LOCAL",
        "llama3.2: local",
        "library/llama3.2",
        "registry.ollama.ai/library/llama3.2:latest",
        "https://registry.ollama.ai/library/llama3.2",
        "foo://registry.ollama.ai/library/llama3.2",
        "://registry.ollama.ai/library/llama3.2",
    ],
)
def test_spellings_of_one_model_have_the_same_key(spelling: str) -> None:
    name = names.parse(names.split_source(spelling)[0])
    assert name is not None
    assert name.key == "registry.ollama.ai/library/llama3.2:latest"
    assert name.display.lower() == "llama3.2:latest"


@pytest.mark.parametrize("spelling", ["registry.ollama.ai:443/library/llama3.2", "hf.co/library/llama3.2"])
def test_another_host_is_another_model(spelling: str) -> None:
    name = names.parse(spelling)
    assert name is not None
    assert name.key != "registry.ollama.ai/library/llama3.2:latest"


@pytest.mark.parametrize(
    ("spelling", "base"),
    [
        ("gpt-oss:20b-cloud", "gpt-oss:20b"),
        ("gpt-oss:20b:cloud", "gpt-oss:20b"),
        ("gpt-oss:20b-CLOUD", "gpt-oss:20b"),
        ("llama3.2:cloud", "llama3.2"),
    ],
)
def test_a_cloud_suffix_selects_the_cloud(spelling: str, base: str) -> None:
    assert names.split_source(spelling) == (base, "cloud")


def test_cloud_without_a_colon_belongs_to_the_name() -> None:
    assert names.split_source("my-model-cloud") == ("my-model-cloud", "")


def test_two_sources_conflict() -> None:
    with pytest.raises(names.ConflictingSource):
        names.split_source("m:cloud:local")


@pytest.mark.parametrize("spelling", ["", "/x", "x:", "a/b/c/d", "x@sha256:ab", "m:a:b", "modèle", "a\0", "a" * 81])
def test_an_invalid_name_is_rejected(spelling: str) -> None:
    assert names.parse(spelling) is None
