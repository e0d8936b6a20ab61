"""What the trainer's programs share: arguments, exit codes, and the last line of standard error."""

import argparse
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from training.trainer.errors import INTERNAL_ERROR, OutOfMemory, TrainerError, Usage


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that exits with 64 (sysexits) where argparse would exit with 2."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise Usage; `sentence_exit` prints it."""
        raise Usage(f"{message}; see {self.prog} --help")


def one_blas_thread() -> None:
    """Must run before numpy is imported. More threads change the order of additions, and with it the
    result. Where there are several all the same (LightGBM with --threads), they wait asleep: spinning, two of them
    were seen to take ten times as long on a busy host."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
        os.environ[name] = "1"


def out_of_memory_text(error: BaseException) -> str:
    """What a person needs to know when main memory ran out: what was asked for, the peak, and what there is."""
    asked = f" ({error})" if str(error) else ""
    peak_bytes, ram_bytes = peak_rss_bytes(), _ram_bytes()
    peak = "" if peak_bytes is None else f"; this process held at most {peak_bytes / GIB:.2f} GiB"
    ram = "" if ram_bytes is None else f", this host has {ram_bytes / GIB:.1f} GiB of RAM"
    return (
        f"out of memory{asked}{peak}{ram}. Run the job on a host with more RAM (min_ram_gib), or make the windows "
        "fewer (larger stride_s) or the model smaller"
    )


GIB = 1024**3


def peak_rss_bytes() -> int | None:
    """Largest resident size of this process so far; None where the system does not tell."""
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _ram_bytes() -> int | None:
    if sys.platform == "win32":
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def sentence_exit(
    program: str, work: Callable[[], str], on_end: Callable[[int, str], None] = lambda code, text: None
) -> int:
    """Do the work, which returns its closing sentence, and turn every error into an exit code.

    The last line of standard error is one sentence for a person; an unexpected error shows its traceback
    first. `on_end` gets the code and the sentence.
    """
    try:
        code, text = 0, work()
    except TrainerError as error:
        code, text = error.exit_code, str(error)
    except MemoryError as error:
        code, text = OutOfMemory.exit_code, out_of_memory_text(error)
    except KeyboardInterrupt:
        code, text = 130, "interrupted from the keyboard"
    except SystemExit:  # --help
        raise
    except BaseException as error:  # noqa: BLE001 - nothing may end without a sentence, not even a panic of Rust
        traceback.print_exc()
        code, text = (
            INTERNAL_ERROR,
            f"internal error ({type(error).__name__}: {error}); please report the lines above",
        )
    text = " ".join(text.split())
    on_end(code, text)
    print(f"{program}: {text}", file=sys.stderr, flush=True)
    return code
