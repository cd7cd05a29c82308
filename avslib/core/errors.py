"""The errors that a user of avslib is meant to read: one class, and one stable code, for each kind of remedy.

The command line prints the sentence with its code and exits with `exit_code`. The codes are explained in the README,
in a table made of the classes below: a code, once given out, keeps its meaning.
"""

import re


class AvsError(ValueError):
    """Bad input, told in one sentence: what is wrong and where, what was expected, what to do.

    From Python it is an ordinary ``ValueError``. What is raised is always one of the classes below.
    """

    code = "AVS000"
    remedy = ""
    exit_code = 2

    def __init__(self, message: str = ""):
        # PyTorch raises a worker's error again as the text of its whole traceback; the sentence stands at its end
        if re.match(r"Caught \w+ in DataLoader worker", message):
            message = message.rpartition(f"{type(self).__name__}: ")[2].strip()
        super().__init__(message)


class UsageError(AvsError):
    """An option, argument or value that the command or function does not take."""

    code = "AVS101"
    remedy = "Give what the sentence says; `avs COMMAND --help` lists the options."


class ConfigError(AvsError):
    """A preset, YAML file, grid or `-o` override with an unknown field or a value out of range."""

    code = "AVS102"
    remedy = "`avs config PRESET` lists the fields with what they mean."


class InstallError(AvsError):
    """A package, program, device or part of the repository that this command needs is not here."""

    code = "AVS103"
    remedy = "Install what the sentence names; `avs doctor` shows what else is missing."


class DataError(AvsError):
    """The data folder, its csv or a clip's files are missing or not as AVSBench lays them out."""

    code = "AVS201"
    remedy = "`avs data check DIR` lists all that is wrong; `--fix-list` writes the clips to leave out."


class PictureError(AvsError):
    """A frame or mask that is damaged, too large, of another size or not binary."""

    code = "AVS202"
    remedy = "Get or export the file again."


class SoundError(AvsError):
    """A sound file or waveform that is damaged, too short, too long, or of an odd rate or shape."""

    code = "AVS203"
    remedy = "Convert it to 16 kHz WAV."


class VideoError(AvsError):
    """A video that cannot be decoded, breaks off, has no picture or no sound, or exceeds a limit."""

    code = "AVS204"
    remedy = "Convert it to mp4; give the sound by `--audio`."


class LogMelError(AvsError):
    """A log-mel pickle that is damaged, is no tensor, or asks for more than a tensor needs."""

    code = "AVS205"
    remedy = "Nothing in it was run; get the file again from its authors."


class PackedError(AvsError):
    """Packed shards or their index that are damaged, missing or of another kind."""

    code = "AVS206"
    remedy = "Pack the clips again by `avs data pack`."


class BadClipsError(AvsError):
    """More clips than `data.max_corrupt` allows could not be read in training."""

    code = "AVS207"
    remedy = "Mend them, or leave them out by `data.skip`."


class WeightsError(AvsError):
    """Weights that are missing, damaged, of another network, or more than tensors."""

    code = "AVS301"
    remedy = "Give the whole checkpoint folder, with the config that it was trained with."


class OutputError(AvsError):
    """The place to write to holds something else, is in use, or cannot be written."""

    code = "AVS401"
    remedy = "Name another by `--out`; nothing there was changed."


class RunStateError(AvsError):
    """The saved state of a run is damaged, or of another configuration or number of processes."""

    code = "AVS402"
    remedy = "Resume with the same ones, or start in a new folder."


class RecordError(AvsError):
    """A run record, table mark or other result that is missing, damaged or edited."""

    code = "AVS403"
    remedy = "Restore it from git, or make it again."


class DiskFullError(AvsError):
    """The disk is full, or a quota is reached; what was there before is whole."""

    code = "AVS404"
    remedy = "Make room, then go on with `--resume`."


class NonFiniteError(AvsError):
    """A loss, embedding or logit is NaN or infinite."""

    code = "AVS501"
    remedy = "Lower `train.lr`, set `train.clip_grad`; the batch is kept in the run's folder."


class MemoryLimitError(AvsError):
    """Memory ran out, of the GPU or of the machine."""

    code = "AVS502"
    remedy = "Take the smaller batch that the sentence names, `train.checkpointing` or bf16."


class WorkerError(AvsError):
    """A process that reads data died."""

    code = "AVS503"
    remedy = "Mostly want of memory: fewer `data.workers`; go on with `--resume`."


class ProcessesError(AvsError):
    """Processes that train together cannot find each other, or disagree."""

    code = "AVS504"
    remedy = "Start them alike, on a disk that all share."


class Preempted(AvsError):
    """SIGTERM came, and the state is saved; the exit code is 75 (EX_TEMPFAIL: try again later)."""

    code = "AVS505"
    remedy = "Go on with `--resume`."
    exit_code = 75


class NotebookError(AvsError):
    """A notebook, its parameter or a widget got something that it does not know."""

    code = "AVS601"
    remedy = "`avs notebooks list` shows the parameters."


class SweepError(AvsError):
    """The workers or the scheduler of a sweep do not answer, or lack the data."""

    code = "AVS602"
    remedy = "Start them, and give the same command again: finished runs are kept."


class InternalError(AvsError):
    """Something that avslib did not foresee, which is a bug."""

    code = "AVS900"
    remedy = "Report it with the file that the sentence names; `avs -v COMMAND` prints the traceback."
    exit_code = 70


def kinds() -> list[type[AvsError]]:
    """All kinds of error in order of their codes."""
    return sorted((kind for kind in AvsError.__subclasses__() if kind.__module__ == __name__), key=lambda k: k.code)


def plain_kind(error: AvsError) -> type[AvsError]:
    """The kind of an error that one sentence makes again: a subclass may ask for more.

    >>> class Detailed(VideoError): ...
    >>> plain_kind(Detailed("a.mp4: breaks off")).__name__
    'VideoError'
    """
    return next(kind for kind in type(error).__mro__ if kind in (*kinds(), AvsError))


def explained() -> str:
    """The codes as a Markdown table: what happened, and what to do."""
    lines = ["| code | from Python | what happened | what to do |", "| --- | --- | --- | --- |"]
    for kind in kinds():
        lines.append(f"| {kind.code} | `{kind.__name__}` | {' '.join(kind.__doc__.split())} | {kind.remedy} |")
    return "\n".join(lines) + "\n"
