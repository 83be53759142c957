"""What makes a comparison with a peer a success."""

from dicomnode.sync.against import Comparison


def test_an_object_that_came_twice_does_not_stand_for_one_that_did_not_come() -> None:
    comparison = Comparison(objects=2)
    for _ in range(2):
        comparison.identical.add("1.2.1")
    assert not comparison.verified
    comparison.identical.add("1.2.2")
    assert comparison.verified


def test_an_object_that_came_right_and_wrong_is_not_verified() -> None:
    comparison = Comparison(objects=1, identical={"1.2.1"})
    assert comparison.verified
    comparison.pixels_differ.add("1.2.1")
    assert not comparison.verified


def test_nothing_compared_proves_nothing() -> None:
    assert not Comparison().verified
