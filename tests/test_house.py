"""The rules of the house: import arrows, a light start, docstrings, and a map that names every room."""

from __future__ import annotations

import ast
import gc
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import chanattr as ca
from chanattr.attribution.perturbation import Lookup
from chanattr.pictures.figures import words
from chanattr.search.family import largest
from tests import checking

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "chanattr"
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if "embedded" not in path.relative_to(PACKAGE).parts[:-1])
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"
OUTSIDE_THE_FLOW = {"progress", "embedded", "__main__"}  # small things that any room may use, and the door

# One line too many in one file, the contract it breaks, and how the report names the arrow.
FORBIDDEN = [
    ("records.py", "import torch", "what is stored or drawn never imports torch", "chanattr.records -> torch"),
    ("store/layout.py", "from chanattr.search import exact", "what is stored or drawn never imports torch", "chanattr.store.layout"),
    ("search/family.py", "import chanattr.store.reader", "the flow: only what stands below",
     "chanattr.search.family -> chanattr.store.reader"),
    ("store/run.py", "import chanattr.pictures.sheet", "the flow: only what stands below",
     "chanattr.store.run -> chanattr.pictures.sheet"),
    ("images/find.py", "import chanattr.runs.plan", "the flow: only what stands below", "chanattr.images.find -> chanattr.runs.plan"),
    ("cli/text.py", "import h5py", "h5py is used by the store alone", "chanattr.cli.text -> h5py"),
    ("runs/plan.py", "import plotly", "plotly is used by the figures alone", "chanattr.runs.plan -> plotly"),
    ("picture_records.py", "import torch", "what is stored or drawn never imports torch", "chanattr.picture_records -> torch"),
    ("pictures/figures/inversions.py", "from chanattr.pictures.making import make", "what is stored or drawn never imports torch",
     "chanattr.pictures.figures.inversions -> chanattr.pictures.making"),
    ("pictures/channels.py", "import plotly", "what makes pictures neither draws nor stores", "chanattr.pictures.channels -> plotly"),
    ("pictures/parameters.py", "from chanattr.pictures.channels import visualise", "pictures are made in one direction",
     "chanattr.pictures.parameters -> chanattr.pictures.channels"),
    ("network/hooks.py", "import torchvision", "a GPU server needs torch and numpy only", "chanattr.network.hooks -> torchvision"),
]


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def parsed() -> Iterator[tuple[str, ast.Module]]:
    for path in SOURCES:
        yield name_of(path), ast.parse(path.read_text(encoding="utf8"))


def flow() -> list[str]:
    """The layers of the contract, the highest first."""
    found = re.search(r'type = "layers"\nlayers = \[\n(.*?)\n\]', (ROOT / "pyproject.toml").read_text(encoding="utf8"), re.S)
    assert found
    return found[1].splitlines()


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """import-linter on the package that lies in `root`."""
    return subprocess.run([sys.executable, "-c", LINT, "--no-cache", "--config", root / "pyproject.toml"], cwd=root, capture_output=True,
                          text=True, check=False, env={**os.environ, "COLUMNS": "200"})


def test_the_arrows_hold() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's sources and rules somewhere else."""
    root = tmp_path_factory.mktemp("house")
    shutil.copy(ROOT / "pyproject.toml", root)
    for path in PACKAGE.rglob("*.py"):
        target = root / "chanattr" / path.relative_to(PACKAGE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return root


@pytest.mark.parametrize(("file", "line", "contract", "arrow"), FORBIDDEN, ids=[f"{file}: {line}" for file, line, *_ in FORBIDDEN])
def test_a_forbidden_arrow_is_found_and_named(copy: Path, file: str, line: str, contract: str, arrow: str) -> None:
    path = copy / "chanattr" / file
    whole = path.read_text(encoding="utf8")
    path.write_text(f"{whole}\n{line}\n", encoding="utf8")
    try:
        done = lint_imports(copy)
    finally:
        path.write_text(whole, encoding="utf8")
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{contract} BROKEN" in done.stdout
    assert arrow in done.stdout


def test_the_flow_has_no_exceptions() -> None:
    assert "ignore_imports" not in (ROOT / "pyproject.toml").read_text(encoding="utf8")


def test_every_room_has_a_place_in_the_flow() -> None:
    placed = set(re.findall(r"chanattr\.(\w+)", "".join(flow())))
    rooms = {path.stem if path.is_file() else path.name for path in PACKAGE.iterdir()
             if path.suffix == ".py" or (path.is_dir() and (path / "__init__.py").exists())} - {"__init__"}
    assert rooms - OUTSIDE_THE_FLOW <= placed


def test_no_cycles() -> None:
    grimp = pytest.importorskip("grimp")
    graph = grimp.build_graph("chanattr", cache_dir=None, exclude_type_checking_imports=True)
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module):], module))
        if module not in done:
            for other in sorted(graph.find_modules_directly_imported_by(module)):
                visit(other, (*path, module))
            done.add(module)

    for module in sorted(graph.modules):
        visit(module, ())


