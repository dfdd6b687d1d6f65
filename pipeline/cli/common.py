"""What commands share: types of arguments, options, error messages and exit statuses."""

from __future__ import annotations

import codecs
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

import click
from click.core import ParameterSource

from pipeline.config import AUTO, CROPPERS, DETECTORS, EMBEDDERS, INDEXES, MILVUS
from pipeline.outputs import check_file
from stages.decode_pool import isolated
from stages.errors import OutfinderError
from stages.files import existing_spelling
from stages.formats import HEAD_BYTES, sniff

if TYPE_CHECKING:
    from stages.embed.data import Dataset

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])

SOME_FAILED = 1
NOTHING_RAN = 2
INTERRUPTED = 130
TERMINATED = 143

PACE = ("device", "batch_size", "workers")
"""The settings that do not change results."""

_SETTINGS = ("detector", "detector_weights", "min_score", "crop", "embedder", "embedder_weights", "index", *PACE)


class PathArgument(click.Path):
    """A path, spelled as the file is. An empty one, which an unset variable gives, is refused."""

    def __init__(self, **options: Any) -> None:
        super().__init__(path_type=Path, **options)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        name = os.fspath(value)
        if not name:
            self.fail("It is empty; name a file or a folder.", param, ctx)
        if name == "-" and not self.allow_dash:
            self.fail("- stands for neither standard input nor output here; name a file or a folder.", param, ctx)
        return super().convert(existing_spelling(Path(name)), param, ctx)


