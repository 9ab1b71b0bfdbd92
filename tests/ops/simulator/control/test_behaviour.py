from ops.simulator.control.behaviour import Behaviour, Fault


def test_a_seed_repeats_which_requests_a_probable_fault_affects() -> None:
    def affected(seed: int) -> list[bool]:
        behaviour = Behaviour(seed=seed, faults=[Fault(kind="reset", probability=0.3)])
        return [bool(behaviour.draw_faults("/api/chat", runs_model=True)) for _ in range(1000)]

    assert affected(1) == affected(1) != affected(2)
    assert 200 < sum(affected(1)) < 400
