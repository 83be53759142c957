"""Fetching: the rules are run on their schedules inside the node, one at a time for each peer."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Final

from dicomnode.dimse.channel import Requestor
from dicomnode.errors import AssociationError, ContextNotAccepted, DicomnodeError
from dicomnode.index.catalog import Catalog
from dicomnode.registry import AE, Registry
from dicomnode.services.intake import Intake
from dicomnode.sync.journal import Journal
from dicomnode.sync.own import OwnIndex
from dicomnode.sync.peer import RegisteredPeer
from dicomnode.sync.rules import Rule
from dicomnode.sync.state import State, States
from dicomnode.sync.store import IntoStore
from dicomnode.sync.syncing import Course, Summary, Syncing

# A clock that is set is noticed by then.
_LONGEST_SLEEP_SECONDS: Final = 60.0

# Queues objects for a destination, by a rule; see ``Forwarding.send``.
Send = Callable[[str, str, Mapping[str, str]], Awaitable[Mapping[str, str]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The settings that fetching follows.

    ``pause`` returns how long to wait after a failure with so many before it.
    """

    rules: tuple[Rule, ...]
    ae_title: str
    strict_ae_titles: bool
    response_seconds: float
    pause: Callable[[int], float]


@dataclass(frozen=True, slots=True)
class Parts:
    """What fetching takes of the node: ``registry`` returns the one in force."""

    catalog: Catalog
    intake: Intake
    requestor: Requestor
    registry: Callable[[], Registry]
    send: Send
    journal: Journal
    now: Callable[[], float] = time.time


class Fetching:
    """Runs the rules of ``options``."""

    def __init__(self, options: Options, parts: Parts) -> None:
        self._states = States(parts.catalog)
        self._options = options
        self._parts = parts
        self._turns: dict[str, asyncio.Lock] = {}
        self._runners: list[_Runner] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin with what is due, and what was broken off. Raises CatalogError."""
        states = await asyncio.to_thread(self._states.load)
        for rule in self._options.rules:
            state = states.get(rule.name, State(rule.name))
            turn = self._turns.setdefault(rule.source.strip().casefold(), asyncio.Lock())
            self._runners.append(
                _Runner(rule, state, self._states, turn, self._options, self._parts)
            )
            self._parts.journal.stands(state)
        for runner in self._runners:
            name = f"fetch {runner.rule.name}"
            self._tasks.append(asyncio.create_task(runner.run(), name=name))

    async def stop(self, seconds: float) -> None:
        """Break off what is under way, within about ``seconds``; the next start goes on with it."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        self._tasks = []

    def registry_reloaded(self) -> None:
        """Try again now with what has failed: perhaps because of the registry."""
        for runner in self._runners:
            runner.retry()

    def figures(self) -> list[dict[str, Any]]:
        """Return how it stands with each rule."""
        return [runner.figures() for runner in self._runners]


