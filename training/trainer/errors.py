"""What can end a training run early. The text is one sentence for the operator; the class carries the exit
code.

    TrainerError
      Usage         64  the command line is wrong
      BadData       65  an episode or the data set cannot be trained on
      MissingData   66  there is no data at the given place
      Unavailable   69  this host or this trainer lacks something: a library, a model
      OutOfMemory   71  retry on a host with more memory
      CannotWrite   73  the output folder or the progress file cannot be written
      Preempted     75  stopped by SIGTERM; the job may be handed out again
      BadConfig     78  the job itself is wrong; trying again will not help

The codes are those of BSD's sysexits.h. Anything else is a defect of the trainer and exits with 70.
"""

INTERNAL_ERROR = 70


class TrainerError(Exception):
    """A training run that cannot go on, with the reason as one sentence."""

    exit_code = INTERNAL_ERROR


class Usage(TrainerError):
    """The command line is wrong."""

    exit_code = 64


class BadData(TrainerError):
    """An episode or the data set cannot be trained on; the text names the file and what was found."""

    exit_code = 65


class MissingData(TrainerError):
    """No data at the given place."""

    exit_code = 66


class Unavailable(TrainerError):
    """This host or this trainer lacks something; the text says what to install or where to look."""

    exit_code = 69


class OutOfMemory(TrainerError):
    """The host has too little memory for the job."""

    exit_code = 71


class CannotWrite(TrainerError):
    """The output folder or the progress file cannot be written."""

    exit_code = 73


class Preempted(TrainerError):
    """SIGTERM arrived; nothing is wrong with the job."""

    exit_code = 75


class BadConfig(TrainerError):
    """The job's specification is wrong; the text names the key."""

    exit_code = 78
