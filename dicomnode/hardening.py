"""What a process that holds patient data denies itself: wide file modes, and core dumps."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource

_UMASK = 0o077
# linux/prctl.h
_PR_SET_DUMPABLE = 4


def harden() -> None:
    """Make new files their owner's alone, and have no core of this process written.

    A core would hold images and names. The limit is inherited by processes that are started; a
    handler that is a pipe (core_pattern) does not heed it, and is told by the other call.
    """
    os.umask(_UMASK)
    # A sandbox may forbid to set limits; it has set them itself.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _set_undumpable()


def _set_undumpable() -> None:
    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
    except (OSError, AttributeError):
        return  # not Linux
    prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
