"""`chanattr layers --explain`: what it prints, and what it says of a wrong name."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from chanattr.cli import main
from tests.cli.studio import make_studio


def test_a_layer_is_explained(tmp_path: Path) -> None:
    studio = make_studio(tmp_path, per_class=1)
    result = CliRunner().invoke(main, ["layers", studio.model, "--explain", "mix", "--images", "20", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "Plain, layer mix: Conv2d"
    for title in ("calls", "output", "rows", "way", "passes by", "cost", "evaluations", "memory", "time"):
        assert any(line.startswith(f"{title} ") for line in lines), title
    assert "estimate for 20 images" in " ".join(result.stdout.split())


def test_a_wrong_layer_is_one_line_with_a_suggestion(tmp_path: Path) -> None:
    studio = make_studio(tmp_path, per_class=1)
    for wrong, words in (("mixx", "did you mean 'mix'?"), ("act", "act@1 to act@2"), ("never", "never fires")):
        result = CliRunner().invoke(main, ["layers", studio.model, "--explain", wrong])
        assert result.exit_code == 2
        assert words in result.stderr
        assert result.stderr.count("\n") == 1


def test_a_wrong_device_is_refused_without_explain_too() -> None:
    result = CliRunner().invoke(main, ["layers", "embedded", "--device", "foo"])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --device foo cannot be used")
    assert result.stderr.count("\n") == 1
