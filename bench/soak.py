"""Mixed work of many associations for as long as one likes, and what it showed of the node.

Each association stores, finds, retrieves, asks for its worklist and echoes, by turns that chance
chooses, at a fixed pace; now and then it is released and made anew. Every answer is checked: a
query has to count what has been acknowledged, a retrieval has to bring the bytes that were sent.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import random
import re
import signal
import tempfile
from array import array
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from time import perf_counter

from bench.caller import Answer, Caller
from bench.data import ROOT, SEED
from bench.worklist import fill, of_station
from dicomnode.services.sop_classes import MODALITY_WORKLIST
from tests import peers
from tests.query_wire import (
    CONTEXTS,
    ECHO,
    FIND,
    GET,
    NUMBER_OF_STUDY_RELATED_INSTANCES,
    QUERY_RETRIEVE_LEVEL,
    STORE,
    STUDY_INSTANCE_UID,
    c_find_rq,
    c_get_rq,
    identifier,
    values,
)
from tests.wire import (
    CT_IMAGE_STORAGE,
    IMPLICIT_LE,
    VERIFICATION,
    Context,
    c_echo_rq,
    c_store_rq,
    data_set,
)

_WORKLIST = 13
_CONTEXTS: tuple[Context, ...] = (*CONTEXTS, (_WORKLIST, MODALITY_WORKLIST, (IMPLICIT_LE,)))
_IDLE_CONTEXTS: tuple[Context, ...] = ((ECHO, VERIFICATION, (IMPLICIT_LE,)),)
_SHARES = {"store": 50, "find": 15, "worklist": 15, "echo": 15, "retrieve": 5}
SERVICES = ("associate", *_SHARES)
_WORKLIST_ITEMS, _WORKLIST_MATCHES = 6_000, 10
_OBJECTS_OF_A_STUDY = 8
_OPERATIONS_OF_AN_ASSOCIATION = 50
# One object in fifty is large: over 64 KiB the node takes another way.
_SMALL_BYTES, _LARGE_BYTES, _LARGE_EVERY = 12 * 1024, 512 * 1024, 50
_WARM_UP_SECONDS, _WARM_UP_ASSOCIATIONS = 2.0, 8
_SAMPLES = 240
# Whatever else the node writes is a warning, an error or a traceback.
_FINE = re.compile(r"\S+Z info ")
_CPU = "process_cpu_seconds_total"


@dataclass(frozen=True, slots=True)
class Load:
    """How much is asked for; ``rate`` is operations a second of all associations together."""

    seconds: float
    associations: int = 100
    idle: int = 500
    rate: float = 150.0


@dataclass(frozen=True, slots=True)
class Sample:
    """What the node's process took at one moment; ``at`` is seconds into the load."""

    at: float
    resident_bytes: int
    descriptors: int
    associations: int
    buffer_bytes: int
    unsettled: int


