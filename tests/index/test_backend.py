"""What the databases differ in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sqlalchemy import bindparam, create_engine, select

from dicomnode.errors import CatalogError
from dicomnode.index import schema
from dicomnode.index.backend import Backend, Prepared
from dicomnode.index.catalog import Catalog


def test_an_index_is_its_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    """Commands make one too, and it holds the names of patients."""
    before = os.umask(0o022)
    try:
        with Catalog(f"sqlite:///{tmp_path / 'index.sqlite'}", synchronous="OFF"):
            modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert set(modes.values()) == {0o600} and "index.sqlite-wal" in modes


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_an_index_that_root_makes_belongs_to_whom_the_directory_belongs(tmp_path: Path) -> None:
    os.chown(tmp_path, 4711, 4712)
    with Catalog(f"sqlite:///{tmp_path / 'index.sqlite'}", synchronous="OFF"):
        owners = {(path.stat().st_uid, path.stat().st_gid) for path in tmp_path.iterdir()}
    assert owners == {(4711, 4712)}


@pytest.mark.parametrize("paramstyle", ["qmark", "named"])
def test_a_prepared_statement_runs_with_positions_and_with_names(paramstyle: str) -> None:
    """SQLite's driver takes positions, PostgreSQL's names."""
    engine = create_engine("sqlite://", paramstyle=paramstyle)
    statement = select(bindparam("first"), bindparam("second"))
    prepared = Prepared(statement, engine, ["first", "second"])
    with engine.connect() as connection:
        cursor = connection.connection.cursor()
        prepared.run(cursor, 1, "two")
        assert cursor.fetchall() == [(1, "two")]


def test_parameters_named_in_another_order_are_a_mistake() -> None:
    engine = create_engine("sqlite://")
    with pytest.raises(ValueError, match="parameters"):
        Prepared(select(bindparam("first"), bindparam("second")), engine, ["second", "first"])


def test_readers_cannot_write(tmp_path: Path) -> None:
    backend = Backend(f"sqlite:///{tmp_path}/index.sqlite", "OFF")
    with backend.writer.begin() as connection:
        schema.metadata.create_all(connection)
    with (
        backend.reader.connect() as connection,
        pytest.raises(Exception, match="readonly"),
    ):
        connection.execute(schema.meta.insert().values(name="a", value="b"))
    backend.dispose()


@pytest.mark.parametrize(
    "url", ["index.sqlite", "sqlite://user:secret@/index", "nonesuch://user:secret@host/index"]
)
def test_a_url_that_cannot_be_used_is_told_without_its_password(url: str) -> None:
    with pytest.raises(CatalogError, match=r"index\.url") as caught:
        Catalog(url)
    assert "secret" not in str(caught.value)
