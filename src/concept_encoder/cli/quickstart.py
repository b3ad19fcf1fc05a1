"""`concept-encoder quickstart`: the whole job on real text, in minutes on a CPU."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from concept_encoder.data.packing import PreparedCorpus
    from concept_encoder.data.tasks.load import TaskData

Results = dict[str, dict[str, Any]]

PRETRAIN: dict[str, Any] = {
    "model": {"hidden_size": 128, "num_attention_heads": 4, "token_position": "rope"},
    "data": {"corpus": "quickstart", "vocab_size": 4096, "sequence_length": 128, "packing": "full"},
    "objective": {"mask_rate": 0.3, "replacement": "mask"},
    "training": {
        "max_steps": 300,
        "batch_size": 32,
        "optimizer": "muon",
        "learning_rate": 1e-2,
        "adamw_learning_rate": 6e-3,
        "weight_decay": 0.1,
        "schedule": "linear",
        "eval_every": 50,
        "save_every": 150,
        "max_eval_rows": 256,
    },
}
CONCEPTS = {"preset": "woven", "num_layers": 2, "local_window": 32, "concept_ratio": 4, "concept_position": "rope"}
TWIN = {"preset": "bert", "num_layers": 2}
FINETUNE: dict[str, Any] = {
    "data": {"task": "quickstart-topics", "max_length": 64},
    "training": {"epochs": 1.5, "batch_size": 32, "learning_rate": 1e-3, "schedule": "linear", "adam_beta2": 0.999},
}
SHORT = ["training.max_steps=12", "training.eval_every=6", "training.save_every=6", "training.max_eval_rows=32"]
NAMES = {"woven": "concept encoder", "bert": "bert twin"}


@click.command("quickstart")
@click.option("--output", default="runs/quickstart", show_default=True, help="Folder for the runs and the report.")
@click.option(
    "--short", is_flag=True, help="A dozen steps of everything: does it run at all? The numbers mean nothing."
)
def command(output: str, short: bool) -> None:
    """Train a concept encoder and its BERT twin on Wikipedia summaries, score both, and look inside the concepts.

    Everything runs offline on 2 CPU cores in less than five minutes; needs `pip install "concept-encoder[quickstart]"`.
    Leaves a report.html in the output folder.
    """
    from concept_encoder.cli.show import console, show_pretraining, show_scores, show_table
    from concept_encoder.cli.write_tables import writable_folder
    from concept_encoder.data.tasks.config import TaskConfig
    from concept_encoder.data.tasks.load import load_task

    started = time.perf_counter()
    folder = writable_folder(Path(output))
    task = load_task(TaskConfig(**FINETUNE["data"]))  # says at once when the text is not installed
    console.rule("1  pretrain on 10,033 Wikipedia summaries, beside the twin")
    corpus, pretrained = _pretrain(folder, short)
    show_pretraining(pretrained)
    console.rule("2  fill in hidden words of held-out sentences")
    fills = _fill_masks(folder, corpus)
    show_table("[MASK] filled by the concept encoder", ["sentence", "hidden word", "best guesses"], fills)
    console.rule(f"3  tell {len(task.label_names or [])} topics apart")
    scores = _finetune(folder, task, short)
    show_scores(task.name, scores)
    console.rule("4  look inside the concepts")
    report = _analyze(folder, corpus, short)
    page = _write_report(folder, report, corpus, pretrained, fills, scores, short)
    click.echo(f"{_verdict(pretrained, scores)}\nreport: {page}\ntime: {time.perf_counter() - started:.0f} s")


def _pretrain(folder: Path, short: bool) -> tuple["PreparedCorpus", Results]:
    from concept_encoder.data.packing import prepare
    from concept_encoder.settings import parse_overrides, set_fields
    from concept_encoder.training.pretrain import PretrainRecipe, pretrain

    corpus, results = None, {}
    for model in (CONCEPTS, TWIN):
        fields = {f"model.{name}": value for name, value in model.items()}
        fields["training.output_dir"] = str(folder / f"pretrain-{model['preset']}")
        sections = set_fields(PRETRAIN, {**fields, **(parse_overrides(SHORT) if short else {})})
        recipe = PretrainRecipe.from_sections(sections)
        corpus = corpus or prepare(recipe.data)
        name = NAMES[model["preset"]]
        results[name] = pretrain(recipe, corpus, title=f"pretrain {name}")
    return corpus, results


def _finetune(folder: Path, task: "TaskData", short: bool) -> Results:
    from concept_encoder.evaluation.baselines import bag_of_words, majority
    from concept_encoder.evaluation.metrics import compute_all
    from concept_encoder.settings import set_fields
    from concept_encoder.training.finetune import FinetuneRecipe, finetune

    beside = {"majority class": majority(task), "bag of words (TF-IDF + logistic regression)": bag_of_words(task)}
    scores: Results = dict(beside)
    for preset, name in NAMES.items():
        fields = {
            "model.checkpoint": str(folder / f"pretrain-{preset}"),
            "training.output_dir": str(folder / f"topics-{preset}"),
            **({"training.max_steps": 5} if short else {}),
        }
        recipe = FinetuneRecipe.from_sections(set_fields(FINETUNE, fields))
        result = finetune(recipe, compute_all, task, beside, title=f"finetune {name}")
        scores[name] = result["scores"]
        scores |= {f"{name}, {what}": found for what, found in result["controls"].items()}
    return scores


def _fill_masks(folder: Path, corpus: "PreparedCorpus", sentences: int = 4) -> list[list[str]]:
    """One long word hidden in each of a few held-out sentences; the first sentences that have one."""
    from concept_encoder.model import ConceptEncoderForMaskedLM
    from concept_encoder.model.loading import load_checkpoint
    from concept_encoder.training.predict import fill_masks

    hidden = []
    for text in corpus.validation_texts:
        words = text.split(". ")[0].split()
        candidates = [
            w for w in words[2:] if w.isalpha() and w.islower() and len(w) > 3 and w in corpus.tokenizer.vocab
        ]
        if 8 <= len(words) <= 24 and candidates:
            word = max(candidates, key=len)
            hidden.append((" ".join("[MASK]" if w == word else w for w in words), word))
    hidden = [(text, word) for text, word in hidden if text.count("[MASK]") == 1][:sentences]
    model = load_checkpoint(ConceptEncoderForMaskedLM, folder / "pretrain-woven")
    found = fill_masks(model, corpus.tokenizer, [text for text, _ in hidden])
    return [
        [text, word, " ".join(f"{guess} ({share:.2f})" for guess, share in guesses[0])]
        for (text, word), guesses in zip(hidden, found)
    ]


def _analyze(folder: Path, corpus: "PreparedCorpus", short: bool) -> dict[str, Any]:
    from concept_encoder.analysis.analyze import analyze
    from concept_encoder.analysis.key_figures import key_numbers
    from concept_encoder.cli.show import progress, show_table

    texts = corpus.validation_texts[: 64 if short else 384]
    with progress("analysing") as step:
        analysis = analyze(folder / "pretrain-woven", texts, causal_texts=32, progress=step)

    rows = [[number.label, number.value, number.mark] for number in key_numbers(analysis)]
    show_table("The concepts in numbers", ["figure", "value", "target"], rows)
    return analysis


def _write_report(
    folder: Path,
    analysis: dict,
    corpus: "PreparedCorpus",
    pretrained: Results,
    fills: list,
    scores: Results,
    short: bool,
) -> Path:
    from concept_encoder.analysis.figures import loss_curves
    from concept_encoder.analysis.present import concept_report
    from concept_encoder.analysis.report import Report
    from concept_encoder.cli.show import pretraining_rows, score_rows
    from concept_encoder.training.run_folder import read_metrics

    counts = corpus.statistics
    report = Report(
        "A concept encoder, trained and explained",
        f"{counts.documents + counts.validation_documents:,} Wikipedia summaries (CC BY-SA), "
        f"{counts.tokens:,} training tokens",
    )
    report.section("What came out").prose(_verdict(pretrained, scores))
    if short:
        report.notes(["This was the short mode, a dozen steps of everything: the numbers mean nothing."])
    report.section("Masked language modelling").table(*pretraining_rows(pretrained))
    curves = {}
    for preset, name in NAMES.items():
        records = read_metrics(folder / f"pretrain-{preset}")
        curves[name] = [(record["step"], record["eval_loss"]) for record in records if "eval_loss" in record]
    unigram = next(iter(pretrained.values()))["unigram_loss"]
    report.figure(loss_curves(curves, {"unigram frequencies": unigram}, "Held-out masked-LM loss"))
    report.table(["sentence", "hidden word", "best guesses"], fills, "Held-out sentences, one word hidden")
    report.section("Telling topics apart").table(*score_rows(scores))
    report.prose(
        "Concepts shuffled: each text is read with the concepts of another. Concepts zeroed: with none. "
        "What a score keeps under these, it did not owe to the concepts."
    )
    return concept_report(analysis, report).write(folder / "report.html")


def _verdict(pretrained: Results, scores: Results) -> str:
    """The result in words, whichever way it went."""
    ours, twin = (pretrained[name]["eval_loss"] for name in NAMES.values())
    unigram = next(iter(pretrained.values()))["unigram_loss"]
    topics = {name: found["accuracy"] for name, found in scores.items()}
    bag = next(value for name, value in topics.items() if name.startswith("bag of words"))
    ours_topics, twin_topics = (topics[name] for name in NAMES.values())
    against_bag = "more than" if ours_topics > bag else "less than"
    return (
        f"Held-out masked-LM loss: concept encoder {ours:.2f}, bert twin {twin:.2f}, unigram frequencies "
        f"{unigram:.2f}. "
        f"Topic accuracy: concept encoder {ours_topics:.3f}, bert twin {twin_topics:.3f}; the concept encoder scores "
        f"{against_bag} a bag of words ({bag:.3f}). One seed, minutes of training: a demonstration, not a result."
    )