@pytest.mark.parametrize("code", ["import chanattr", "import chanattr, chanattr.errors, chanattr.cli", "import chanattr; dir(chanattr)"])
def test_importing_the_package_loads_nothing_heavy(code: str) -> None:
    heavy = "{'torch', 'torchvision', 'numpy', 'h5py', 'plotly', 'PIL', 'xarray', 'jaxtyping', 'tqdm'}"
    done = subprocess.run([sys.executable, "-c", f"{code}\nimport sys\nprint(*sorted({heavy} & set(sys.modules)))"], capture_output=True,
                          text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("code", ["import chanattr.store", "import chanattr.records, chanattr.settings", "import chanattr.pictures.figures",
                                  "import chanattr; chanattr.open_run, chanattr.figures, chanattr.ExactSearch"])
def test_what_is_stored_or_drawn_opens_without_torch(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"{code}\nimport sys\nprint('torch' in sys.modules)"], capture_output=True, text=True,
                          check=True)
    assert done.stdout.split() == ["False"]


@pytest.mark.parametrize("name", ca.__all__)
def test_public_names_are_there_and_say_what_they_are(name: str) -> None:
    value = getattr(ca, name)
    assert value.__doc__
    assert value.__doc__.strip()
    assert name in dir(ca)


PUBLIC = [getattr(ca, name) for name in ca.__all__ if name != "figures"] + [getattr(ca.figures, name) for name in ca.figures.__all__]
SHOWN = [value for value in PUBLIC if not inspect.isclass(value) or not issubclass(value, Exception)]


@pytest.mark.parametrize("value", SHOWN, ids=lambda value: value.__qualname__)
def test_what_is_public_has_an_example(value: Any) -> None:
    """Those of functions and classes; pytest runs them (`--doctest-modules`)."""
    assert re.search(r"^ *>>> ", value.__doc__ or "", re.M), f"{value.__module__}.{value.__qualname__} has no example"


@pytest.mark.parametrize("function", [value for value in PUBLIC if inspect.isfunction(value)], ids=lambda function: function.__qualname__)
def test_public_functions_say_what_they_take(function: Any) -> None:
    """Each parameter by its name, before a colon, in a section of arguments."""
    parameters = [name.lstrip("_") for name in inspect.signature(function).parameters]
    section = re.search(r"^Args:\n((?:    .*\n|\n)+)", inspect.cleandoc(function.__doc__) + "\n", re.M)
    assert section or not parameters, f"{function.__qualname__} has no section Args"
    told = {name.strip() for names in re.findall(r"^    (\w[\w, ]*):", section[1] if section else "", re.M) for name in names.split(",")}
    assert set(parameters) - told == set(), function.__qualname__


def test_no_such_public_name() -> None:
    with pytest.raises(AttributeError, match=r"module 'chanattr' has no attribute 'perimage'; it has .*per_image"):
        ca.perimage  # noqa: B018


def test_every_file_says_in_one_sentence_what_it_is() -> None:
    for name, tree in parsed():
        text = ast.get_docstring(tree)
        assert text, f"{name} has no docstring"
        first = " ".join(text.split("\n\n")[0].split())
        assert re.fullmatch(r"[^.?!]+([.?!][^\s][^.?!]*)*[.?!]", first), f"{name}: {first!r} is not one sentence"


def test_public_functions_say_what_they_are() -> None:
    for name, tree in parsed():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{name}: {node.name} has no docstring"


def test_no_function_is_over_sixty_lines() -> None:
    for name, tree in parsed():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                text = node.body[0].end_lineno if ast.get_docstring(node) else node.lineno  # what is said about it does not count
                assert node.end_lineno - text <= 60, f"{name}: {node.name}"  # type: ignore[operator]


def test_beside_many_arguments_by_place_at_most_two_have_a_default() -> None:
    """Of functions inside; public ones take three by place at most (`tests/test_signatures.py`)."""
    for name, tree in parsed():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and len([one for one in node.args.args if one.arg not in ("self", "cls")]) > 3:
                assert len(node.args.defaults) <= 2, f"{name}: {node.name}"


def test_libraries_do_not_print_assert_or_catch_everything() -> None:
    for name, tree in parsed():
        for node in ast.walk(tree):
            where = f"{name}:{getattr(node, 'lineno', 0)}"
            assert not isinstance(node, ast.Assert), f"{where} asserts; errors have three beats"
            assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"{where} catches everything"
            if not name.startswith("cli/"):
                assert not (isinstance(node, ast.Name) and node.id == "print"), f"{where} prints; only the command line does"