@dataclass(slots=True)
class Shown:
    """What a load showed."""

    load: Load
    latencies: dict[str, array[float]]
    rested: Sample
    with_idle: Sample
    during: list[Sample]
    after: Sample
    acknowledged: int
    retrieved: int
    held: int
    cpu_seconds: float
    complaints: list[str] = field(default_factory=list)

    @property
    def growth_bytes(self) -> float:
        """Resident memory of the last quarter of the load, less that of its second quarter."""
        quarter = max(1, len(self.during) // 4)
        early, late = self.during[quarter : 2 * quarter], self.during[-quarter:]
        early_bytes, late_bytes = (
            median(sample.resident_bytes for sample in part) for part in (early, late)
        )
        return late_bytes - early_bytes

    @property
    def idle_bytes(self) -> float:
        """Resident memory of one idle association."""
        grown = self.with_idle.resident_bytes - self.rested.resident_bytes
        return grown / max(1, self.load.idle)

    @property
    def idle_descriptors(self) -> float:
        """File descriptors of one idle association."""
        grown = self.with_idle.descriptors - self.rested.descriptors
        return grown / max(1, self.load.idle)


def soak(load: Load) -> Shown:
    """Start a node, load it, and look at it again. Raises PeerFailed for any wrong answer."""
    with _node(load) as node:
        shown = asyncio.run(_soak(node, load))
        node.signal(signal.SIGTERM)
        code = node.wait(60)
        shown.complaints = [line for line in node.lines if not _FINE.match(line)]
    if code:
        raise peers.PeerFailed(f"the node ended with {code}")
    return shown


@contextmanager
def _node(load: Load) -> Iterator[peers.NodeProcess]:
    most = load.associations + load.idle + 32
    with tempfile.TemporaryDirectory(prefix="dicomnode-bench-") as scratch:
        directory = Path(scratch) / "node"
        fill(directory / "store", _WORKLIST_ITEMS)
        with peers.node_process(
            directory,
            limits={"max_associations": most, "max_connections_per_address": most + 32},
            timeouts={"idle_seconds": 7200},
        ) as node:
            yield node


class _Ledger:
    """What has been acknowledged: the digest of each object, by study."""

    def __init__(self) -> None:
        self.studies: dict[str, dict[str, bytes]] = {}
        self.forget_latencies()
        self._numbers = itertools.count(1)
        self._noise = random.Random(SEED).randbytes(_LARGE_BYTES)

    def forget_latencies(self) -> None:
        self.latencies = {service: array("d") for service in SERVICES}

    @property
    def acknowledged(self) -> int:
        return sum(map(len, self.studies.values()))

    def new_study(self) -> str:
        uid = f"{ROOT}.88.{next(self._numbers)}"
        self.studies[uid] = {}
        return uid

    def new_object(self, study: str) -> tuple[str, bytes]:
        """Return UID and data set of an object that nobody has."""
        number = next(self._numbers)
        uid = f"{study}.1.{number}"
        size = _SMALL_BYTES if number % _LARGE_EVERY else _LARGE_BYTES
        return uid, data_set(
            CT_IMAGE_STORAGE,
            uid,
            study_uid=study,
            series_uid=f"{study}.1",
            patient_id=f"P{study.rpartition('.')[2]}",
            pixels=self._noise[:size],
        )


class _Worker:
    """One association's worth of work; its studies are nobody else's."""

    def __init__(self, address: peers.Address, number: int, ledger: _Ledger) -> None:
        self._address = address
        self._title = f"LOAD_{number}"
        self._chance = random.Random(SEED + number)
        self._ledger = ledger
        self._studies = [ledger.new_study()]
        self._caller: Caller | None = None
        self._left = 0

    async def work(self, first: float, every: float, until: float) -> None:
        """Do something every so often; what is late is not left out, and counts from when due."""
        services, shares = list(_SHARES), list(_SHARES.values())
        due = first
        while due < until:
            await asyncio.sleep(due - perf_counter())
            if self._left == 0:
                await self._timed("associate", self._associate)
                self._left = 1 + self._chance.randrange(2 * _OPERATIONS_OF_AN_ASSOCIATION)
            service = self._chance.choices(services, shares)[0]
            await self._timed(service, getattr(self, f"_{service}"), due)
            self._left -= 1
            due += every
        if self._caller is not None:
            await self._caller.release()

    async def _timed(
        self, service: str, act: Callable[[], Awaitable[None]], due: float = 0.0
    ) -> None:
        start = due or perf_counter()
        await act()
        self._ledger.latencies[service].append(perf_counter() - start)

    async def _associate(self) -> None:
        if self._caller is not None:
            await self._caller.release()
        self._caller = await Caller.open(self._address, self._title, _CONTEXTS)

    def _own(self) -> str:
        return self._chance.choice(self._studies[-3:])

    async def _store(self) -> None:
        study = self._studies[-1]
        uid, content = self._ledger.new_object(study)
        await self._asked(STORE, c_store_rq(self._next_id(), CT_IMAGE_STORAGE, uid), content)
        held = self._ledger.studies[study]
        held[uid] = hashlib.sha256(content).digest()
        if len(held) == _OBJECTS_OF_A_STUDY:
            self._studies.append(self._ledger.new_study())

    async def _find(self) -> None:
        study = self._own()
        keys = {QUERY_RETRIEVE_LEVEL: "STUDY", STUDY_INSTANCE_UID: study}
        wanted = identifier({**keys, NUMBER_OF_STUDY_RELATED_INSTANCES: ""})
        answer = await self._asked(FIND, c_find_rq(self._next_id()), wanted)
        counts = [int(values(each)[NUMBER_OF_STUDY_RELATED_INSTANCES]) for each in answer.matches]
        held = len(self._ledger.studies[study])
        if counts != [held] * bool(held):
            raise peers.PeerFailed(f"{held} objects of {study} were acknowledged, found {counts}")

    async def _worklist(self) -> None:
        keys = of_station(self._chance.randrange(50))
        command = c_find_rq(self._next_id(), MODALITY_WORKLIST)
        answer = await self._asked(_WORKLIST, command, keys)
        if len(answer.matches) != _WORKLIST_MATCHES:
            raise peers.PeerFailed(f"{len(answer.matches)} worklist items")

    async def _echo(self) -> None:
        await self._asked(ECHO, c_echo_rq(self._next_id()))

    async def _retrieve(self) -> None:
        await self.retrieve(self._own())

    async def retrieve(self, study: str) -> int:
        """Retrieve a study and compare each object; return how many there are."""
        keys = identifier({QUERY_RETRIEVE_LEVEL: "STUDY", STUDY_INSTANCE_UID: study})
        answer = await self._asked(GET, c_get_rq(self._next_id()), keys)
        if answer.objects != self._ledger.studies[study]:
            raise peers.PeerFailed(f"{study} came back with other objects than were acknowledged")
        return len(answer.objects)

    async def verify(self, studies: Iterator[str]) -> int:
        """Retrieve studies as long as there are any; return how many objects there were."""
        await self._associate()
        assert self._caller is not None
        objects = sum([await self.retrieve(study) for study in studies])
        await self._caller.release()
        return objects

    def _next_id(self) -> int:
        assert self._caller is not None
        return self._caller.next_id()

    async def _asked(self, context_id: int, command: bytes, data: bytes | None = None) -> Answer:
        assert self._caller is not None
        answer = await self._caller.ask(context_id, command, data)
        if answer.status:
            raise peers.PeerFailed(f"{self._title} was answered with {answer.status:04X}H")
        return answer


async def _soak(node: peers.NodeProcess, load: Load) -> Shown:
    ledger = _Ledger()
    # What threads and caches take once is not what an association costs.
    await _work(node, ledger, replace(load, associations=_WARM_UP_ASSOCIATIONS), _WARM_UP_SECONDS)
    ledger.forget_latencies()
    rested = await _quiet(node)
    idle = [await Caller.open(node.dicom_address, "IDLE", _IDLE_CONTEXTS) for _ in range(load.idle)]
    with_idle = await _sample(node)
    cpu = peers.metric(node.http_address, _CPU)
    during = await _work(node, ledger, load, load.seconds)
    cpu = peers.metric(node.http_address, _CPU) - cpu
    for caller in idle:
        await caller.ask(ECHO, c_echo_rq(caller.next_id()))
        await caller.release()
    held = int(peers.metric(node.http_address, "dicomnode_objects"))
    retrieved = await _retrieved(node, ledger)
    return Shown(
        load,
        ledger.latencies,
        rested,
        with_idle,
        during,
        await _quiet(node),
        ledger.acknowledged,
        retrieved,
        held,
        cpu,
    )


async def _work(
    node: peers.NodeProcess, ledger: _Ledger, load: Load, seconds: float
) -> list[Sample]:
    """Let every association work for so long; return samples taken meanwhile."""
    start = perf_counter()
    every = load.associations / load.rate
    samples: list[Sample] = []

    async def watch() -> None:
        while True:
            await asyncio.sleep(max(0.25, seconds / _SAMPLES))
            samples.append(await _sample(node, perf_counter() - start))

    async with asyncio.TaskGroup() as group:
        watching = group.create_task(watch())
        async with asyncio.TaskGroup() as working:
            for number in range(load.associations):
                worker = _Worker(node.dicom_address, number, ledger)
                first = start + every * number / load.associations
                working.create_task(worker.work(first, every, start + seconds))
        watching.cancel()
    return samples


async def _retrieved(node: peers.NodeProcess, ledger: _Ledger) -> int:
    """Retrieve all that was acknowledged, over four associations; return how many objects."""
    studies = iter([study for study, objects in ledger.studies.items() if objects])
    workers = [_Worker(node.dicom_address, number, ledger) for number in range(4)]
    return sum(await asyncio.gather(*(worker.verify(studies) for worker in workers)))


async def _quiet(node: peers.NodeProcess) -> Sample:
    """Wait until no association is left and nothing is under way; return what is taken then."""
    for _ in range(300):
        sample = await _sample(node)
        if not sample.associations and not sample.buffer_bytes and not sample.unsettled:
            return sample
        await asyncio.sleep(0.1)
    raise peers.PeerFailed(f"after half a minute of rest there is still {sample}")


async def _sample(node: peers.NodeProcess, at: float = 0.0) -> Sample:
    page = (await asyncio.to_thread(peers.http_get, node.http_address, "/metrics"))[1].decode()

    def number(name: str) -> int:
        found = re.search(rf"^{name} (\S+)$", page, re.MULTILINE)
        if found is None:
            raise peers.PeerFailed(f"/metrics has no {name}")
        return int(float(found[1]))

    return Sample(
        at,
        node.resident_bytes(),
        number("process_open_fds"),
        number("dicomnode_associations_active"),
        number("dicomnode_receive_buffer_bytes"),
        number("dicomnode_unsettled_objects"),
    )