class _Runner:
    """One rule, and its state as it is written down."""

    def __init__(
        self,
        rule: Rule,
        state: State,
        states: States,
        turn: asyncio.Lock,
        options: Options,
        parts: Parts,
    ) -> None:
        self.rule = rule
        self._state = state
        self._states = states
        self._turn = turn
        self._options = options
        self._parts = parts
        self._now = parts.now
        self._since = parts.now()
        self._woken = asyncio.Event()
        self._syncing: Syncing | None = None

    async def run(self) -> None:
        """Run whenever it is due, until cancelled."""
        while True:
            try:
                await self._wait()
                async with self._turn:
                    # Another rule may have taken its time.
                    if self._next_run() <= self._now():
                        await self._run_once()
            except Exception as error:
                self._parts.journal.internal_error(f"fetch {self.rule.name!r}", error)
                self._put_off(str(error))

    async def _wait(self) -> None:
        while (left := self._next_run() - self._now()) > 0:
            self._woken.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, _LONGEST_SLEEP_SECONDS)):
                    await self._woken.wait()

    def _next_run(self) -> float:
        state, schedule, now = self._state, self.rule.schedule, self._now()
        if state.failures:
            due = state.not_before
        elif state.is_running:
            due = now
        else:
            due = schedule.next_run(state.started_at, self._since, now)
        return schedule.opening(max(due, now))

    def retry(self) -> None:
        """Forget the pause after a failure."""
        if self._state.failures and self._syncing is None:
            self._state = replace(self._state, not_before=0.0)
            self._woken.set()

    # -- a run -------------------------------------------------------------------------------------

    async def _run_once(self) -> None:
        began = self._now()
        await self._save(replace(self._state, is_running=True, started_at=began))
        summary = Summary()
        try:
            try:
                syncing = self._syncing = self._make()
                summary = syncing.summary
                await syncing.run()
            finally:
                self._syncing = None
        except (DicomnodeError, ValueError) as error:
            await self._failed(error, summary)
        except Exception as error:
            self._parts.journal.internal_error(f"fetch {self.rule.name!r}", error)
            await self._failed(error, summary)
        else:
            await self._ended(summary, self._now() - began)

    def _make(self) -> Syncing:
        """Return the run for today. Raises AssociationError where there is no peer to call."""
        rule, options, parts = self.rule, self._options, self._parts
        source = RegisteredPeer(
            self._peer(), options.ae_title, parts.requestor, options.response_seconds
        )
        own = OwnIndex(parts.catalog)
        place = IntoStore(parts.intake, own, source.title)
        moved = _Moved(rule, parts.journal)
        course = Course(
            direction=rule.direction,
            mode=rule.mode,
            ae_title=options.ae_title,
            away=_Away(parts.send, source.title, f"fetch {rule.name}"),
            place=place,
            take=place.receive,
            on_progress=moved.progress,
            may_go_on=lambda: rule.schedule.is_open(self._now()),
        )
        return Syncing(source, own, rule.wish_on(date.fromtimestamp(self._now())), course)

    def _peer(self) -> AE:
        title = self.rule.source
        ae = self._parts.registry().lookup(title, self._options.strict_ae_titles)
        if ae is None:
            raise AssociationError(f"{title} is not in ae.toml")
        if ae.host is None:
            raise AssociationError(f"{ae.title} has no host in ae.toml")
        return ae

    async def _ended(self, summary: Summary, seconds: float) -> None:
        now, state = self._now(), self._state
        result = "incomplete" if summary.incomplete else "complete"
        if summary.interrupted:
            result = "interrupted"
        refusals = [words for words, _ in summary.refusals.most_common(1)]
        problems = refusals or list(summary.problems.values())
        state = replace(
            _counted(state, summary),
            # It goes on when the window opens.
            is_running=summary.interrupted,
            ended_at=now,
            succeeded_at=now if result == "complete" else state.succeeded_at,
            failures=0,
            not_before=0.0,
            last_error=problems[0] if problems else "",
        )
        self._parts.journal.ended(self.rule, result, summary, seconds)
        await self._save(state)

    async def _failed(self, error: Exception, summary: Summary) -> None:
        words = self._words(error)
        state, now = self._state, self._now()
        state = replace(
            _counted(state, summary),
            is_running=False,
            ended_at=now,
            failures=state.failures + 1,
            not_before=now + self._options.pause(state.failures),
            last_error=words,
        )
        self._parts.journal.failed(self.rule, state)
        await self._save(state)

    def _words(self, error: Exception) -> str:
        if isinstance(error, AssociationError | ContextNotAccepted):
            with contextlib.suppress(AssociationError):
                peer = RegisteredPeer(
                    self._peer(), self._options.ae_title, self._parts.requestor, 0.0
                )
                return peer.words(error)
        return str(error) or type(error).__name__

    def _put_off(self, words: str) -> None:
        """Wait before the next attempt, though that cannot be written down."""
        failures = self._state.failures
        self._state = replace(
            self._state,
            failures=failures + 1,
            not_before=self._now() + self._options.pause(failures),
            last_error=words,
        )

    async def _save(self, state: State) -> None:
        self._state = state
        self._parts.journal.stands(state)
        await asyncio.to_thread(self._states.save, state)

    def figures(self) -> dict[str, Any]:
        """Return how it stands."""
        state, summary = self._state, self._syncing.summary if self._syncing is not None else None
        next_run = self._next_run()
        return {
            "name": state.name,
            "from": self.rule.source,
            "direction": self.rule.direction.value,
            "running": summary is not None,
            "fetched": summary.pulled if summary is not None else state.fetched,
            "sent": summary.pushed if summary is not None else state.sent,
            "last_run": state.started_at or None,
            "last_success": state.succeeded_at or None,
            "next_run": None if summary is not None else next_run,
            "missing_studies": state.missing_studies,
            "missing_objects": state.missing_objects,
            "failures": state.failures,
            "last_error": state.last_error,
        }


def _counted(state: State, summary: Summary) -> State:
    return replace(
        state,
        compared_studies=summary.compared.studies,
        fetched=summary.pulled,
        sent=summary.pushed,
        missing_studies=len(summary.incomplete),
        missing_objects=summary.failed,
    )


@dataclass(frozen=True, slots=True)
class _Away:
    """Queues what the peer lacks in the outbox: a ``syncing.Away``."""

    queue: Send
    destination: str
    rule: str

    async def send(self, objects: Mapping[str, str]) -> Mapping[str, str]:
        """Queue objects; return those that were not queued, and why."""
        return await self.queue(self.destination, self.rule, objects)


class _Moved:
    """Tells the journal of what has been moved since it was told last."""

    def __init__(self, rule: Rule, journal: Journal) -> None:
        self._rule = rule
        self._journal = journal
        self._pulled = 0
        self._pushed = 0

    def progress(self, summary: Summary) -> None:
        """Something may have been moved."""
        pulled, pushed = summary.pulled - self._pulled, summary.pushed - self._pushed
        if pulled or pushed:
            self._pulled, self._pushed = summary.pulled, summary.pushed
            self._journal.moved(self._rule, pulled, pushed)
