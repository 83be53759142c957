"""The log: its two formats, what is escaped and left out, and that it never waits."""

import io
import json
import logging
import re
import threading
from collections.abc import Callable

import pytest

from dicomnode.observe.logs import Log, Logger
from dicomnode.observe.words import duration, escape, size
from dicomnode.settings import LogSettings


def written(say: Callable[[Logger], object], **settings: object) -> str:
    """Return what a log writes of what ``say`` says."""
    stream = io.StringIO()
    log = Log(LogSettings(**settings), stream=stream)  # type: ignore[arg-type]
    log.start()
    say(log.logger)
    log.stop()
    return stream.getvalue()


def test_a_text_line_is_time_level_message_and_fields() -> None:
    line = written(
        lambda log: log.info("CT_1 -> DICOMNODE #7 C-ECHO 3 0000 4ms", tries=2, why="a b")
    )
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info  CT_1 -> DICOMNODE #7 C-ECHO 3 0000 4ms"
        r' tries=2 why="a b"\n',
        line,
    )


def test_a_json_line_is_one_object() -> None:
    line = written(lambda log: log.warning("refused", tries=2, why="a\nb"), format="json")
    record = json.loads(line)
    assert line.count("\n") == 1
    assert record.pop("time").endswith("Z")
    assert record == {"level": "warning", "message": "refused", "tries": 2, "why": "a\nb"}


def test_details_are_for_the_json_object_alone() -> None:
    def say(log: Logger) -> None:
        log.info("C-ECHO 3 0000", details={"service": "C-ECHO"})

    assert "service" not in written(say)
    assert json.loads(written(say, format="json"))["service"] == "C-ECHO"


def test_a_bound_logger_adds_its_fields_to_each_line() -> None:
    def say(log: Logger) -> None:
        bound = log.bind(association=7)
        bound.info("one")
        bound.info("two", more=1)
        log.info("three")

    rows = written(say).splitlines()
    assert rows[0].endswith("one association=7")
    assert rows[1].endswith("two association=7 more=1")
    assert rows[2].endswith("three")


def test_lines_below_the_level_are_left_out() -> None:
    def say(log: Logger) -> None:
        log.debug("a")
        log.info("b")
        log.warning("c")
        log.error("d")

    rows = written(say, level="warning").splitlines()
    assert [row.split()[1:] for row in rows] == [["warn", "c"], ["error", "d"]]
    assert len(written(say, level="debug").splitlines()) == 4


def test_the_level_may_change_while_lines_are_said() -> None:
    stream = io.StringIO()
    log = Log(LogSettings(level="info"), stream=stream)
    bound = log.logger.bind(association=7)
    log.start()
    bound.debug("before")
    log.set_level("debug")
    bound.debug("between")
    log.set_level("error")
    bound.warning("after")
    log.stop()
    assert re.findall(r"before|between|after", stream.getvalue()) == ["between"]


@pytest.mark.parametrize(
    "hostile", ["A\nB", "\x1b[2J", "\r", "\x00", "\x7f", "\x9b", "\u2028", "\u202e", "\udcff"]
)
def test_what_a_peer_sends_can_neither_begin_a_line_nor_steer_a_terminal(hostile: str) -> None:
    def say(log: Logger) -> None:
        log.info(f"from {hostile}", title=hostile)

    for format_ in ("text", "json"):
        line = written(say, format=format_)
        assert line.endswith("\n")
        assert line[:-1].isprintable()


def test_a_field_cannot_pass_for_another_one() -> None:
    line = written(lambda log: log.info("x", title='A" status="0000'))
    assert line.rstrip().endswith('title="A\\" status=\\"0000"')


def test_letters_of_other_scripts_stay_readable() -> None:
    assert escape("Müller^Jürgen 山田") == "Müller^Jürgen 山田"


