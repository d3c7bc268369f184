"""What is wrong, in one line."""


def one_line(error: BaseException) -> str:
    """An exception's message on one line, its kind where it has none."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename!r}" if error.filename is not None else error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, for those of libraries, which may go on for pages."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
