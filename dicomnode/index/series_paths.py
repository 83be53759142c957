"""Where the files of each series should be, in the order in which directories are walked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import groupby
from operator import itemgetter

from sqlalchemy import Connection, select

from dicomnode.index.schema import instance, series, study

_STUDIES_PER_STEP = 20

# Lends a reader's connection.
Read = Callable[[], AbstractContextManager[Connection]]


def series_paths(read: Read, byte_collation: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each series' directory and its objects' SOP Instance UIDs by path.

    Directories come in byte order of study directory, then series. Memory: a few studies.
    No transaction stays open between two steps, so that the write-ahead log stays short.
    """
    last = ""
    while studies := _studies_after(read, last, byte_collation):
        last = studies[-1][1]
        rows = _paths_of(read, dict(studies))
        for (directory, series_uid), group in groupby(rows, key=itemgetter(0, 1)):
            yield f"{directory}/{series_uid}", {row[2]: row[3] for row in group}


def _studies_after(read: Read, directory: str, byte_collation: str) -> list[tuple[int, str]]:
    column = study.c.directory.collate(byte_collation)
    statement = (
        select(study.c.id, study.c.directory)
        .where(column > directory)
        .order_by(column)
        .limit(_STUDIES_PER_STEP)
    )
    with read() as connection:
        return [(row[0], row[1]) for row in connection.execute(statement)]


def _paths_of(read: Read, directories: dict[int, str]) -> list[tuple[str, str, str, str]]:
    statement = (
        select(
            series.c.study,
            series.c.series_instance_uid,
            instance.c.path,
            instance.c.sop_instance_uid,
        )
        .select_from(series.join(instance))
        .where(series.c.study.in_(directories))
    )
    with read() as connection:
        rows = connection.execute(statement).all()
    return sorted((directories[row[0]], row[1], row[2], row[3]) for row in rows)