class PhotoArgument(PathArgument):
    """A photo, a folder or a table. It may be missing: a missing photo is reported like an unreadable one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        if re.match(r"\w+://", str(value)):
            self.fail(
                f"{value} is an address; download it first, or name it in a catalogue that index reads.", param, ctx
            )
        return super().convert(value, param, ctx)


ANYWHERE = PhotoArgument()
FILE_IN = PathArgument(exists=True, dir_okay=False)
FILE_OUT = PathArgument(dir_okay=False)
FOLDER = PathArgument(file_okay=False)
EXISTING = PathArgument(exists=True)


def photos_argument(name: str = "photos", metavar: str = "PHOTO...", *, required: bool = True) -> Callable[[F], F]:
    """Photos and folders of photos; ``-`` reads a list of them from standard input."""
    kind = PhotoArgument(allow_dash=True)
    return click.argument(name, metavar=metavar, nargs=-1, required=required, type=kind, callback=_read_list)


def _read_list(ctx: click.Context, parameter: click.Parameter, paths: tuple[Path, ...]) -> tuple[Path, ...]:
    """Replace ``-`` by the paths on standard input, one per line or separated by null bytes."""
    if Path("-") not in paths:
        return paths
    data = sys.stdin.buffer.read() if sys.stdin else b""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # written by PowerShell
        data = data.decode("utf-16", "replace").encode()
    data = data.removeprefix(codecs.BOM_UTF8)
    head = data[:HEAD_BYTES]
    if (kind := sniff(head)) and (kind != "BMP" or b"\0\0" in head):  # a name may start with BM, too
        message = "Standard input is a photo, not a list of photos; name its file instead."
        raise click.BadParameter(message, ctx, parameter)
    names = data.split(b"\0") if b"\0" in data else data.splitlines()
    listed = [existing_spelling(Path(os.fsdecode(name))) for name in names if name.strip()]
    return tuple(path for each in paths for path in (listed if each == Path("-") else [each]))


def combined(*options: Callable[[Any], Any]) -> Callable[[F], F]:
    """Return several options as one decorator."""

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _stage_option(name: str, choices: Iterable[str], more: str = "", **options: Any) -> Callable[[Any], Any]:
    text = f"{', '.join(choices)}{more}, or package.module:Name for your own."
    return click.option(f"--{name}", metavar="NAME", help=text, **options)


def _absolute(_ctx: click.Context, _parameter: click.Parameter, name: str | None) -> str | None:
    """Make the file of a Milvus Lite index absolute, so that a gallery finds it from any folder."""
    if name is None or not name.startswith(MILVUS) or "://" in name:
        return name
    return MILVUS + str(Path(name.removeprefix(MILVUS)).absolute())


def _isolate(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        ctx.with_resource(isolated())


_CONFIG_OPTIONS: dict[str, list[Callable[[Any], Any]]] = {
    "detector": [
        _stage_option("detector", DETECTORS, ", NAME+flip (mirrored too)"),
        click.option("--detector-weights", type=FILE_IN, help="Your own detector checkpoint (.safetensors)."),
        click.option("--min-score", type=click.FloatRange(0, 1), help="Least score of a garment.  [default: 0.5]"),
    ],
    "crop": [_stage_option("crop", CROPPERS)],
    "embedder": [
        _stage_option("embedder", EMBEDDERS, ", features-ARCHITECTURE, open_clip:MODEL, timm:MODEL; NAME+attributes"),
        click.option("--embedder-weights", type=FILE_IN, help="Your own weights (.safetensors) for it."),
    ],
    "index": [_stage_option("index", INDEXES, ", milvus+URI", callback=_absolute)],
    "pace": [
        click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True, help="Photos per batch."),
        click.option("--workers", type=click.IntRange(1),
                     help="Threads that decode photos.  [default: one per core, at most 4]"),
    ],
}  # fmt: skip

device_option = click.option(
    "--device",
    metavar="auto|cpu|cuda|mps",
    default=AUTO,
    show_default=True,
    help="Where to compute, as torch names it; auto is the first available of cuda, mps and cpu.",
)

isolate_option = click.option(
    "--isolate/--no-isolate",
    default=True,
    show_default=True,
    expose_value=False,
    callback=_isolate,
    help="Decode photos in separate processes, so that a hostile file that crashes, hangs or fills one costs only itself.",
)

calibration_option = click.option(
    "--calibration",
    "calibration_file",
    type=FILE_IN,
    help="What `outfinder calibrate` wrote.  [default: the one beside the weights, if any]",
)

overwrite_option = click.option("--overwrite", is_flag=True, help="Replace outputs that exist.")

set_options = combined(
    click.argument("data", metavar="DATA...", nargs=-1, required=True, type=EXISTING),
    click.option("--item-pattern", metavar="REGEX", default="", help="Finds the item id in a file name."),
)

result_options = combined(
    click.option("-o", "--output", type=FILE_OUT, help="Write .jsonl or .csv instead of standard output."),
    click.option("--delimiter", type=click.Choice([",", ";", "tab"]), default=",", show_default=True,
                 callback=lambda _ctx, _parameter, value: "\t" if value == "tab" else value,
                 help="Of a .csv; Excel expects ; where numbers have a decimal comma."),
    click.option("--resume", is_flag=True, help="Continue the outputs of an interrupted run: same photos, same options."),
    overwrite_option,
)  # fmt: skip


def config_options(*stages: str) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Options for fields of a :class:`~pipeline.config.Config`; the command gets those given as the dict ``settings``.

    Args:
        stages: of ``detector``, ``crop``, ``embedder``, ``index`` and ``pace``.
    """

    def decorate(command: Callable[..., R]) -> Callable[..., R]:
        @wraps(command)
        def run(**options: Any) -> R:
            given = {name: options.pop(name) for name in _SETTINGS if name in options}
            settings = {name: value for name, value in given.items() if value is not None}
            return command(settings=settings, **options)

        choices = [option for stage in stages for option in _CONFIG_OPTIONS[stage]]
        return combined(*choices, device_option, isolate_option)(run)

    return decorate


def given_options() -> dict[str, str]:
    """Return the options of the current command that were given on the command line, by their long names."""
    context = click.get_current_context()
    given = {}
    for parameter in context.command.params:
        name = parameter.name or ""
        if isinstance(parameter, click.Option) and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            value = context.params.get(name)
            shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            given[max(parameter.opts, key=len)] = "yes" if value is True else shown
    return given


