from __future__ import annotations

from meter.generation_rates import MODELS_MAX, GenerationRates


def test_a_rate_follows_the_answers_of_its_model() -> None:
    rates = GenerationRates()
    assert rates.tokens_in("a", 10.0) == 0
    rates.learn("a", 100, 2.0)
    assert (rates.tokens_in("a", 1.5), rates.tokens_in("b", 1.5)) == (75, 0)
    for _ in range(50):
        rates.learn("a", 100, 1.0)
    assert 99 <= rates.tokens_in("a", 1.0) <= 100


def test_an_answer_without_output_or_duration_teaches_nothing() -> None:
    rates = GenerationRates()
    rates.learn("a", 0, 1.0)
    rates.learn("a", 5, 0.0)
    assert rates.tokens_in("a", 10.0) == 0
    rates.learn("a", 5, 1.0)
    assert rates.tokens_in("a", -1.0) == 0


def test_the_number_of_models_is_bounded() -> None:
    rates = GenerationRates()
    for number in range(MODELS_MAX + 1):
        rates.learn(f"m{number}", 10, 1.0)
    assert rates.tokens_in(f"m{MODELS_MAX - 1}", 1.0) == 10
    assert rates.tokens_in(f"m{MODELS_MAX}", 1.0) == 0
