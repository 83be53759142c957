"""Turns of UIDs."""

from __future__ import annotations

import threading

from dicomnode.services.turns import Turns


def test_of_one_uid_one_has_the_turn_and_the_others_get_it_in_order() -> None:
    turns, woken = Turns(), []
    assert turns.take("1.2", lambda: woken.append(1))
    assert not turns.take("1.2", lambda: woken.append(2))
    assert not turns.take("1.2", lambda: woken.append(3))
    assert turns.take("1.3", lambda: woken.append(4)), "another UID has a turn of its own"
    turns.give_up("1.2")
    assert woken == [2]
    turns.give_up("1.2")
    assert woken == [2, 3]
    turns.give_up("1.2")
    assert turns.take("1.2", lambda: None)


def test_a_block_waits_for_the_turn_and_gives_it_up() -> None:
    turns, order = Turns(), []
    assert turns.take("1.2", lambda: None)

    def wait() -> None:
        with turns.alone("1.2"):
            order.append("block")

    other = threading.Thread(target=wait)
    other.start()
    while not turns._taken["1.2"]:
        other.join(0.001)
    order.append("first")
    turns.give_up("1.2")
    other.join(20)
    assert order == ["first", "block"]
    with turns.alone("1.2"):
        pass
    assert turns._taken == {}
