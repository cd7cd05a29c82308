"""Errors that a user of avslib is meant to read: one class and one stable code for each kind of remedy.

The command line prints the message with its code and exits with `exit_code`. The README explains the codes in a table
made from the classes below. A code keeps its meaning once it is published.
"""

import re


class AvsError(ValueError):
    """Bad input, explained in one sentence: what is wrong and where, what was expected, what to do.

    It is an ordinary ``ValueError`` in Python. Only the classes below are raised.
    """

    code = "AVS000"
    remedy = ""
    exit_code = 2

    def __init__(self, message: str = ""):
        # PyTorch re-raises a worker's error with the whole traceback as its text; the message comes last
        if re.match(r"Caught \w+ in DataLoader worker", message):
            message = message.rpartition(f"{type(self).__name__}: ")[2].strip()
        super().__init__(message)


class UsageError(AvsError):
    """An option, argument or value that the command or function does not accept."""

    code = "AVS101"
    remedy = "Pass what the message asks for; `avs COMMAND --help` lists the options."


class ConfigError(AvsError):
    """A preset, YAML file, grid or `-o` override with an unknown field or a value out of range."""

    code = "AVS102"
    remedy = "`avs config PRESET` lists the fields and what they mean."


class InstallError(AvsError):
    """A package, program, device or part of the repository that this command needs is missing."""

    code = "AVS103"
    remedy = "Install what the message names; `avs doctor` shows what else is missing."


class DataError(AvsError):
    """The data folder, its csv or the files of a clip are missing or not in AVSBench's layout."""

    code = "AVS201"
    remedy = "`avs data check DIR` lists every fault; `--fix-list` writes the clips to leave out."


class PictureError(AvsError):
    """A frame or mask that is damaged, too large, of the wrong size or not binary."""

    code = "AVS202"
    remedy = "Get or export the file again."


class SoundError(AvsError):
    """A sound file or waveform that is damaged, too short, too long, or has an unsupported rate or shape."""

    code = "AVS203"
    remedy = "Convert it to 16 kHz WAV."


class VideoError(AvsError):
    """A video that cannot be decoded, is cut off, lacks pictures or sound, or exceeds a limit."""

    code = "AVS204"
    remedy = "Convert it to mp4; pass the sound with `--audio`."


class LogMelError(AvsError):
    """A log-mel pickle that is damaged, does not hold a tensor, or asks for more than a tensor needs."""

    code = "AVS205"
    remedy = "Nothing in it was run; get the file again from its authors."


class PackedError(AvsError):
    """Packed shards or their index that are damaged, missing or of an unknown format."""

    code = "AVS206"
    remedy = "Pack the clips again with `avs data pack`."


class BadClipsError(AvsError):
    """More training clips than `data.max_corrupt` allows could not be read."""

    code = "AVS207"
    remedy = "Repair them, or leave them out with `data.skip`."


class WeightsError(AvsError):
    """Weights that are missing, damaged, from a different network, or more than tensors."""

    code = "AVS301"
    remedy = "Pass the whole checkpoint folder, with the config that it was trained with."


class OutputError(AvsError):
    """The output path holds something else, is in use, or cannot be written."""

    code = "AVS401"
    remedy = "Choose a different path with `--out`; nothing there was changed."


class RunStateError(AvsError):
    """The saved state of a run is damaged, or belongs to a different configuration or number of processes."""

    code = "AVS402"
    remedy = "Resume with the original settings, or start in a new folder."


class RecordError(AvsError):
    """A run record, table mark or other result that is missing, damaged or edited."""

    code = "AVS403"
    remedy = "Restore it from git, or produce it again."


class DiskFullError(AvsError):
    """The disk is full or a quota is reached; the previous file is intact."""

    code = "AVS404"
    remedy = "Free some space, then continue with `--resume`."


class NonFiniteError(AvsError):
    """A loss, embedding or logit is NaN or infinite."""

    code = "AVS501"
    remedy = "Lower `train.lr` or set `train.clip_grad`; the batch is kept in the run's folder."


class MemoryLimitError(AvsError):
    """The GPU or the machine ran out of memory."""

    code = "AVS502"
    remedy = "Use the smaller batch that the message names, `train.checkpointing` or bf16."


class WorkerError(AvsError):
    """A process that reads data died."""

    code = "AVS503"
    remedy = "Usually out of memory: lower `data.workers`, then continue with `--resume`."


class ProcessesError(AvsError):
    """Processes that train together cannot find each other, or disagree."""

    code = "AVS504"
    remedy = "Start them with the same settings, on a disk that all of them share."


class Preempted(AvsError):
    """SIGTERM arrived and the state is saved; the exit code is 75 (EX_TEMPFAIL: try again later)."""

    code = "AVS505"
    remedy = "Continue with `--resume`."
    exit_code = 75


class NotebookError(AvsError):
    """A notebook, its parameter or a widget got something that it does not know."""

    code = "AVS601"
    remedy = "`avs notebooks list` shows the parameters."


class SweepError(AvsError):
    """The workers or the scheduler of a sweep do not answer, or lack the data."""

    code = "AVS602"
    remedy = "Start them and run the same command again: finished runs are kept."


class InternalError(AvsError):
    """Something that avslib did not expect, which is a bug."""

    code = "AVS900"
    remedy = "Report it with the file that the message names; `avs -v COMMAND` prints the traceback."
    exit_code = 70


def kinds() -> list[type[AvsError]]:
    """All kinds of error in the order of their codes."""
    return sorted((kind for kind in AvsError.__subclasses__() if kind.__module__ == __name__), key=lambda k: k.code)


def plain_kind(error: AvsError) -> type[AvsError]:
    """The class above that can be rebuilt from the message; a subclass may need more arguments.

    >>> class Detailed(VideoError): ...
    >>> plain_kind(Detailed("a.mp4: cut off")).__name__
    'VideoError'
    """
    return next(kind for kind in type(error).__mro__ if kind in (*kinds(), AvsError))


def explained() -> str:
    """The codes as a Markdown table: what happened and what to do."""
    rows = [f"| {k.code} | `{k.__name__}` | {' '.join((k.__doc__ or '').split())} | {k.remedy} |" for k in kinds()]
    head = ["| code | from Python | what happened | what to do |", "| --- | --- | --- | --- |"]
    return "\n".join([*head, *rows]) + "\n"
