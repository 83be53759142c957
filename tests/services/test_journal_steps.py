"""What the log and ``explain`` say of performed procedure steps."""

from __future__ import annotations

from dataclasses import replace

from dicomnode.errors import StatusError
from dicomnode.services.outcomes import Finding, StepOutcome
from tests.services.journaling import N_CREATE, N_SET, Fixture

BEGUN = StepOutcome(sop_instance_uid="1.2.9", step_status="IN PROGRESS", followed=("CT_1/a.wl",))


def test_the_line_of_a_step_has_its_status_and_the_item_that_followed() -> None:
    on = Fixture()
    on.perform(N_CREATE, 0x0000, BEGUN)
    on.perform(
        N_SET, 0x0000, replace(BEGUN, step_status="COMPLETED", followed=("a", "b", "c", "d", "e"))
    )
    first, second = on.lines()
    assert (
        "WS_1 -> DICOMNODE #7 N-CREATE 7 0000 IN PROGRESS, worklist item followed: CT_1/a.wl 1ms"
        in first
    )
    assert "sop_instance_uid=1.2.9" in first
    assert "N-SET 8 0000 COMPLETED, worklist items followed: a, b, c, d and 1 more" in second


def test_a_step_that_no_item_follows_says_why() -> None:
    on = Fixture()
    outcome = replace(BEGUN, followed=(), findings=(Finding("it was not scheduled"),))
    on.perform(N_CREATE, 0x0000, outcome)
    (line,) = on.lines()
    assert "N-CREATE 7 0000 IN PROGRESS 1ms: it was not scheduled" in line
    assert on.explained() == []


def test_a_refused_step_is_explained_with_advice() -> None:
    on = Fixture()
    on.begin(N_CREATE).fail(StatusError("Modality is missing", status=0x0120))
    on.begin(N_SET).fail(
        StatusError("Performed Procedure Step Object may no longer be updated", error_id=0xA710)
    )
    closed, missing = sorted(on.explained(), key=lambda each: str(each["asked"]), reverse=True)
    assert (missing["asked"], missing["answer"]) == ("N-CREATE", "0120H Missing Attribute")
    assert missing["reasons"] == [{"words": "Modality is missing"}]
    assert missing["advice"] == [
        "Correct at the modality what it sends: PS3.4 Table F.7.2-1 says what a step must have."
    ]
    assert closed["answer"] == "0110H Processing failure"
    assert "let the modality begin a new one" in str(closed["advice"])


def test_attributes_that_were_not_changed_are_explained() -> None:
    on = Fixture()
    words = "not changed, as N-SET may not: Patient ID"
    on.perform(N_SET, 0x0107, replace(BEGUN, findings=(Finding(words),)))
    (explained,) = on.explained()
    assert explained["reasons"] == [{"words": words}]
    assert "0107 IN PROGRESS" in on.lines()[0]


def test_a_step_whose_association_ended_first_is_logged_as_unanswered() -> None:
    on = Fixture()
    operation = on.begin(N_CREATE)
    on.handler.closed("the connection was lost")
    on.tell(operation, BEGUN)
    (line,) = on.lines()
    assert "N-CREATE 7 unanswered IN PROGRESS" in line
