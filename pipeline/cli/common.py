"""What the commands share: stage options, errors as messages, exit statuses."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

import click
from click.core import ParameterSource

from pipeline.config import AUTO, CROPPERS, DETECTORS, EMBEDDERS, INDEXES, MILVUS
from stages.errors import OutfinderError

if TYPE_CHECKING:
    from pipeline.pipeline import Analysis
    from pipeline.search import Garment

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])

SOME_FAILED = 1
NOTHING_RAN = 2
INTERRUPTED = 130
TERMINATED = 143

ANYWHERE = click.Path(path_type=Path)  # a missing photo has its own error line
FILE_IN = click.Path(exists=True, dir_okay=False, path_type=Path)
FILE_OUT = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


def _choice(names: Iterable[str], more: str = "") -> str:
    return f"{', '.join(names)}{more}, or package.module:Name for your own."


def _placed(_ctx: click.Context, _parameter: click.Parameter, name: str | None) -> str | None:
    """An index' name, which a gallery remembers: the file of a Milvus one is found from any folder."""
    if name is None or not name.startswith(MILVUS) or "://" in name:
        return name
    return MILVUS + str(Path(name.removeprefix(MILVUS)).absolute())


def stage_options(*wanted: str) -> Callable[[F], F]:
    """Options that choose stages: of ``detector``, ``crop``, ``embedder``, ``index``."""
    options = {
        "detector": [
            click.option("--detector", metavar="NAME", help=_choice(DETECTORS, ", NAME+flip (mirrored too)")),
            click.option("--detector-weights", type=FILE_IN, help="A detector checkpoint (.safetensors) of your own."),
            click.option("--min-score", type=click.FloatRange(0, 1), help="Least score of a garment.  [default: 0.5]"),
        ],
        "crop": [click.option("--crop", metavar="NAME", help=_choice(CROPPERS))],
        "embedder": [
            click.option("--embedder", metavar="NAME", help=_choice(EMBEDDERS, ", features-ARCHITECTURE")),
            click.option("--embedder-weights", type=FILE_IN, help="Weights (.safetensors) of your own for it."),
        ],
        "index": [click.option("--index", metavar="NAME", callback=_placed, help=_choice(INDEXES, ", milvus+URI"))],
    }

    def decorate(command: F) -> F:
        for stage in reversed(wanted):
            for option in reversed(options[stage]):
                command = option(command)
        return command

    return decorate


def given_options() -> dict[str, str]:
    """Return the options of the current command that were given on the command line, as they are written there."""
    context = click.get_current_context()
    given = {}
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if isinstance(parameter, click.Option) and source is ParameterSource.COMMANDLINE:
            value = context.params.get(parameter.name or "")
            name = max(parameter.opts, key=len)
            given[name] = (
                "yes" if value is True else " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            )
    return given


device_option = click.option(
    "--device",
    metavar="auto|cpu|cuda|mps",
    default=AUTO,
    show_default=True,
    help="Where to compute, as torch names it; auto is cuda, else mps, else cpu, by what is there.",
)

resume_option = click.option(
    "--resume", is_flag=True, help="Go on with the -o FILE of a run that was cut short: same photos, same options."
)


def pace_options(command: F) -> F:
    """Options on how many photos are looked at and decoded at a time."""
    for option in (
        click.option(
            "--workers",
            type=click.IntRange(1),
            help="Threads that decode photos ahead.  [default: one per core, at most 4]",
        ),
        click.option(
            "--batch-size",
            type=click.IntRange(1),
            default=8,
            show_default=True,
            help="Photos that are looked at together.",
        ),
    ):
        command = option(command)
    return command


calibration_option = click.option(
    "--calibration",
    "calibration_file",
    type=FILE_IN,
    help="What `outfinder calibrate` wrote.  [default: the one beside the weights, if any]",
)


def _isolate(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from stages.isolation import isolated

        ctx.with_resource(isolated())


isolate_option = click.option(
    "--isolate/--no-isolate",
    default=True,
    show_default=True,
    expose_value=False,
    callback=_isolate,
    help="Decode photos in processes of their own, which hostile files may crash, hang or fill at no cost but theirs.",
)


def chosen(**settings: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in settings.items() if value is not None}


def friendly(command: Callable[P, R]) -> Callable[P, R]:
    """Turn faults that were foreseen into one line and exit status 2, Ctrl-C into 130, and SIGTERM into 143."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with _signals():
                return command(*args, **kwargs)
        except Terminated:
            click.echo("outfinder: terminated", err=True)
            sys.exit(TERMINATED)
        except (OutfinderError, ValueError) as error:
            click.echo(f"outfinder: {_told(error)}", err=True)
            sys.exit(NOTHING_RAN)
        except KeyboardInterrupt:
            click.echo("outfinder: interrupted", err=True)
            sys.exit(INTERRUPTED)
        except BrokenPipeError:  # a reader such as head has had enough
            _drop_output()
            sys.exit(0)
        except OSError as error:
            click.echo(f"outfinder: {_told(error.filename or 'output')}: {error.strerror or _told(error)}", err=True)
            _drop_output()
            sys.exit(NOTHING_RAN)

    return run


class Terminated(KeyboardInterrupt):
    """SIGTERM came: whatever Ctrl-C would leave in order is left in order."""


@contextmanager
def _signals() -> Iterator[None]:
    """Raise KeyboardInterrupt at Ctrl-C and :class:`Terminated` at a SIGTERM, unless someone else has a say in it."""

    def terminate(_signal: int, _frame: object) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
        raise Terminated

    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: terminate}
    here = threading.current_thread() is threading.main_thread()  # where signals come to
    ours = [name for name in handlers if here and signal.getsignal(name) == signal.SIG_DFL]
    try:
        for name in ours:
            signal.signal(name, handlers[name])
        yield
    finally:
        for name in ours:
            signal.signal(name, signal.SIG_DFL)


def _drop_output() -> None:
    """Let what is still to be flushed to standard output go nowhere: it has been told already that it cannot be written."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def print_figures(figures: Mapping[str, Any], table: str, json_file: Path | None) -> None:
    """The table on standard output, unless that is for the figures as JSON."""
    text = json.dumps(figures, indent=2) + "\n"
    if json_file == Path("-"):
        click.echo(text, nl=False)
        return
    if json_file:
        json_file.write_text(text, encoding="ascii")
    click.echo(table)


def goes_on(output: Path | None) -> str:
    """What is left of a run that was interrupted, for :meth:`pipeline.cli.progress.Progress.interruptible`."""
    if output is None:
        return "with -o FILE, --resume could go on"
    return f"they are in {printable(str(output))}; the same command with --resume goes on"


def printable(name: str) -> str:
    r"""A file name for a message: one line that does nothing to a terminal, whatever bytes are in it.

    >>> print(printable("a\nb\x1b[31m\udce9 größe.jpg"))
    a\nb\x1b[31m\udce9 größe.jpg
    """
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in name)


def _told(error: object) -> str:
    """An error's message, its lines kept."""
    return "\n".join(map(printable, str(error).split("\n")))


def garments_of(analysis: Analysis) -> tuple[Garment, ...]:
    """An analysis' detections as results, without matches."""
    from pipeline.search import Garment

    return tuple(Garment(one.label, one.score, one.box, one.mask) for one in analysis.detections)
