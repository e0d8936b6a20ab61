"""Make a data set of episodes out of a folder of CSV time series.

python -m collection.import_csv FOLDER --description import.toml --out DIR [--pack FILE.tar.zst]

The description says what the files and columns mean; etc/import.toml.example explains every key. The import is all or
nothing: when a row cannot be used, every fault is told with file and line, and no data set appears.

Exit codes (sysexits): 0 imported; 64 wrong command line; 65 rows that cannot be imported; 66 nothing to import; 70 a
defect; 73 the target exists or cannot be written; 75 stopped by a signal; 78 the description is wrong.
"""

import argparse
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from cis490.progress import Meter
from collection.importing.description import load
from collection.importing.errors import ImportFailed
from collection.importing.folder import import_folder
from collection.importing.summary import told

USAGE, DEFECT, STOPPED = 64, 70, 75


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"import_csv: {message}; see --help\n")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="python -m collection.import_csv",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="holds the CSV files; only read")
    parser.add_argument(
        "--description", type=Path, required=True, metavar="FILE", help="TOML: what they mean"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the new folder of episodes")
    parser.add_argument(
        "--pack", type=Path, metavar="FILE", help="also write the archive that a manifest names"
    )
    return parser.parse_args(argv)


def _import(arguments: argparse.Namespace) -> str:
    description = load(arguments.description)

    def bar(total: int) -> Meter:
        return Meter("importing", sys.stderr, total=total, unit="rows", now_s=time.monotonic)

    def say(text: str) -> None:
        print(f"import_csv: {text}", file=sys.stderr, flush=True)

    imported = import_folder(arguments.folder, description, arguments.out, arguments.pack, bar, say)
    return told(imported, description, arguments.out, arguments.pack)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code; after a failure its reason stands on standard error."""
    arguments = _arguments(argv)
    # A terminal that is closed sends SIGHUP: Windows has none, and nohup ignores it.
    stops = [signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        stops.append(signal.SIGHUP)
    before = {number: signal.signal(number, signal.default_int_handler) for number in stops}
    try:
        print(_import(arguments), end="")
        return 0
    except ImportFailed as error:
        for line in str(error).splitlines():
            print(f"import_csv: {line}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("import_csv: stopped; nothing was imported", file=sys.stderr)
        return STOPPED
    except Exception as error:  # noqa: BLE001 - the last place that can tell a person what happened
        traceback.print_exc()
        print(
            f"import_csv: internal error ({type(error).__name__}: {error}); nothing was imported",
            file=sys.stderr,
        )
        return DEFECT
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    raise SystemExit(main())
