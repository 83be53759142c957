"""The token of a running node in its storage directory."""

from pathlib import Path

import pytest

from dicomnode.api.token import LocalToken, new_token, read_token, remove_token, write_token
from tests.conftest import StartNode


def test_what_is_laid_down_is_read_again_until_it_is_removed(tmp_path: Path) -> None:
    assert read_token(tmp_path) is None
    local = LocalToken(new_token(), 8104)
    write_token(tmp_path, local)
    assert read_token(tmp_path) == local
    remove_token(tmp_path)
    remove_token(tmp_path)
    assert read_token(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    write_token(tmp_path, LocalToken("token", 1))
    assert (tmp_path / "api.token").stat().st_mode & 0o777 == 0o600


def test_what_a_node_that_was_killed_left_is_replaced(tmp_path: Path) -> None:
    write_token(tmp_path, LocalToken("first", 1))
    (tmp_path / "api.new").write_text("half")
    write_token(tmp_path, LocalToken("second", 2))
    assert read_token(tmp_path) == LocalToken("second", 2)


@pytest.mark.parametrize("content", ["", "token", "token\nport\n", "token\n-1\n", "\xff\xff"])
def test_a_file_that_holds_no_token_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "api.token").write_text(content)
    assert read_token(tmp_path) is None


def test_each_token_is_another_one() -> None:
    assert new_token() != new_token()


def test_a_node_lays_its_token_down_while_it_runs(start_node: StartNode) -> None:
    node = start_node()
    local = read_token(node.store_directory)
    assert local is not None
    assert local.port == node.http_address[1]
    node.stop()
    assert read_token(node.store_directory) is None
