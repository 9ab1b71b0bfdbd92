from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.request.model_name import canonical, is_cloud


@pytest.mark.parametrize(
    "name",
    [
        "llama3.2",
        "LLAMA3.2:Latest",
        "library/llama3.2",
        "Library/Llama3.2:latest",
        "registry.ollama.ai/library/llama3.2:latest",
        "REGISTRY.OLLAMA.AI/library/llama3.2",
        "llama3.2:local",
        "llama3.2:latest:LOCAL",
    ],
)
def test_all_spellings_of_a_model_have_one_name(name: str) -> None:
    assert canonical(name) == "llama3.2:latest"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("user/m:t", "user/m:t"),
        ("registry.ollama.ai/user/m", "user/m:latest"),
        ("hf.co/u/m:Q4_K_M", "hf.co/u/m:q4_k_m"),
        ("registry.ollama.ai:443/library/llama3.2", "registry.ollama.ai:443/library/llama3.2:latest"),
        ("localhost:5000/u/m:t", "localhost:5000/u/m:t"),
        ("_m.1-x:7b-instruct_q4.0", "_m.1-x:7b-instruct_q4.0"),
    ],
)
def test_the_canonical_name_is_the_short_one_that_tags_prints(name: str, expected: str) -> None:
    assert canonical(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt-oss:20b-cloud", "gpt-oss:20b-cloud"),
        ("gpt-oss:20b:cloud", "gpt-oss:20b-cloud"),
        ("GPT-OSS:20b-CLOUD", "gpt-oss:20b-cloud"),
        ("glm-4.6:cloud", "glm-4.6:cloud"),
        ("glm-4.6:latest:cloud", "glm-4.6:cloud"),
        ("glm-4.6:latest-cloud", "glm-4.6:cloud"),
    ],
)
def test_a_cloud_model_is_not_the_local_one(name: str, expected: str) -> None:
    assert canonical(name) == expected
    assert is_cloud(name)


@pytest.mark.parametrize("name", ["my-model-cloud", "llama3.2:local", "cloud", "cloud/m", "m:cloudy", "x-cloud/m:t"])
def test_cloud_elsewhere_in_a_name_has_no_meaning(name: str) -> None:
    assert not is_cloud(name)


@pytest.mark.parametrize(
    "name",
    [
        "", " llama3.2", "llama3.2 ", "llama3.2\n", "\u00a0llama3.2", "llama3.2: local", "llama 3", "m\0", "lläma",
        "llama3.2\u200b", "\u212aimi", "https://registry.ollama.ai/library/llama3.2", "://registry.ollama.ai/library/m",
        "foo://h/n/m", "/x", "x/", "x:", ":x", "a/b/c/d", "a//b", "x@sha256:00", "m:a:b", "m:a/b", "-m", ".m", "m:-t",
        "name.space/m", "h/.n/m", "m" * 81, "m:" + "t" * 81, "n" * 81 + "/m", "h" * 351 + "/n/m", "m:cloud:local",
        "m:local:local", "m:a-cloud:cloud", "m:a-cloud-cloud", "m:cloud:cloud", "m:-cloud", "..", "a\\b", "a" * 10_000,
    ],
)  # fmt: skip
def test_the_error_for_an_invalid_name_does_not_repeat_it(name: str) -> None:
    with pytest.raises(ValueError, match="a model name") as refusal:
        canonical(name)
    assert len(name) < 3 or name not in str(refusal.value)


_PART = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
_NAMESPACE = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,20}", fullmatch=True)
_NAMES = st.builds(
    lambda host, namespace, model, tag, place: (
        (f"{host}/{namespace}/" if host and namespace else f"{namespace}/" if namespace else "") + model + tag + place
    ),
    st.one_of(st.just(""), st.just("registry.ollama.ai"), _PART),
    st.one_of(st.just(""), st.just("library"), _NAMESPACE),
    _PART,
    st.one_of(st.just(""), st.just(":latest"), _PART.map(":{}".format)),
    st.sampled_from(["", ":local", ":cloud", ":LOCAL", "-cloud"]),
)


def _canonical(name: str) -> str | None:
    try:
        return canonical(name)
    except ValueError:
        return None


@given(_NAMES)
def test_a_canonical_name_is_its_own_canonical_name(name: str) -> None:
    once = _canonical(name)
    assert once is None or canonical(once) == once


@given(_NAMES)
def test_letter_case_does_not_matter(name: str) -> None:
    assert _canonical(name) == _canonical(name.upper()) == _canonical(name.lower())


@given(st.text(max_size=60))
def test_any_text_has_a_canonical_name_or_raises_value_error(text: str) -> None:
    name = _canonical(text)
    assert name is None or (name.isascii() and name == name.lower() and ":" in name and not set(name) & set(" \n\t@"))
