"""Errors that a user of avslib is meant to read: one class and one stable code for each kind of remedy.

The command line prints the message with its code and exits with `exit_code`. The README explains the codes in a table
made from the classes below. A code keeps its meaning once it is published.
"""

import re
from collections.abc import Callable
from typing import TypeVar


class AvsError(ValueError):
    """Bad input, explained in one sentence: what is wrong and where, what was expected, what to do.

    Only the classes below are raised.
    """

    code, remedy, exit_code = "AVS000", "", 2

    def __init__(self, message: str = ""):
        # PyTorch re-raises a worker's error with the whole traceback as its text; the message comes last
        if re.match(r"Caught \w+ in DataLoader worker", message):
            message = message.rpartition(f"{type(self).__name__}: ")[2].strip()
        super().__init__(message)


Kind = TypeVar("Kind", bound=type[AvsError])
KINDS: dict[str, type[AvsError]] = {}  # by code


def _kind(code: str, remedy: str, exit_code: int = 2) -> Callable[[Kind], Kind]:
    def declare(kind: Kind) -> Kind:
        kind.code, kind.remedy, kind.exit_code = code, remedy, exit_code
        KINDS[code] = kind
        return kind

    return declare


@_kind("AVS101", "Pass what the message asks for; `avs COMMAND --help` lists the options.")
class UsageError(AvsError):
    """An option, argument or value that the command or function does not accept."""


@_kind("AVS102", "`avs config PRESET` lists the fields and what they mean.")
class ConfigError(AvsError):
    """A preset, YAML file, grid or `-o` override with an unknown field or a value out of range."""


@_kind("AVS103", "Install what the message names; `avs doctor` shows what else is missing.")
class InstallError(AvsError):
    """A package, program, device or part of the repository that this command needs is missing."""


@_kind("AVS201", "`avs data check DIR` lists every fault; `--fix-list` writes the clips to leave out.")
class DataError(AvsError):
    """The data folder, its csv or the files of a clip are missing or not in AVSBench's layout."""


@_kind("AVS202", "Get or export the file again.")
class PictureError(AvsError):
    """A frame or mask that is damaged, too large, of the wrong size or not binary."""


@_kind("AVS203", "Convert it to 16 kHz WAV.")
class SoundError(AvsError):
    """A sound file or waveform that is damaged, too short, too long, or has an unsupported rate or shape."""


@_kind("AVS204", "Convert it to mp4; pass the sound with `--audio`.")
class VideoError(AvsError):
    """A video that cannot be decoded, is cut off, lacks pictures or sound, or exceeds a limit."""


@_kind("AVS205", "Nothing in it was run; get the file again from its authors.")
class LogMelError(AvsError):
    """A log-mel pickle that is damaged, does not hold a tensor, or asks for more than a tensor needs."""


@_kind("AVS206", "Pack the clips again with `avs data pack`.")
class PackedError(AvsError):
    """Packed shards or their index that are damaged, missing or of an unknown format."""


@_kind("AVS207", "Repair them, or leave them out with `data.skip`.")
class BadClipsError(AvsError):
    """More training clips than `data.max_corrupt` allows could not be read."""


@_kind("AVS301", "Pass the whole checkpoint folder, with the config that it was trained with.")
class WeightsError(AvsError):
    """Weights that are missing, damaged, from a different network, or more than tensors."""


@_kind("AVS401", "Choose a different path with `--out`; nothing there was changed.")
class OutputError(AvsError):
    """The output path holds something else, is in use, or cannot be written."""


@_kind("AVS402", "Resume with the original settings, or start in a new folder.")
class RunStateError(AvsError):
    """The saved state of a run is damaged, or belongs to a different configuration or number of processes."""


@_kind("AVS403", "Restore it from git, or produce it again.")
class RecordError(AvsError):
    """A run record, table mark or other result that is missing, damaged or edited."""


@_kind("AVS404", "Free some space, then continue with `--resume`.")
class DiskFullError(AvsError):
    """The disk is full or a quota is reached; the previous file is intact."""


@_kind("AVS501", "Lower `train.lr` or set `train.clip_grad`; the batch is kept in the run's folder.")
class NonFiniteError(AvsError):
    """A loss, embedding or logit is NaN or infinite."""


@_kind("AVS502", "Use the smaller batch that the message names, `train.checkpointing` or bf16.")
class MemoryLimitError(AvsError):
    """The GPU or the machine ran out of memory."""


@_kind("AVS503", "Usually out of memory: lower `data.workers`, then continue with `--resume`.")
class WorkerError(AvsError):
    """A process that reads data died."""


@_kind("AVS504", "Start them with the same settings, on a disk that all of them share.")
class ProcessesError(AvsError):
    """Processes that train together cannot find each other, or disagree."""


@_kind("AVS505", "Continue with `--resume`.", exit_code=75)
class Preempted(AvsError):
    """SIGTERM arrived and the state is saved; the exit code is 75 (EX_TEMPFAIL: try again later)."""


@_kind("AVS601", "`avs notebooks list` shows the parameters.")
class NotebookError(AvsError):
    """A notebook, its parameter or a widget got something that it does not know."""


@_kind("AVS602", "Start them and run the same command again: finished runs are kept.")
class SweepError(AvsError):
    """The workers or the scheduler of a sweep do not answer, or lack the data."""


@_kind("AVS900", "Report it with the file that the message names; `avs -v COMMAND` prints the traceback.", exit_code=70)
class InternalError(AvsError):
    """Something that avslib did not expect, which is a bug."""
