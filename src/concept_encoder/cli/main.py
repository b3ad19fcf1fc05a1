"""`concept-encoder`: one file a verb, loaded when it is asked for, so that `--help` answers at once."""

import errno
import importlib
import io
import os
import sys
import traceback
from pathlib import Path

import click

from concept_encoder import __version__
from concept_encoder.errors import UserError, nearest, printable

# verb -> what `concept-encoder --help` says of it; the code is in `cli/<verb>.py`, function `command`
VERBS = {
    "quickstart": "Train, evaluate and explain a small concept encoder on real text in minutes.",
    "pretrain": "Pretrain from a recipe by masked language modelling.",
    "data": "List, prepare and look into corpora.",
    "tokenizer": "Train tokenizers and compare them.",
    "finetune": "Fine-tune a checkpoint on a task.",
    "evaluate": "Fine-tune a checkpoint on GLUE under one protocol, and report.",
    "probe": "Ask a checkpoint without fine-tuning it: BLiMP, perplexity, linear probes, STS, MTEB.",
    "compare": "Compare fine-tuned systems: intervals, baselines, verdicts.",
    "gap": "How far a system is from BERT-Base, like for like.",
    "fill-mask": "Let a checkpoint fill the [MASK] of a sentence.",
    "analyze": "Show what the concepts of a checkpoint hold.",
    "bench": "Measure speed and memory beside peers of equal size.",
    "plan": "Run a research plan: schedule, watch, stop, decide, report.",
    "variants": "List every family of variants and its members.",
    "describe": "Parameters, FLOPs, memory and compression of a recipe's model, without building it.",
}

_LONGEST = 2000  # characters of an error


class _Verbs(click.Group):
    def list_commands(self, context: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        return importlib.import_module(f"concept_encoder.cli.{name.replace('-', '_')}").command

    def resolve_command(self, context: click.Context, args: list[str]) -> tuple:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            raise UserError(f"{args[0]}: no such command; {nearest(args[0], VERBS)}")
        return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):  # from the table above: no verb is imported
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=_Verbs, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="concept-encoder")
@click.pass_context
def cli(context: click.Context) -> None:
    """Text encoders with a concept bottleneck: pretrain, fine-tune, look inside."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. A user's mistake is one line on stderr and exit code 2."""
    # We show our own progress and say ourselves what was newly initialised.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without our dashes shows a question mark
    try:
        sys.exit(cli.main(args=arguments, prog_name="concept-encoder", standalone_mode=False) or 0)
    except (click.exceptions.Abort, KeyboardInterrupt):
        _stop("interrupted; give the same command again: what trains goes on from its last checkpoint", 130)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "concept-encoder"
        _stop(f"{error.format_message()} (see {command} --help)", 2)
    except click.ClickException as error:
        _stop(error.format_message(), 2)
    except UserError as error:
        _stop(str(error), 2)
    except ValueError as error:
        if not _raised_by_model(error):
            raise
        _stop(str(error), 2)  # the model room knows nothing of ours, so it says ValueError
    except OSError as error:
        if error.errno == errno.ENOSPC:
            _stop(
                f"{error.filename or 'output'}: no space left on the disk; free some and give the same command again", 2
            )
        if error.filename is None or error.errno is None:
            raise
        _stop(f"{error.filename}: {error.strerror}", 2)


def _raised_by_model(error: ValueError) -> bool:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return Path(last.filename).parent == Path(__file__).parents[1] / "model"


def _stop(message: str, code: int) -> None:
    line = printable(" ".join(message.split()))
    print(f"error: {line if len(line) <= _LONGEST else line[:_LONGEST] + ' …'}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
