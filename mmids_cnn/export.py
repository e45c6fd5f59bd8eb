"""Writes a trained network for others to run: ONNX, safetensors, and a model card.

    python -m mmids_cnn.export --workdir=RUN [--format=onnx,safetensors] [--checkpoint=newest] [--to=FOLDER]
    python -m mmids_cnn.export --workdir=RUN --workdir=RUN2 ...

Several runs, or a sweep, are exported as one, by the mean of their probabilities. The files are written into
`export` in the first run's folder. The ONNX file is run on the whole test split first, and not written where
an answer differs from JAX's.
"""

if __name__ == "__main__":  # before the imports below take their time
    from mmids_cnn.console import signals

    signals.watch()

from pathlib import Path

from absl import flags

from mmids_cnn import data
from mmids_cnn.console import command, experiment_file
from mmids_cnn.console.terminal import Terminal
from mmids_cnn.errors import ConfigError, RunError, require_package
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.storage import files
from mmids_cnn.sweeps import folder as sweep_folder

FORMATS = ("onnx", "safetensors")


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_multi_string("workdir", ["runs/base"], "Folder of a run or sweep; several: an ensemble.")
    flags.DEFINE_list("format", list(FORMATS), f"Files to write, of {', '.join(FORMATS)}.")
    flags.DEFINE_string("checkpoint", "newest", "'newest', 'best', or a step's number.")
    flags.DEFINE_string("to", None, "Folder to write to; default: export in the first run's folder.")


def main() -> None:
    """Scores the networks, makes the files, measures them, and writes them."""
    formats, workdirs = _formats(), [Path(workdir) for workdir in flags.FLAGS.workdir]
    experiments = [sweep_folder.experiment(workdir, flags.FLAGS.checkpoint) for workdir in workdirs]
    for workdir in workdirs:
        if damaged := (sweep_folder if sweep_folder.is_sweep(workdir) else run_folder).damaged(workdir):
            raise RunError(
                f"{workdir / damaged[0]}: expected what was written, found a damaged file; the command that "
                "trained it writes it anew"
            )
        experiment_file.add_roots(run_folder.source_roots(workdir))
    for given in workdirs:
        if workdirs.count(given) > 1:
            raise ConfigError(f"--workdir: expected different folders, got {given} twice; name it once")
    if flags.FLAGS.to == "":
        raise ConfigError("--to: expected a folder, got none; name one, '.' is the working directory")
    folder = Path(flags.FLAGS.to) if flags.FLAGS.to is not None else workdirs[0] / "export"
    if obstacle := files.obstacle(folder):
        raise RunError(f"--to: expected a folder that can be written, found {obstacle}; name another")
    terminal = Terminal()
    dataset, *others = (data.load(experiment.dataset, terminal.report) for experiment in experiments)
    terminal.close()
    for workdir, other in zip(workdirs[1:], others, strict=True):
        if other.fingerprint != dataset.fingerprint:
            raise ConfigError(f"--workdir: expected runs on the same data, {workdir} has other; name others")

    from mmids_cnn.deploy import (  # JAX is imported once the input is known to be right
        bundle,
        card,
        onnx_graph,
    )
    from mmids_cnn.sweeps import members

    found = [one for x in workdirs for one in members.load(x, dataset, flags.FLAGS.checkpoint, command.warn)]
    scored, contents, parity = bundle.score(found, dataset), dict[str, bytes](), None
    about = bundle.metadata(found, dataset, scored)
    if "onnx" in formats:
        if onnx_graph.runtime() != "onnxruntime":
            command.warn(
                "onnxruntime is not installed: ONNX's own reference runs the file, for minutes; pip install "
                "'mmids_cnn[export]'"
            )
        contents[bundle.ONNX], parity = bundle.onnx(found, dataset, scored, about)
    if "safetensors" in formats:
        contents[bundle.SAFETENSORS] = bundle.safetensors(found, about)
    text = card.write(found, dataset, scored, parity, contents)
    with files.faults(f"writing to {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / card.NAME).exists():  # what is there may be of other weights; the card comes last
            for name in (card.NAME, *{bundle.ONNX, bundle.SAFETENSORS} - contents.keys()):
                (folder / name).unlink(missing_ok=True)
        for name, content in {**contents, card.NAME: text.encode()}.items():
            files.write_bytes(folder / name, content)
            terminal.say(f"{folder / name}: {len(content):,} bytes")
    if parity is not None:
        terminal.say(
            f"{bundle.ONNX} beside JAX, by {parity.by}: the same class for {parity.agreement:,} of "
            f"{parity.images:,} test images, logits at most {parity.difference:.2g} off"
        )
    terminal.require_written()


def _formats() -> list[str]:
    """The formats that are asked for."""
    formats = flags.FLAGS.format
    if not formats or set(formats) - set(FORMATS):
        given = ",".join(formats)
        raise ConfigError(
            f"--format: expected some of {', '.join(FORMATS)} with commas between, got {given!r}"
        )
    if "onnx" in formats:
        require_package("--format", "onnx", "export", ", or give --format=safetensors")
    return formats


if __name__ == "__main__":
    command.run(main, define_flags, __doc__)
