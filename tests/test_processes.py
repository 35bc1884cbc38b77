"""A process that works for another does not hear Ctrl-C, from its first moment on."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection

import pytest

from chanattr.processes import deaf_at_birth, leave_signals

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")


def _hear(told: Connection) -> None:
    os.kill(os.getpid(), signal.SIGINT)  # before anything is set up
    told.send(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))
    leave_signals()
    os.kill(os.getpid(), signal.SIGINT)
    told.send(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))


def test_ctrl_c_before_a_process_is_set_up_does_not_reach_it() -> None:
    here, there = multiprocessing.Pipe()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    process = multiprocessing.get_context("fork").Process(target=_hear, args=(there,))
    with deaf_at_birth():
        process.start()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    process.join(20)
    assert process.exitcode == 0
    assert [here.recv(), here.recv()] == [True, False]


def test_the_mask_is_put_back_after_an_error() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with pytest.raises(KeyError), deaf_at_birth():
        raise KeyError
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
