"""The outputs of a run, in one or several formats, which agree on the photos that are finished."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from pipeline.pipeline import Analysis
from pipeline.search import PhotoResult
from pipeline.writers import WRITERS, Options, Output, Writer, photo_key


class Outputs(AbstractContextManager["Outputs"]):
    """The outputs of one run, which agree on which photos are finished.

    Attributes:
        done: how many photos are finished.
        failed: how many of them could not be read.
    """

    def __init__(self, writers: Sequence[Writer]) -> None:
        self._writers = writers
        records = [writer.record for writer in writers if writer.record is not None]
        self._finished: Counter[str] = Counter()
        for number, record in enumerate(records):
            self._finished = record.photos & self._finished if number else record.photos.copy()
        self._extra = {id(one): one.record.photos - self._finished for one in writers if one.record is not None}
        self.done, self.failed = self._finished.total(), records[-1].failed if records else 0

    def remaining(self, paths: Iterable[Path]) -> Iterator[Path]:
        """Yield the photos still to be analysed: each as often as it is named, less the times that it is finished."""
        finished = self._finished.copy()
        for path in paths:
            key = photo_key(str(path))
            if finished[key]:
                finished[key] -= 1
            else:
                yield path

    def write(self, result: PhotoResult, analysis: Analysis | None = None) -> None:
        """Write one photo to every output that lacks it."""
        self.done += 1
        self.failed += result.error is not None
        key = photo_key(result.photo)
        for writer in self._writers:
            extra = self._extra.get(id(writer), Counter())
            if extra[key]:
                extra[key] -= 1
            else:
                writer.write(Output(result, analysis, self.done))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self._writers:
            writer.close(complete=kind is None)


def open_outputs(
    output: Path | None,
    others: Mapping[str, Path | None] | None = None,
    options: Options | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> Outputs:
    """Open the outputs of a run.

    Args:
        output: a file of results, ``.jsonl`` or ``.csv``; None means JSON lines on standard output.
        others: further outputs by format.
        options: of the formats.
        resume: continue the outputs of an interrupted run.
        overwrite: replace outputs that exist.

    Raises:
        ValueError: the file has another suffix, or no output can be resumed.
        OutfinderError: an output exists and is neither resumed nor overwritten, is not outfinder's, or is being
            written by another run.
        OSError: an output cannot be opened.
    """
    name = "jsonl" if output is None else output.suffix.lower().removeprefix(".")
    if name not in ("jsonl", "csv"):
        assert output is not None
        raise ValueError(
            f"results are written as .jsonl or .csv, got {output.suffix or 'no suffix'} in {output.name!r}"
        )
    paths = {**(others or {}), name: output}
    if resume and output is None and not paths.get("coco"):
        raise ValueError("--resume continues a file of results: name it with -o")
    wanted = [name for name in WRITERS if paths.get(name) or (name == "jsonl" and output is None)]
    writers: list[Writer] = []
    try:
        writers.extend(
            WRITERS[name](paths[name], options or Options(), resume=resume, overwrite=overwrite) for name in wanted
        )
    except BaseException:
        for writer in writers:
            writer.close(complete=False)
        raise
    return Outputs(writers)
