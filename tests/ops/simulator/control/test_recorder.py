from ops.simulator.control.recorder import RECORDED_BYTES_MAX, RECORDS_MAX, Recorder


def test_the_recorder_drops_the_oldest_records_beyond_its_limits() -> None:
    recorder = Recorder(lambda: 0.0)
    for _ in range(RECORDS_MAX + 5):
        recorder.begin("GET", "/", "", {})
    assert (len(recorder.records), recorder.records[0].id) == (RECORDS_MAX, 6)
    large = recorder.begin("POST", "/", "", {})
    recorder.add_body(large, b"x" * (RECORDED_BYTES_MAX + 1))
    assert [record.id for record in recorder.records] == [large.id]
