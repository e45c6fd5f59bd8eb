"""The command line: flags in, exit status out, every error of the user's one line. It never imports JAX."""

import contextlib
import gc
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import flags
from absl import logging as absl_logging
from ml_collections import config_flags

from mmids_cnn.console import experiment_file, explain, signals
from mmids_cnn.console.terminal import Terminal
from mmids_cnn.devices import compilation, cores
from mmids_cnn.errors import ConfigError, FaultError, UserError
from mmids_cnn.settings import schema

_ARGUMENTS: list[str] = []
_FLAG = re.compile(r"--?[^\W\d]")  # how a flag begins; a negative number does not
_CONFIG_HELP = "Experiment file; a Python file that is run, so use only files you trust."


def run(
    main: Callable[..., int | None],
    define_flags: Callable[[], None],
    doc: str | None,
    *,
    takes_arguments: bool = False,
    takes_config: bool = False,
) -> NoReturn:
    """Parses the flags, calls `main` and exits; 0 after success, 2 after a mistake of the user's.

    Args:
      main: what to do once `flags.FLAGS` is parsed; returns the exit status, None for 0.
      define_flags: defines the command's own flags; not done on import, so that modules can be imported.
      doc: what `--help` shows above the flags.
      takes_arguments: whether words that are no flags are expected.
      takes_config: whether the command has the flag --config, and each leaf of that file as a flag; `main`
        is then called with the configuration and the path of its file.
    """
    signals.watch()
    if sys.stdout is None:  # whoever started this has closed it: from now on one that cannot be written
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w")
    absl_logging.set_verbosity(absl_logging.ERROR)  # what config_flags warns of is an error here
    debug = any(
        word.lstrip("-") in ("debug", "debug=true", "debug=1") for word in sys.argv if word[0:1] == "-"
    )
    try:
        of_absl = set(flags.FLAGS)
        define_flags()
        _define_common_flags()
        own = sorted({*flags.FLAGS, *(["config"] if takes_config else [])} - of_absl)
        if any(word in ("--help", "-help", "-h", "--helpfull") for word in sys.argv[1:]):
            terminal = Terminal()
            terminal.say(_usage(doc or "", own))
            terminal.require_written()
            sys.exit(0)
        argv = _in_one_word(sys.argv)
        _prepare_jax(argv)  # before the experiment file, which may import it
        called_with = _parse_config(argv, own) if takes_config else ()
        if not takes_config:
            _parse(argv, own, None, takes_arguments)
        status = main(*called_with) or 0
    except signals.InterruptedRunError as error:
        _tell(str(error))
        sys.exit(error.exit_status)
    except UserError as error:
        if debug:
            traceback.print_exc()
        status = complain(str(error), error.exit_status)
        if isinstance(error, FaultError):
            with contextlib.suppress(OSError):
                sys.stdout.flush()
            os._exit(status)  # Python would wait for threads of Orbax that wait for what has failed
        sys.exit(status)
    except Exception as error:
        if debug:
            traceback.print_exc()
        what = f"unexpected {type(error).__name__}: {error}".splitlines()[0]
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in what:  # NumPy's, XLA's
            smaller = (
                "lower the sizes in --config.model, --config.batch_size, --config.eval.batch_size or "
                "--config.sweep.population"
            )
            what = what.partition(": ")[2] or "no more"
            sys.exit(complain(f"memory: expected as much as was asked for, found {what}; {smaller}", 1))
        if Path(traceback.extract_tb(error.__traceback__)[-1].filename).match("jax/_src/config.py"):
            found = f"{error}; change the variable of the environment, or unset it"
            sys.exit(complain(f"JAX: expected settings that it can be imported with, found: {found}", 2))
        sys.exit(complain(f"{what}; --debug shows where, please report it", 1))
    finally:
        signals.ignore()
        gc.freeze()  # spares Python, at its end, a look at all that was imported: 0.3 s
    sys.exit(status)


def warn(message: str) -> None:
    """Says something on standard error that a result depends on."""
    _tell(f"note: {' '.join(message.split())}")


def report(what: str, done: int, total: int) -> None:
    """Progress of preparing data, for commands whose output programs read: messages alone, by `warn`."""
    if not total:
        warn(what)


def complain(message: str, status: int) -> int:
    """Says on standard error what is wrong, in one line; returns the exit status."""
    _tell(f"error: {' '.join(message.split())}")
    return status


def arguments() -> list[str]:
    """The words of the command line that are no flags."""
    return list(_ARGUMENTS)


def _parse_config(argv: list[str], own: Sequence[str]) -> tuple[Any, Path]:
    """Loads the experiment file, makes its leaves flags and parses them with all others."""
    path, words = experiment_file.given(argv)
    if path is None:
        _parse(words, own, None)  # what is wrong with the other words may be why there is none
        raise ConfigError("--config: expected the path of an experiment file, got none; try --config=base")
    config = experiment_file.load(path)
    experiment_file.use_network(config, words)
    leaves = schema.flatten(config)
    words = _last_of_each(experiment_file.quote_tuples(words, leaves))
    try:
        config_flags.DEFINE_config_dict("config", config, sys_argv=words)
    except (Exception, SystemExit) as error:  # ml_collections raises many kinds
        raise explain.unparsable(words, own, leaves, error) from error
    _parse(words, own, leaves)
    return flags.FLAGS.config, Path(path.partition(":")[0])


