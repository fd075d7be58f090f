"""The C library's memory allocator."""

import ctypes

# The constants of glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Keeps freed memory in this process, where glibc would return it to the system: see mallopt(3).

    The records of a batch come and go every few milliseconds. The system clears each page that it hands out again, which took a
    third of the time of an input pipeline from raw shards. Other C libraries are left as they are.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_M_TRIM_THRESHOLD, _NEVER)
