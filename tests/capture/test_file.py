"""The file of a capture is for its owner alone, whatever its name led to before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lab.capture_cli import _private


@pytest.mark.attack("T8")
def test_a_file_that_others_could_read_is_for_its_owner_alone_from_then_on(tmp_path: Path) -> None:
    for name in ("plain", "behind"):
        (tmp_path / name).write_text("old and long")
        (tmp_path / name).chmod(0o666)
    (tmp_path / "link").symlink_to("behind")
    (tmp_path / "dangling").symlink_to("new")
    for name, target in (("plain", "plain"), ("link", "behind"), ("dangling", "new")):
        with _private(tmp_path / name) as file:
            assert (tmp_path / target).stat().st_mode & 0o777 == 0o600
            file.write(b"pcapng")
        assert (tmp_path / target).read_bytes() == b"pcapng"


@pytest.mark.root
@pytest.mark.attack("T8")
def test_a_link_to_a_file_of_another_user_is_refused_and_the_file_unharmed(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs")
    os.chown(tmp_path / "theirs", 10001, 10001)
    (tmp_path / "link").symlink_to("theirs")
    with pytest.raises(PermissionError):
        _private(tmp_path / "link")
    assert (tmp_path / "theirs").read_text() == "theirs"


def test_a_pipe_is_written_as_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o640)
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with _private(tmp_path / "pipe") as file:
        file.write(b"pcapng")
    assert os.read(reader, 10) == b"pcapng"
    assert (tmp_path / "pipe").stat().st_mode & 0o777 == 0o640
    os.close(reader)
