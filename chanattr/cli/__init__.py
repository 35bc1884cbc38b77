"""The command line: arguments to one call to one printed result; everything heavy is imported inside the commands."""

from chanattr.cli.main import main

__all__ = ["main"]