def _parse(
    argv: Sequence[str], own: Sequence[str], leaves: dict[str, Any] | None, takes_arguments: bool = False
) -> None:
    for word in argv[: argv.index("--") if "--" in argv else None]:
        name = word.lstrip("-")
        value = (leaves or {}).get(name.removeprefix("config."))
        if _misses_value(word) and (name in own or not isinstance(value, bool | None)):
            raise ConfigError(f"--{name}: expected a value, got none; write --{name}=VALUE")
    try:
        _ARGUMENTS[:] = flags.FLAGS(argv)[1:]
    except (Exception, SystemExit) as error:  # config_flags raises many kinds
        raise explain.unparsable(argv, own, leaves, error, takes_arguments) from error
    if _ARGUMENTS and not takes_arguments:
        raise explain.stray(_ARGUMENTS[0])


def _in_one_word(argv: Sequence[str]) -> list[str]:
    """The words with those of `--flagfile` among them, and each flag and its value in one, `--name=value`.

    Raises:
      ConfigError: there is no such file.
    """
    try:
        words = iter(flags.FLAGS.read_flags_from_files(argv, force_gnu=False))
    except (flags.Error, OSError, ValueError) as error:
        found = str(error).removeprefix("ERROR:: ")
        raise ConfigError(f"--flagfile: expected a file of flags, got none: {found}; name another") from error
    joined = list[str]()
    for word in words:
        if word == "--":
            return [*joined, word, *words]
        if joined and _misses_value(joined[-1]) and not _FLAG.match(word):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _misses_value(word: str) -> bool:
    """Whether a word is a flag that needs a value; which leaves of an experiment do is not known here."""
    name = word.lstrip("-")
    if not _FLAG.match(word) or "=" in word:
        return False
    return f"{name}.".startswith("config.") or (name in flags.FLAGS and not flags.FLAGS[name].boolean)


def _last_of_each(argv: Sequence[str]) -> list[str]:
    """Drops all but the last override of a leaf: config_flags would join those of a tuple."""
    kept: dict[str, str] = {}
    for index, word in enumerate(argv):
        name = word.lstrip("-").partition("=")[0]
        key = name if word.startswith("-") and name.startswith("config.") and "=" in word else str(index)
        kept.pop(key, None)
        kept[key] = word
    return list(kept.values())


_PLATFORMS = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}


def _define_common_flags() -> None:
    flags.DEFINE_enum(
        "device",
        None,
        list(_PLATFORMS),
        "What to compute on; refused where it is not there. Default: JAX_PLATFORMS, else an accelerator if "
        "there is one.",
    )
    flags.DEFINE_bool("debug", False, "Show the traceback of an error.")
    flags.DEFINE_string(
        "compilation_cache",
        None,
        "Folder for compiled programs, so that later starts skip compiling; '' switches it off. "
        "Default: mmids_cnn/compiled in the user's cache folder.",
    )


def _usage(doc: str, own: Sequence[str]) -> str:
    lines = [doc.strip(), "", "Flags:"]
    for name in own:
        if name == "config":
            lines.append(f"  --config: {_CONFIG_HELP}")
            continue
        flag = flags.FLAGS[name]
        help_text = flag.help or ""
        default = "" if flag.default is None else f" (default: {flag.default!r})"
        lines.append(f"  --{name}: {' '.join(help_text.split())}{default}")
    if "config" in own:
        lines += [
            "",
            "Every leaf of the config can be set, as in --config.optimizer.learning_rate=3e-4:",
        ]
        leaves = schema.flatten(experiment_file.load("base"))
        lines += [f"  --config.{name}={value!r}" for name, value in leaves.items()]
    return "\n".join(lines)


def _prepare_jax(argv: Sequence[str]) -> None:
    """Settings that JAX reads from the environment when it is first imported, and what keeps others quiet."""
    pairs = (word.lstrip("-").partition("=") for word in argv if word.startswith("-"))
    given = {name: value for name, _, value in pairs}
    compilation.require()
    compilation.use_cache(given.get("compilation_cache"))
    if (wanted := given.get("device")) in _PLATFORMS:
        os.environ["JAX_PLATFORMS"] = _PLATFORMS[wanted]
    cores.as_devices()
    deterministic = "--xla_gpu_deterministic_ops=true"
    if "xla_gpu_deterministic_ops" not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {deterministic}".strip()
    hush_orbax()
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # a home that cannot be written is no obstacle


def hush_orbax() -> None:
    """Silences what Orbax prints of every save, and of its failures, which are raised as well."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    show = sys.unraisablehook

    def without_stragglers(unraisable: Any) -> None:
        # Reads and writes that a failure left behind end after the event loop that awaited them.
        if str(unraisable.exc_value) != "Event loop is closed":
            show(unraisable)

    sys.unraisablehook = without_stragglers


def _tell(line: str) -> None:
    with contextlib.suppress(OSError):  # a full disk, where nothing else can be told either
        print(line, file=sys.stderr, flush=True)
