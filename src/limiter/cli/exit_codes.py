"""What the process tells the shell: one number for each way a command can end."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of every command. Numbers are never reused."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    DENIED = 3
    INVALID = 4
    NOT_FOUND = 5
    UNAVAILABLE = 6
    CONFLICT = 7
    EXHAUSTED = 8
    DEADLINE = 9
    DIFFERENT = 10
    DECLINED = 11
    REFUSED = 12


MEANINGS: dict[ExitCode, str] = {
    ExitCode.OK: "done; of check, commit and watch --until-allowed: allowed",
    ExitCode.FAILURE: "an unexpected failure, inside the server or here",
    ExitCode.USAGE: "the command line is wrong",
    ExitCode.DENIED: "check or commit: the attempt is denied; watch --until-allowed: it is still",
    ExitCode.INVALID: "a file or a request breaks a rule",
    ExitCode.NOT_FOUND: "there is no such policy or assignment",
    ExitCode.UNAVAILABLE: "no server answers, or it cannot answer now",
    ExitCode.CONFLICT: "it exists already, is in use, or has changed in between",
    ExitCode.EXHAUSTED: "a ceiling of the server is reached",
    ExitCode.DEADLINE: "no answer within the timeout; whether a commit counted is unknown",
    ExitCode.DIFFERENT: "diff: the server differs from the file",
    ExitCode.DECLINED: "the question was answered with no; nothing was changed",
    ExitCode.REFUSED: "no key was shown, one that is not good, or one that may not do this",
}
"""One line for each code, as `--help` and the README print it."""

assert set(MEANINGS) == set(ExitCode), "every exit code has a meaning"


def help_text() -> str:
    """All exit codes with their meanings, one a line."""
    return "\n".join(f"{code.value:>2}  {meaning}" for code, meaning in MEANINGS.items())
