"""One place that knows where zstd lives: the standard library from Python 3.14 on, `backports.zstd` before."""

import sys

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["zstd"]
