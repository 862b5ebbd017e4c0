"""What a runner says of a job that failed: one line, and what to do.

A job far away fails with its workers' traceback, its service's and this machine's
around the reason. Beam's local runner is this program: there, what isn't a user's
mistake stays a traceback.
"""

import re
import tempfile
import traceback

from unet_tfrecords.command.errors import UserError, of_disk

# A worker's exception arrives as text, with the worker's traceback around it.
WORKERS_OWN = re.compile(
    r"^.*(?:errors\.UserError: |OSError: |Error: (?=\[Errno))(.*?)(?: \[while|$)", re.M
)
OF_DISK = re.compile(r"""\[Errno (\d+)\] ([^:]*): ('[^']*'|"[^"]*")""")
DOCKER = (
    "no container could be started there; see that Docker runs, and its image can be "
    "had (--environment_config=IMAGE), or choose another --environment_type "
    "(LOOPBACK, EXTERNAL, PROCESS)"
)
# What is found in a runner's words, and the line that it becomes.
KNOWN = (
    (
        r"Unable to fetch remote job server jar at (\S+):",
        "Beam's job server can't be fetched ({0}); fetch it elsewhere and give its "
        "file (--flink_job_server_jar, --spark_job_server_jar), or --job_endpoint of "
        "a job server that runs",
    ),
    (
        r"Unable to fetch remote prism binary at (\S+):",
        "Prism can't be fetched ({0}); fetch it elsewhere and give its file with "
        "--prism_location=FILE (docs/runners.md)",
    ),
    (
        r"NoResourceAvailableException|TimeoutException: Timeout has occurred",
        "no worker is left there, or none has enough free slots; start one, then run "
        "this again to go on",
    ),
    (
        r"Service failed to start up",
        "Beam's job server ended at its start; its own lines are above",
    ),
    (r"\['docker', |directory: 'docker'", DOCKER),
    (
        r"StatusCode\.UNAVAILABLE",
        "the job service{pool} does not answer; start it, then run this again to go on",
    ),
    (r"State: CANCELLED", "cancelled there; run this again to go on"),
)


def explained(error: Exception, engine: str, *, local: bool, given: dict) -> Exception:
    """What to raise for what a job has raised.

    Args:
      error: as the runner raised it.
      engine: the runner's name, as the user gave it.
      local: whether that is Beam's local one.
      given: Beam's options.

    Returns:
      A UserError of one line, or the error itself where it is this program's fault.
    """
    if isinstance(error, UserError):
        return error
    text, pool = str(error), given["environment_config"]
    pool = (
        f", or a worker pool that it was sent to (--environment_config={pool}),"
        if pool
        else ""
    )
    given = {**given, "pool": pool}
    if text.startswith("Pipeline has validations errors"):
        return UserError([f"--runner={engine}: {t}" for t in text.splitlines()[1:]])
    for pattern, line in () if local else KNOWN:
        if found := re.search(pattern, text):
            return UserError(
                f"--runner={engine}: {line.format(*found.groups(), **given)}"
            )
    if own := WORKERS_OWN.findall(text):
        return UserError(_told(own[-1]))  # those before are what it was raised from
    if local or isinstance(error, OSError):  # which every command tells in one line
        return error
    return UserError(f"--runner={engine}: {_telling_line(error)}{_kept(error)}")


def _told(line: str) -> str:
    """What a worker said, and the errors of a disk as every command tells them."""
    if not (found := OF_DISK.fullmatch(line)):
        return line
    return of_disk(OSError(int(found[1]), found[2], found[3].strip("'\"")))


def _telling_line(error: Exception) -> str:
    """The last line of what was said, that of a nested traceback too."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:500] if lines else type(error).__name__


def _kept(error: Exception) -> str:
    """Writes all that was said to a file; where it lies, for the line's end."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="preprocess-", suffix=".log", delete=False
    ) as file:
        file.write("".join(traceback.format_exception(error)))
    return f"; all that was said: {file.name}"