def test_patient_data_is_left_out_unless_it_is_switched_on() -> None:
    def say(log: Logger) -> None:
        log.info("stored", patient_id="P1", sop="1.2", details={"patient_name": "Doe^J", "n": 1})

    for format_ in ("text", "json"):
        line = written(say, format=format_)
        assert "P1" not in line
        assert "Doe" not in line
        assert "1.2" in line
    line = written(say, format="json", patient_data=True)
    assert (json.loads(line)["patient_id"], json.loads(line)["patient_name"]) == ("P1", "Doe^J")


def fail(log: Logger) -> None:
    try:
        raise OSError("no\x1bdisk")
    except OSError as error:
        log.exception("could not write", error, path="x")


def test_an_exception_is_told_with_its_traceback_on_indented_rows() -> None:
    first, *rest = written(fail).splitlines()
    assert first.endswith("error could not write path=x")
    assert rest[0] == "    Traceback (most recent call last):"
    assert rest[-1] == "    OSError: no\\x1bdisk"


def test_an_exception_in_json_stays_one_line() -> None:
    record = json.loads(written(fail, format="json"))
    assert record["message"] == "could not write"
    assert record["exception"].endswith("OSError: no\x1bdisk\n")


def test_what_libraries_warn_of_comes_into_the_log_while_it_runs() -> None:
    def say(log: Logger) -> None:
        logging.getLogger("a.library").warning("%d slots left", 3)

    assert written(say).endswith("warn  3 slots left library=a.library\n")
    assert not any("dicomnode" in type(h).__module__ for h in logging.getLogger().handlers)


def test_what_libraries_warn_of_in_what_others_send_does_not_come_into_the_log() -> None:
    """It has values of patients in it, or comes by the thousand."""

    def say(logger: Logger) -> None:
        logging.getLogger("pydicom").warning("Failed to decode byte string %r", b"DOE^JANE")
        logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")

    assert written(say) == ""


def test_lines_said_before_start_wait_and_lines_after_stop_are_written_at_once() -> None:
    stream = io.StringIO()
    log = Log(LogSettings(), stream=stream)
    log.logger.info("early")
    assert stream.getvalue() == ""
    log.start()
    log.stop()
    log.logger.info("late")
    assert [row.split()[-1] for row in stream.getvalue().splitlines()] == ["early", "late"]


class StuckStream(io.StringIO):
    """A stream that takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()
        self.let_go = threading.Event()

    def write(self, text: str) -> int:
        self.asked.set()
        self.let_go.wait(10)
        return super().write(text)


def test_a_stream_that_takes_nothing_drops_lines_instead_of_stopping_the_speaker() -> None:
    stream = StuckStream()
    log = Log(LogSettings(), stream=stream, capacity=10)
    log.start()
    log.logger.info("first")
    assert stream.asked.wait(10)
    for number in range(15):
        log.logger.info(f"line {number}")
    assert log.dropped == 5
    stream.let_go.set()
    log.stop()
    rows = stream.getvalue().splitlines()
    assert len(rows) == 1 + 10 + 1
    assert rows[-1].endswith("warn  5 log lines dropped: they came faster than written")


class BrokenStream(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_stream_that_is_gone_harms_nobody() -> None:
    log = Log(LogSettings(), stream=BrokenStream())
    log.start()
    log.logger.info("a")
    log.stop()


class Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __str__


def test_a_value_that_cannot_be_written_costs_its_line_only() -> None:
    def say(log: Logger) -> None:
        log.info("a", value=Unspeakable())
        log.info("b")

    rows = written(say).splitlines()
    assert rows[0] == "a log line could not be written: RuntimeError"
    assert rows[1].endswith("b")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1.0KB"),
        (512 * 1024, "512KB"),
        (1024 * 1024 - 1, "1.0MB"),
        (3 * 1024**3 // 2, "1.5GB"),
        (2 * 1024**4, "2.0TB"),
    ],
)
def test_sizes_are_short(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0004, "0.4ms"),
        (0.004, "4ms"),
        (0.9996, "1.00s"),
        (1.25, "1.25s"),
        (59.999, "1m00s"),
        (185, "3m05s"),
        (3 * 3600 + 125, "3h02m"),
    ],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text
