"""The command as a process: ``outfinder``, or ``python -m pipeline``."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command; while it is being imported, Ctrl-C ends the process without a traceback."""
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from pipeline.cli import main as command  # noqa: PLC0415  after the signal is set

    command(prog_name="outfinder")


if __name__ == "__main__":
    main()
