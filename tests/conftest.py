"""For every test: one thread, annotations checked at run time, and a browser where there is one."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tests.checking

# Before the first import of the package: shapes and types of every call are checked, in tests only.
tests.checking.install("chanattr")

from chanattr.processes import collect_seldom  # noqa: E402

collect_seldom()

import torch  # noqa: E402  (after the hook, which must come first)

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first: at the end no worker waits for another's minute."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    """What the libraries hold stays; without this the collector would go through it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def exports_are_not_traced() -> None:
    """torch writes down each step of an export where its logger has a handler, and pytest gives one to every logger."""
    trace = logging.getLogger("torch.__trace")
    trace.handlers.clear()
    trace.addHandler = lambda handler: None  # type: ignore[method-assign]


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Small tensors gain nothing from threads, and one thread gives the same sums everywhere."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def checks_begin_anew() -> None:
    """Each test has the first calls of every function checked."""
    tests.checking.CALLS.clear()


@pytest.fixture(autouse=True)
def users_files_are_forgotten(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A user's file that a test made and loaded stays a module of the process: the next test's of the same name would not be."""
    known, path = set(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path_factory.getbasetemp())):
            del sys.modules[name]
    sys.path[:] = path


def _find_browser() -> str | None:
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    downloaded = sorted(Path.home().glob(".cache/ms-playwright/chromium-*/chrome-linux*/chrome"))
    return str(downloaded[-1]) if downloaded else None


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium; without one the test is skipped, or fails where CHANATTR_REQUIRE_BROWSER=1."""
    path = _find_browser()
    if path is None:
        reason = f"no Chromium on PATH; looked for {', '.join(BROWSERS)}"
        if os.environ.get("CHANATTR_REQUIRE_BROWSER") == "1":
            pytest.fail(f"{reason}; CHANATTR_REQUIRE_BROWSER=1 asks for one")
        pytest.skip(reason)
    return path
