"""The command line: flags in, exit status out, every error of the user's one line. It never imports JAX."""

import contextlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from absl import flags, logging

from mmids_cnn import config as config_lib
from mmids_cnn.console import signals
from mmids_cnn.devices import compilation, cores
from mmids_cnn.errors import ConfigError, FaultError, UserError

_ARGUMENTS: list[str] = []


def run(
    main: Callable[[], int | None],
    define_flags: Callable[[], None],
    doc: str | None,
    *,
    takes_arguments: bool = False,
) -> NoReturn:
    """Parses the flags, calls `main` and exits; 0 after success, 2 after a mistake of the user's.

    Args:
      main: what to do once `flags.FLAGS` is parsed; returns the exit status, None for 0.
      define_flags: defines the command's own flags; not done on import, so that modules can be imported.
      doc: what `--help` shows above the flags.
      takes_arguments: whether words that are no flags are expected.
    """
    signals.watch()
    logging.set_verbosity(logging.ERROR)  # what config_flags warns of is an error here
    sys.argv[:] = argv = _last_of_each(sys.argv)  # config_flags reads sys.argv
    debug = any(
        word.lstrip("-") in ("debug", "debug=true", "debug=1") for word in argv[1:] if word[0:1] == "-"
    )
    helping = any(word in ("--help", "-help", "-h", "--helpfull") for word in argv[1:])
    try:
        own = _define(argv[:1] if helping else argv, define_flags)
        if helping:
            print(_usage(doc or "", own))
            sys.exit(0)
        _parse(argv, own, takes_arguments)
        _prepare_jax()
        status = main() or 0
    except signals.InterruptedRunError as error:
        print(error, file=sys.stderr, flush=True)
        sys.exit(error.exit_status)
    except UserError as error:
        if debug:
            traceback.print_exc()
        status = _complain(str(error), error.exit_status)
        if isinstance(error, FaultError):
            with contextlib.suppress(OSError):
                sys.stdout.flush()
            os._exit(status)  # Python would wait for threads of Orbax that wait for what has failed
        sys.exit(status)
    except Exception as error:
        if debug:
            traceback.print_exc()
        what = f"unexpected {type(error).__name__}: {error}".splitlines()[0]
        sys.exit(_complain(f"{what}; --debug shows where, please report it", 1))
    sys.exit(status)


def experiment(config: Any) -> config_lib.Experiment:
    """The checked experiment out of the value of a `--config` flag."""
    given = _config_given(sys.argv)
    if not hasattr(config, "to_dict") and given is not None:
        load_config(given)  # says what is wrong with it
    if config is None:
        raise ConfigError(
            "--config: expected the path of an experiment file, got none; try --config=experiments/base.py"
        )
    return config_lib.resolve(config)


def warn(message: str) -> None:
    """Says something on standard error that a result depends on."""
    print(f"note: {' '.join(message.split())}", file=sys.stderr, flush=True)


def arguments() -> list[str]:
    """The words of the command line that are no flags."""
    return list(_ARGUMENTS)


def load_config(given: str) -> Any:
    """Loads an experiment file, which is Python and is trusted: its `get_config()` is called.

    Args:
      given: the file's path; of `path:word` the word is passed to `get_config`, as ml_collections does.

    Raises:
      ConfigError: it is missing, raises, or returns no config.
    """
    path, *words = given.split(":", 1)
    if not Path(path).is_file():
        near = sorted(str(p) for p in Path("experiments").glob("*.py"))
        hint = f"there are {', '.join(near)}" if near else "give the path of an experiment file"
        raise ConfigError(f"--config: expected a config file, found none at {path!r}; {hint}")
    try:
        spec = importlib.util.spec_from_file_location("experiment_file", path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = module.get_config(*words)
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).absolute() == Path(path).absolute()]
        if isinstance(error, SyntaxError) and error.filename == path:
            lines = [error.lineno]
        where = f" in line {lines[-1]}" if lines else ""
        raise ConfigError(
            f"--config: expected {path} to define get_config(), but it raised "
            f"{type(error).__name__}: {error}{where}; correct the file"
        ) from error
    if not hasattr(config, "to_dict"):
        raise ConfigError(
            f"--config: expected get_config() of {path} to return a ConfigDict, got {config!r}; "
            "start from experiments/base.py"
        )
    return config


def _define(argv: list[str], define_flags: Callable[[], None]) -> list[str]:
    """Defines all flags, which also loads the config file; returns the names of those that are not absl's."""
    for root in (
        Path(__file__).parents[2],
        *Path((_config_given(argv) or "").partition(":")[0]).absolute().parents[1:2],
    ):
        if str(root) not in sys.path:  # so that an experiment file can say `from experiments import base`
            sys.path.append(str(root))
    of_absl, typed = set(flags.FLAGS), list(sys.argv)
    sys.argv[:] = argv
    try:
        define_flags()
    except (Exception, SystemExit) as error:  # config files raise many kinds
        raise _explained(argv, [], error) from error
    finally:
        sys.argv[:] = typed
    _define_common_flags()
    return sorted(set(flags.FLAGS) - of_absl)


