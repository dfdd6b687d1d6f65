"""Run a script's command in-process."""

from __future__ import annotations

import click
from click.testing import CliRunner, Result


def run_script(command: click.Command, *arguments: object, status: int = 0) -> Result:
    """Run a command, which ends with this exit status and never with a traceback."""
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.stderr
    return result
