"""A process that reads mutated files and says what came of it.

    python -m tests.robustness.worker FOLDER FIRST LAST KIND...

It appends a line to FOLDER/progress before each file and after each failure, so that its parent knows which file a
signal came of. A read may end in a result or a `UserError` of one line, within `SECONDS`; nothing beside the file may
change.
"""

import json
import resource
import signal
import sys
import traceback
import warnings
from pathlib import Path

from mdtree_jax.checks import UserError, printable
from tests.robustness.kinds import KINDS
from tests.robustness.mutations import mutated

SECONDS = 10
#: Address space beside what the process has, bytes: who asks for more gets a MemoryError.
ROOM = 3 * 2**30


def out_of_time(*_):
    raise TimeoutError(f"more than {SECONDS} s")


def start_clock() -> None:
    """Give what follows `SECONDS` of processor time, and, should it wait, many more of the clock on the wall."""
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, out_of_time)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(30 * SECONDS)


def stop_clock() -> None:
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.alarm(0)


def fault_of(read, path) -> str:
    """Return what is wrong with reading a file, '' if nothing is."""
    start_clock()
    try:
        read(path)
    except UserError as error:
        message = str(error)
        return "" if message.strip() and message == printable(message) else f"a sentence that is no line: {message!r}"
    except BaseException:
        return traceback.format_exc()
    finally:
        stop_clock()
    return ""


def main(folder: Path, first: int, last: int, names: list[str]) -> None:
    warnings.simplefilter("ignore")
    with (folder / "progress").open("a", buffering=1) as progress:
        for kind in KINDS:
            if kind.name not in names:
                continue
            place = folder / kind.file
            content = kind.make()
            place.write_bytes(content)
            assert fault_of(kind.read, place) == "", kind.name
            kind.read(place)
            limit_memory()
            for number in range(first, last):
                progress.write(json.dumps([kind.name, number, None]) + "\n")
                damaged = mutated(content, number)
                place.write_bytes(damaged)
                fault = fault_of(kind.read, place)
                if not fault and place.read_bytes() != damaged:
                    fault = "the file was changed"
                if fault:
                    progress.write(json.dumps([kind.name, number, fault]) + "\n")
            place.unlink()
        progress.write(json.dumps(["", last, None]) + "\n")


def limit_memory() -> None:
    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:  # no Linux
        return
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, resource.getrlimit(resource.RLIMIT_AS)[1]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