def friendly(command: Callable[P, R]) -> Callable[P, R]:
    """Turn expected errors into one line and exit status 2, Ctrl-C into 130, and SIGTERM into 143."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        _refuse_empty_values()
        try:
            with _signals():
                return command(*args, **kwargs)
        except KeyboardInterrupt as error:
            terminated = isinstance(error, Terminated)
            click.echo(f"outfinder: {'terminated' if terminated else 'interrupted'}", err=True)
            sys.exit(TERMINATED if terminated else INTERRUPTED)
        except (OutfinderError, ValueError) as error:
            click.echo(f"outfinder: {_message(error)}", err=True)
            sys.exit(NOTHING_RAN)
        except BrokenPipeError:  # a reader such as head has read enough
            _discard_output()
            sys.exit(0)
        except OSError as error:
            what, reason = _message(error.filename or "output"), error.strerror or _message(error)
            click.echo(f"outfinder: {what}: {reason}", err=True)
            _discard_output()
            sys.exit(NOTHING_RAN)

    return run


def _refuse_empty_values() -> None:
    """Refuse empty values of options and arguments, which come from unset variables; a default is not what was meant."""
    context = click.get_current_context()
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        given = context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
        if given and (value == "" or (isinstance(value, tuple) and "" in value)):
            message = "It is empty; give it a value, or leave it out."
            raise click.BadParameter(message, context, parameter)


class Terminated(KeyboardInterrupt):
    """SIGTERM was received; what Ctrl-C leaves in order is left in order."""


@contextmanager
def _signals() -> Iterator[None]:
    """Raise KeyboardInterrupt at Ctrl-C and :class:`Terminated` at SIGTERM, unless someone else handles them."""

    def terminate(_signal: int, _frame: object) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
        raise Terminated

    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: terminate}
    main_thread = threading.current_thread() is threading.main_thread()  # the only one that receives signals
    unhandled = [name for name in handlers if main_thread and signal.getsignal(name) == signal.SIG_DFL]
    try:
        for name in unhandled:
            signal.signal(name, handlers[name])
        yield
    finally:
        for name in unhandled:
            signal.signal(name, signal.SIG_DFL)


def _discard_output() -> None:
    """Discard what standard output has not flushed yet, after its error has been reported."""
    with suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def print_problems(photos: Dataset) -> None:
    """Print the problems and notes of a photo set on standard error."""
    if photos.problems or photos.notes:
        click.echo(photos.describe(), err=True)


@dataclass(frozen=True, slots=True)
class FigureOutputs:
    """Where a command writes its figures besides standard output: a folder for a page, and a JSON file."""

    page: Path | None
    json_file: Path | None
    overwrite: bool

    def prepare(self) -> None:
        """Refuse outputs that exist, before a long run."""
        from pipeline.evaluation_pages import prepare_page

        if self.json_file and self.json_file != Path("-"):
            check_file(self.json_file, overwrite=self.overwrite)
        if self.page:
            prepare_page(self.page, overwrite=self.overwrite)

    def finish(self, figures: Mapping[str, Any], table: str, *, failed: bool) -> NoReturn:
        """Print the table, or the figures as JSON if their file is ``-``, and exit."""
        if self.page:
            click.echo(f"page: {self.page / 'index.html'}", err=True)
        text = json.dumps(figures, indent=2)
        if self.json_file and self.json_file != Path("-"):
            self.json_file.write_text(text + "\n", encoding="ascii")
        click.echo(text if self.json_file == Path("-") else table)
        sys.exit(SOME_FAILED if failed else 0)


def figure_options(command: Callable[..., R]) -> Callable[..., R]:
    """``-o``, ``--json`` and ``--overwrite``; the command gets them as the :class:`FigureOutputs` ``outputs``."""

    @wraps(command)
    def run(output: Path | None, json_file: Path | None, overwrite: bool, **options: Any) -> R:
        return command(outputs=FigureOutputs(output, json_file, overwrite), **options)

    return combined(
        click.option("-o", "--output", type=FOLDER, help="Write a page with figures and pictures into this folder."),
        click.option("--json", "json_file", type=PathArgument(dir_okay=False, allow_dash=True),
                     help="Write the figures as JSON; - for standard output."),
        overwrite_option,
    )(run)  # fmt: skip


def printable(name: str) -> str:
    r"""Return a file name as one line without control characters, whatever bytes are in it.

    >>> print(printable("a\nb\x1b[31m\udce9 größe.jpg"))
    a\nb\x1b[31m\udce9 größe.jpg
    """
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in name)


def _message(error: object) -> str:
    return "\n".join(map(printable, str(error).split("\n")))