def _last_of_each(argv: list[str]) -> list[str]:
    """Drops all but the last override of a leaf: config_flags would join those of a tuple."""
    kept: dict[str, str] = {}
    for index, word in enumerate(argv):
        name = word.lstrip("-").partition("=")[0]
        key = name if word.startswith("-") and name.startswith("config.") and "=" in word else str(index)
        kept.pop(key, None)
        kept[key] = word
    return list(kept.values())


def _parse(argv: list[str], own: list[str], takes_arguments: bool) -> None:
    try:
        rest = flags.FLAGS(argv)
        if "config" in flags.FLAGS:
            hasattr(flags.FLAGS.config, "to_dict")  # one that could not be loaded raises when it is used
    except (Exception, SystemExit) as error:  # config_flags and config files raise many kinds
        raise _explained(argv, own, error) from error
    _ARGUMENTS[:] = rest[1:]
    if _ARGUMENTS and not takes_arguments:
        stray = _ARGUMENTS[0]
        hint = f"did you mean --{stray}?" if "=" in stray else "remove it"
        raise ConfigError(f"expected flags only, got the argument {stray!r}; {hint}")


def _explained(argv: list[str], own: list[str], error: BaseException) -> ConfigError:
    """What is wrong with a command line that absl or ml_collections could not parse."""
    given = _config_given(argv)
    if given is not None:
        leaves = config_lib.flatten(load_config(given))
        for name in _names(argv):
            section, _, leaf = name.removeprefix("no").partition(".")
            if section == "config" and leaf and leaf not in leaves:
                inside = [full for full in leaves if full.startswith(leaf + ".")]
                return ConfigError(
                    f"--{name}: "
                    + (
                        f"expected a leaf, got a section; its leaves: {', '.join(inside)}"
                        if inside
                        else f"no such config key; {config_lib.nearest(leaf, leaves)}"
                    )
                )
    if isinstance(error, flags.UnrecognizedFlagError):
        if error.flagname.startswith("config."):
            return ConfigError(
                f"--{error.flagname}: expected --config=FILE before it; try --config=experiments/base.py"
            )
        return ConfigError(
            f"--{error.flagname}: no such flag; {config_lib.nearest(error.flagname, [*own, 'help'])}"
        )
    message = " ".join(str(error).split())
    if isinstance(error, flags.IllegalFlagValueError):
        return ConfigError(_explain_value(message))
    return ConfigError(f"{message}; --help lists the flags")


def _explain_value(message: str) -> str:
    """`flag --config.seed=x: invalid literal …` as expected and found."""
    flag, _, reason = message.removeprefix("flag ").partition(": ")
    name, _, value = flag.partition("=")
    expected = "a value of the type that the config file has there"
    if "should be one of" in reason:
        expected = reason.partition("should be ")[2].strip()
    for kind, mark in (
        ("an integer", "int()"),
        ("a number", "to float"),
        ("true or false", "boolean"),
    ):
        expected = kind if mark in reason else expected
    return f"{name}: expected {expected}, got {value!r}; change the flag"


def _config_given(argv: list[str]) -> str | None:
    for index, argument in enumerate(argv):
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name == "config":
            if equals:
                return value
            if index + 1 < len(argv):
                return argv[index + 1]
    return None


def _names(argv: list[str]) -> list[str]:
    return [a.lstrip("-").partition("=")[0] for a in argv[1:] if a.startswith("-")]


def _define_common_flags() -> None:
    flags.DEFINE_bool("debug", False, "Show the traceback of an error.")
    flags.DEFINE_string(
        "compilation_cache",
        None,
        "Folder for compiled programs, so that later starts skip compiling; '' switches it off. "
        "Default: mmids_cnn/compiled in the user's cache folder.",
    )


def _usage(doc: str, own: list[str]) -> str:
    lines = [doc.strip(), "", "Flags:"]
    for name in own:
        flag = flags.FLAGS[name]
        default = "" if flag.default is None else f" (default: {flag.default!r})"
        lines.append(f"  --{name}: {' '.join((flag.help or '').split())}{default}")
    if "config" in flags.FLAGS:
        base = Path(__file__).parents[2] / "experiments" / "base.py"
        lines += [
            "",
            "Every leaf of the config can be set, as in --config.optimizer.learning_rate=3e-4:",
        ]
        if base.is_file():
            leaves: Mapping[str, Any] = config_lib.flatten(load_config(str(base)))
            lines += [f"  --config.{name}={value!r}" for name, value in leaves.items()]
    return "\n".join(lines)


def _prepare_jax() -> None:
    """Settings that JAX reads from the environment when it is first imported."""
    compilation.use_cache(flags.FLAGS.compilation_cache)
    cores.as_devices()
    deterministic = "--xla_gpu_deterministic_ops=true"
    if "xla_gpu_deterministic_ops" not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {deterministic}".strip()


def _complain(message: str, status: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return status
