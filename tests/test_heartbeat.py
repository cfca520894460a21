"""A line now and then while something takes long."""

import time

from lit_sdpo.heartbeat import Heartbeat, still_at


def wait_for(condition, seconds=10):
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    assert condition()


def test_silence_is_broken_again_and_again_with_what_goes_on():
    lines = []
    heartbeat = Heartbeat(0.05, lines.append)
    heartbeat.start("loading")
    wait_for(lambda: len(lines) > 1)
    heartbeat.now("checking")
    wait_for(lambda: any(line.startswith("checking") for line in lines))
    heartbeat.stop()
    count = len(lines)
    time.sleep(0.2)
    assert len(lines) == count
    assert lines[0].startswith("loading  (")


def test_nothing_is_said_of_what_is_quick(capsys):
    with still_at("reading") as heartbeat:
        heartbeat.now("writing")
    assert capsys.readouterr().err == ""


def test_lines_of_others_count():
    lines = []
    heartbeat = Heartbeat(0.4, lines.append)
    heartbeat.start("step")
    for _ in range(40):
        heartbeat.printed()
        assert not heartbeat.due()
        time.sleep(0.01)
    assert lines == []
    heartbeat.stop()


def test_the_watch_goes_to_the_standard_error_and_ends_with_its_block(capsys):
    with still_at("reading", seconds=0.05):
        time.sleep(0.5)
    assert capsys.readouterr().err.startswith("reading  (")