def test_every_name_is_defined() -> None:
    """Lint and types pass over names that nothing defines, for jaxtyping's shapes are such; any but the letter of a shape is a mistake."""
    given = ["check", "--no-cache", "--select", "F821", "--output-format", "json", "chanattr", "tests"]
    done = subprocess.run([sys.executable, "-m", "ruff", *given], cwd=ROOT, capture_output=True, text=True, check=False)
    unknown = [(one["filename"], one["location"]["row"], re.findall("`(.+)`", one["message"])[0]) for one in json.loads(done.stdout)]
    assert len(unknown) > 100  # it looks
    assert [one for one in unknown if not re.fullmatch("[A-Z_]", one[2])] == []


def test_the_map_has_a_row_for_every_file_and_no_other() -> None:
    """A folder's row is its `__init__.py`."""
    rows = re.findall(r"^\| `([\w/.]+)` \| (.+) \|$", (ROOT / "docs" / "architecture.md").read_text(encoding="utf8"), re.M)
    files = {name_of(path) for path in [*SOURCES, PACKAGE / "embedded" / "__init__.py"]}
    assert sorted(row for row, _ in rows) == sorted(file.replace("/__init__.py", "/") for file in files)
    assert [row for row, said in rows if len(said) < 15 and not said.startswith("`")] == []


@pytest.mark.parametrize("file", ["README.md", "docs/architecture.md"])
def test_the_drawing_of_the_rooms_is_the_contract(file: str) -> None:
    drawing = re.search(r"^```\n(cli .+?)```", (ROOT / file).read_text(encoding="utf8"), re.M | re.S)
    assert drawing
    drawn = [re.split(r"  +", line)[0].split(", ") for line in drawing[1].splitlines()]
    assert drawn == [re.findall(r"chanattr\.(\w+)", line) for line in flow()]


@pytest.mark.parametrize("collects", [True, False])
def test_an_import_leaves_the_collector_as_it_was(collects: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    monkeypatch.setattr("importlib.import_module", lambda module: seen.append(gc.isenabled()) or (ast if module == "there" else 1 / 0))
    (gc.enable if collects else gc.disable)()
    try:
        ca._imported("there")
        with pytest.raises(ZeroDivisionError):
            ca._imported("not there")
        assert (seen, gc.isenabled()) == ([False, False], collects)
    finally:
        gc.enable()


def test_annotations_are_checked_in_tests() -> None:
    """Of functions and of methods, shapes and types; or a wrong one would pass every other test."""
    with pytest.raises(TypeError, match=r"values=.* violates type hint .*P K"):
        largest(torch.zeros(3), torch.ones(1, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"areas=.* violates type hint .*the size of dimension P is 3 .* existing value of 2"):
        largest(torch.zeros(2, 3), torch.ones(3, dtype=torch.int64))  # P is 2 throughout the call
    with pytest.raises(TypeError, match="three"):
        words.number("three")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"(?s)pyramid.* violates type hint"):
        Lookup(torch.zeros(2, 1, 3, 4))


@pytest.mark.parametrize("again", [False, True])
def test_each_test_has_its_first_calls_checked(again: bool) -> None:
    """However often the test before called a function; the last of those that are checked is."""
    for _ in range(checking.MOST - 1):
        largest(torch.zeros(1, 3), torch.ones(1, dtype=torch.int64))
    with pytest.raises(TypeError, match="violates type hint"):
        largest(torch.zeros(3), torch.ones(1, dtype=torch.int64))


def test_functions_are_checked_wherever_a_module_defines_them() -> None:
    tree = ast.parse("""
from jaxtyping import Float
import jaxtyping
if TYPE_CHECKING:
    from elsewhere import Record
def plain(a: int): pass
def loose(a: Float[Tensor, "P"]) -> Record: pass
def shaped(a: Float[Tensor, "P"]): pass
def told(a: "Float[Tensor, 'P']"): pass
def attribute(a: jaxtyping.Float[Tensor, "P"]): pass
async def waiting(a: int): pass
try: pass
except ImportError:
    def without(a: int): pass
finally:
    def last(a: int): pass
""")
    checking.decorated(tree)
    found = {node.name: [one.id for one in node.decorator_list if isinstance(one, ast.Name)]
             for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
    types, shapes = ("plain", "waiting", "without", "last"), ("shaped", "told", "attribute")
    assert found == {name: [checking.TYPES] for name in types} | {name: [checking.SHAPED] for name in shapes} | {"loose": [checking.LOOSE]}


def test_nothing_stands_at_the_top_that_does_not_belong_there() -> None:
    """A file that a test wrote beside the package was once committed with it."""
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("no clone: nothing tells what belongs to it")
    assert {name.split("/")[0] for name in listing.stdout.splitlines()} == {
        ".ci", ".gitignore", "CHANGELOG.md", "CITATION.cff", "LICENSE", "MANIFEST.in", "README.md", "chanattr", "docs", "mkdocs.yml",
        "notebooks", "pyproject.toml", "scripts", "tests"}
