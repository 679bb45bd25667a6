"""Published numbers: each is the paper's, and stands beside a cell only where everything about it is the paper's."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ddbench.config.experiment import Experiment
from ddbench.config.networks import CATALOG
from ddbench.config.schema import TeacherConfig
from ddbench.core.errors import DDBenchError
from ddbench.pipeline.request import Request, experiments
from ddbench.registry.registry import PluginRegistry
from ddbench.results import published

Row = dict[str, str]
COLUMNS = "table,method,ours,dataset,ipc,architecture,metric,value,error,error_kind,n,source,note"
DATASETS = {"imagenette": "ImageNette", "tiny-imagenet": "Tiny ImageNet", "imagenet-1k": "ImageNet-1K"}
IPCS = ("1", "10", "50", "100")
METRICS = {
    "comparison": {"top1"},
    "cross-arch": {"top1"},
    "efficiency": {"seconds_per_iteration", "peak_memory_gb", "total_seconds"},
    "ablation": {"top1"},
    "sliced": {"top1", "hours"},
    "layers": {"top1"},
}
ERRORS = {  # error_kind and n; what Table 1 quotes says not how often it was run
    "comparison": {("deviation", "3"), ("deviation", ""), ("", "")},
    "efficiency": {("deviation", "100"), ("", "")},
    "ablation": {("standard error", "5")},
}


@pytest.fixture(scope="module")
def registry() -> PluginRegistry:
    return PluginRegistry()


def rows(table: str) -> list[Row]:
    with (published.FOLDER / f"{table}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# -- the files ----------------------------------------------------------------------------------------------


def test_there_is_a_file_a_table() -> None:
    assert sorted(path.name for path in published.FOLDER.iterdir()) == sorted(
        f"{name}.csv" for name in published.TABLES
    )


@pytest.mark.parametrize("table", published.TABLES)
def test_every_row_keeps_the_schema(table: str, registry: PluginRegistry) -> None:
    networks = {network.name for network in CATALOG}
    header, *lines = (published.FOLDER / f"{table}.csv").read_text(encoding="utf-8").splitlines()
    assert header == COLUMNS
    actual = rows(table)
    assert len(actual) == len(lines) > 0
    for row in actual:
        assert row["table"] == table
        assert row["method"]
        assert row["metric"]
        assert row["value"]
        assert row["dataset"] in {spec.name for spec in registry.datasets()} | {"all"}
        if table == "cross-arch":
            assert row["architecture"] in networks
        else:
            assert row["architecture"] == ("" if "quoted" in row["note"] else "resnet18")
        others = table == "comparison" and row["note"].startswith("reported elsewhere: by its authors")
        source = r"(DELT|FADRM|CV-DD) paper, table of README.md \(imgs?/\w+.png\)|EDC paper, Table 1"
        wmdd = r"WMDD paper, (Table \d[a-d]?|section \d\.\d)"
        assert re.fullmatch(source if others else wmdd, row["source"])
        assert bool(row["error"]) == bool(row["error_kind"])
        assert (row["error_kind"], row["n"]) in ERRORS.get(table, {("", "")})
        if table == "hyperparameters":
            assert row["ipc"] == ""
        else:
            assert row["metric"] in METRICS[table]
            assert row["ipc"] in ([""] if row["ours"] == "full" else IPCS)
            assert float(row["value"]) > 0
            assert not row["error"] or float(row["error"]) >= 0
    cells = {tuple(row[name] for name in ("method", "dataset", "ipc", "architecture", "metric")) for row in actual}
    assert len(cells) == len(actual)


@pytest.mark.parametrize("table", ["comparison", "cross-arch", "efficiency", "sliced"])
def test_ours_is_a_method_of_ddbench(table: str, registry: PluginRegistry) -> None:
    known = {distiller.name for distiller in registry.distillers()}
    names = {row["method"]: row["ours"] for row in rows(table)}
    assert set(names.values()) <= known


def test_ours_of_the_other_tables_is_what_ddbench_calls_it(registry: PluginRegistry) -> None:
    ablation, layers, settings = (rows(name) for name in ("ablation", "layers", "hyperparameters"))
    fields = registry.distiller("wmdd").model_fields
    losses, regularisers = (str(fields[name].annotation) for name in ("feature_loss", "regulariser"))
    for loss, regulariser in (row["ours"].split(" + ") for row in ablation):
        assert f"'{loss}'" in losses
        assert f"'{regulariser}'" in regularisers
    assert [row["ours"] for row in layers] == ["5", "10", "15", "16", "17", "18"]
    known = {f"teacher.{name}" for name in TeacherConfig.model_fields} | {f"wmdd.{name}" for name in fields}
    assert {row["ours"] for row in settings if row["ours"]} <= known
    fixed = {(row["method"], row["metric"]) for row in settings if not row["ours"]}
    assert fixed == {("squeeze", "scheduler"), ("recover", "scheduler"), ("recover", "optimizer")}


# -- the paper's text ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def paper() -> str:
    """The paper as text: the file that DDBENCH_PAPER names, or the one .txt in the folder that it names."""
    given = os.environ.get("DDBENCH_PAPER")
    if not given:
        pytest.skip("DDBENCH_PAPER does not name the paper's text")
    path = Path(given)
    (file,) = path.glob("*.txt") if path.is_dir() else (path,)
    return file.read_text(encoding="utf-8")


def plain(text: str) -> str:
    """Without citations, daggers, blank lines and the spaces of formulas; each error beside its number."""
    text = unicodedata.normalize("NFKC", text)
    text = re.sub(r"\s*±\s*", " ± ", text)
    text = re.sub(r"[†‡]|\[[^]]*\]|\(Ours\)", "", text)
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    text = text.replace(" ,", ",").replace("β ", "β")
    return re.sub(r"\s*\n\s*", "\n", text)


def printed(paper: str, number: int, start: str) -> list[str]:
    """The cells of a table in reading order, from the first `start` after the table before it to its caption."""
    text = plain(paper)
    before = 0 if number == 1 else text.index(f"\nTable {number - 1}:")
    block = text[text.index(f"\n{start}", before) : text.index(f"\nTable {number}:")]
    return [cell.strip() for cell in re.split(r"[\t\n]", block.strip())]


def lines(actual: Sequence[Row], column: Callable[[Row], Hashable], columns: Sequence[Hashable]) -> list[str]:
    """A line for each method, its name first, then one cell a column: `64.8 ± 0.4`, or `-` where there is no row."""
    cells = {(row["method"], column(row)): value(row) for row in actual}
    assert len(cells) == len(actual)
    messages = []
    for method in dict.fromkeys(row["method"] for row in actual):
        messages += [method, *(cells.pop((method, name), "-") for name in columns)]
    assert not cells
    return messages


def value(row: Row) -> str:
    return f"{row['value']} ± {row['error']}" if row["error"] else row["value"]


def test_comparison_is_table_1(paper: str) -> None:
    actual = [row for row in rows("comparison") if row["source"] == "WMDD paper, Table 1"]
    columns = [(dataset, ipc) for dataset in DATASETS for ipc in IPCS]
    ours = lines(actual, lambda row: (row["dataset"], row["ipc"]), columns)
    assert printed(paper, 1, "Methods\t") == ["Methods", *DATASETS.values(), *(ipc for _, ipc in columns), *ours]
    body = paper[: paper.index("\nTable 1:")]
    replicated = [row["value"] for row in actual if "replicated" in row["note"]]
    assert re.findall(r"([\d.]+)†", body) == replicated
    measured = [row for row in actual if row["n"]]
    assert [row["method"] for row in measured] == ["SRe2L"] * 4 + ["WMDD"] * 12
    assert [row for row in actual if "quoted" not in row["note"]] == measured
    assert {row["method"] for row in actual if "no error bars" in row["note"]} == set(re.findall(r"(\w+)‡", body))


def test_the_full_dataset_is_section_5_2(paper: str) -> None:
    actual = [row for row in rows("comparison") if row["source"] == "WMDD paper, section 5.2"]
    assert [(row["ours"], row["dataset"], row["error"]) for row in actual] == [("full", name, "") for name in DATASETS]
    (name,) = {row["method"] for row in actual}
    imagenette, tiny, imagenet = (row["value"] for row in actual)
    assert f"{name} ({imagenette}%, {tiny}%, and {imagenet}%) trained on full datasets" in paper


def test_cross_arch_is_table_2(paper: str) -> None:
    networks = {
        "Res18": "resnet18",
        "Res50": "resnet50",
        "Res101": "resnet101",
        "ViT-T": "vit_tiny_patch16_224",
        "ViT-S": "vit_small_patch16_224",
    }
    ours = lines(rows("cross-arch"), lambda row: row["architecture"], list(networks.values()))
    assert printed(paper, 2, "Method\t") == ["Method", *networks, *ours]
    assert {(row["dataset"], row["ipc"]) for row in rows("cross-arch")} == {("imagenet-1k", "50")}
    assert "performance on ImageNet-1K in 50 IPC setting." in paper


def test_efficiency_is_table_3(paper: str) -> None:
    ours = lines(
        rows("efficiency"), lambda row: row["metric"], ["seconds_per_iteration", "peak_memory_gb", "total_seconds"]
    )
    assert printed(paper, 3, "Method\t") == ["Method", "Time/iter (s)", "Peak vRAM (GB)", "Total time (s)", *ours]
    assert {(row["dataset"], row["ipc"]) for row in rows("efficiency")} == {("imagenette", "1")}
    assert all(row["note"].startswith("RTX-3090") for row in rows("efficiency"))


def test_ablation_is_table_4(paper: str) -> None:
    actual = rows("ablation")
    ours = lines(actual, lambda row: row["dataset"], list(DATASETS))
    halves = [half for cell in ours for half in cell.split(" + ")]
    assert printed(paper, 4, "L\nfeature") == ["L", "feature", "L reg", *DATASETS.values(), *halves]
    names = {"Wass.": "wasserstein", "CE": "cross-entropy", "PCBN": "pcbn", "BN": "bn"}
    for row in actual:
        assert " + ".join(names[half] for half in row["method"].split(" + ")) == row["ours"]
        assert row["ipc"] == "10"


def test_sliced_is_table_5(paper: str) -> None:
    ipcs = IPCS[:3]
    columns = [(metric, ipc) for metric in ("top1", "hours") for ipc in ipcs]
    ours = lines(rows("sliced"), lambda row: (row["metric"], row["ipc"]), columns)
    head = ["Method", "Accuracy (%)", "Time (hour)", "IPC", *ipcs, *ipcs]
    assert printed(paper, 5, "Method\t") == [*head, *ours]
    assert {row["dataset"] for row in rows("sliced")} == {"tiny-imagenet"}


def test_layers_is_table_6(paper: str) -> None:
    actual = rows("layers")
    head = ["Layer", *(row["ours"] for row in actual), "Acc (%)"]
    assert printed(paper, 6, "Layer\t") == [*head, *(value(row) for row in actual)]
    for row in actual:
        assert row["method"] == f"Layer {row['ours']}"
        assert (row["dataset"], row["ipc"], row["architecture"]) == ("tiny-imagenet", "10", "resnet18")


def test_hyperparameters_are_table_7(paper: str) -> None:
    actual = rows("hyperparameters")
    ours = []
    for part in "abcd":
        settings = [row for row in actual if row["source"] == f"WMDD paper, Table 7{part}"]
        ((stage, dataset),) = {(row["method"], row["dataset"]) for row in settings}
        ours += ["config", "value"]
        for row in settings:
            formula = "β" in row["metric"]
            ours += [f"{row['metric']} = {row['value']}"] if formula else [row["metric"], row["value"]]
        titles = {**DATASETS, "all": "all datasets", "tiny-imagenet": "Tiny-ImageNet"}
        titled = {"squeeze": "Squeezing", "recover": "Recovering"}[stage]
        ours.append(f"({part}){titled} setting for {titles[dataset]}")
    assert printed(paper, 7, "config\t") == ours


@pytest.mark.parametrize(
    "claim",
    [
        "We measured performance using the top-1 accuracy of the trained model on the validation set. Results report "
        "the mean and standard deviation from 3 repeated runs.",
        "trained a ResNet-18 model [19] on the real training set, distilled the dataset using our method, then trained "
        "a ResNet-18 model from scratch on the synthetic data",
        "We used the reported results for baseline methods when available. We replicated the result of SRe2L on the "
        "ImageNette dataset, marked by †. Results of CDA did not include error bars, and the row is marked by ‡.",
        "we held out 20% of the distilled data as validation set to find the best training epoch",
        "We used ResNet-18 for distillation and different architectures for evaluation",
        "time and GPU memory usage on ImageNette using a single GPU (RTX-3090) for all methods. ‘Time/iter’ indicates "
        "the time to update 1 synthetic image per class with a single iteration. This duration is measured in "
        "consecutive 100 iterations, and the mean and standard deviation are reported.",
        "use the ResNet-18 model to distill 2,000 iterations for all methods",
        "We evaluated these factors across different datasets using the 10 IPC setting, with results shown in Table 4",
        "We report the mean and standard error of performance on 5 repetitive runs.",
        "a single GPU of type A40, A100, or RTX-3090, depending on the availability",
        "features from different layers of ResNet-18 on Tiny-ImageNet",
    ],
)
def test_the_paper_says_what_columns_and_notes_say(paper: str, claim: str) -> None:
    assert claim in paper


# -- reading them -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", published.TABLES)
def test_a_table_is_numbers_where_it_has_numbers(table: str) -> None:
    frame = published.load(table)
    messages = rows(table)
    assert ",".join(frame.columns) == COLUMNS
    assert (str(frame["ipc"].dtype), str(frame["n"].dtype), str(frame["error"].dtype)) == ("Int64", "Int64", "float64")
    assert frame["note"].tolist() == [row["note"] for row in messages]
    if table == "hyperparameters":
        assert frame["value"].tolist() == [row["value"] for row in messages]
    else:
        assert frame["value"].tolist() == [float(row["value"]) for row in messages]
    for name in ("ipc", "n", "error"):
        assert frame[name].dropna().tolist() == [float(row[name]) for row in messages if row[name]]


def test_all_tables_are_one_frame() -> None:
    frame = published.load()
    assert list(dict.fromkeys(frame["table"])) == list(published.TABLES)
    assert frame["value"].tolist() == [each for name in published.TABLES for each in published.load(name)["value"]]


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(DDBenchError, match=r"^unknown published table 'cross_arch'; did you mean 'cross-arch'\?$"):
        published.load("cross_arch")


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        (1, TypeError, r"published.load: table is 1 \(int\); pass one of comparison"),
        ("comparisn", DDBenchError, "unknown published table 'comparisn'"),
    ],
)
def test_a_wrong_argument_of_load_is_one_sentence(table: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        published.load(table)
    assert "\n" not in str(caught.value)


def test_neither_torch_nor_pandas_is_imported() -> None:
    code = "import sys, ddbench.results.published; print(sorted({'torch', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# -- beside what was measured -------------------------------------------------------------------------------


def cell(registry: PluginRegistry, dataset: str = "imagenette", ipc: int = 10, **options: Any) -> Experiment:
    request = Request(**{"methods": ("wmdd",), "datasets": (dataset,), "ipcs": (ipc,), **options})
    (actual,) = experiments(request, registry)
    return actual


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, None),
        ({"dataset": "tiny-imagenet", "assignments": ("runtime.precision=fp32",)}, None),
        ({"dataset": "imagenet-1k", "methods": ("random",), "evaluators": ("hard",), "students": ("resnet50",)}, None),
        ({"dataset": "digits"}, "dataset digits is not in the paper"),
        ({"image_size": 64}, "64 px instead of 224"),
        ({"dataset": "tiny-imagenet", "image_size": 224}, None),
        ({"dataset": "tiny-imagenet", "image_size": 128}, "128 px instead of 224"),
        ({"recipes": ("paper", "released")}, None),
        ({"dataset": "tiny-imagenet", "recipes": ("paper", "released")}, None),
        ({"recipes": ("released", "paper")}, "recipe released+paper"),
        ({"recipes": ("paper", "released", "lloyd")}, "recipe paper+released+lloyd"),
        ({"recipes": ("quick",), "image_size": 224}, "recipe quick"),
        ({"recipes": ("paper", "lloyd")}, "recipe paper+lloyd"),
        ({"assignments": ("method.steps=2000", "data.holdout=0.1")}, "settings changed: method.steps, data.holdout"),
        ({"arch": "resnet50"}, "teacher resnet50 instead of resnet18"),
    ],
)
def test_why_a_cell_is_not_the_papers(registry: PluginRegistry, options: dict[str, Any], reason: str | None) -> None:
    assert published.difference_from_paper(cell(registry, **options)) == reason


def test_a_part_of_the_classes_is_not_the_papers_dataset(registry: PluginRegistry) -> None:
    for spec in registry.datasets():
        if spec.name in DATASETS:
            actual = cell(registry, spec.name)
            assert published.difference_from_paper(actual, spec.classes) is None
            assert published.difference_from_paper(actual, 9) == f"9 classes instead of {spec.classes}"
    assert published.published_text(cell(registry, "tiny-imagenet"), 200) == "41.8 ± 0.1 (64 px instead of 224)"
    assert published.published_text(cell(registry, "tiny-imagenet"), 20) == ""


def test_the_papers_cells_have_the_papers_numbers(registry: PluginRegistry) -> None:
    assert published.published_text(cell(registry)) == "64.8 ± 0.4"
    assert published.published_text(cell(registry, ipc=1)) == "40.2 ± 0.6"
    released = cell(registry, "tiny-imagenet", 50, recipes=("paper", "released"), precision="fp32")
    assert published.published_text(released) == "59.4 ± 0.5"
    assert published.published_text(cell(registry, precision="bf16")) == "64.8 ± 0.4 (bf16 instead of fp32)"
    both = cell(registry, "tiny-imagenet", precision="bf16")
    assert published.departures(both) == "64 px instead of 224, bf16 instead of fp32"
    assert published.published_text(cell(registry, "imagenet-1k", 100)) == "60.7 ± 0.2"
    assert published.published_text(cell(registry, methods=("full",))) == "89.9 (with CutMix)"
    assert published.published_text(cell(registry, "tiny-imagenet", methods=("full",))) == "63.5 (64 px instead of 224)"


@pytest.mark.parametrize(
    "options",
    [
        {"recipes": ("quick",)},
        {"recipes": ("paper", "lloyd")},
        {"image_size": 64},
        {"assignments": ("data.holdout=0.1",)},
        {"ipc": 11},
        {"dataset": "digits"},
        {"students": ("resnet50",)},
        {"arch": "resnet50"},
        {"arch": "resnet50", "students": ("resnet18",)},
        {"evaluators": ("hard",)},
        {"methods": ("random",)},  # the paper quotes it from elsewhere, under another protocol
        {"methods": ("sre2l",)},  # measured there, with settings that it does not give
        {"methods": ("sre2l",), "dataset": "tiny-imagenet"},
        {"methods": ("dm",)},
        {"methods": ("dm",), "evaluators": ("fkd",)},
    ],
)
def test_whatever_departs_from_the_paper_has_no_number_beside_it(
    registry: PluginRegistry, options: dict[str, Any]
) -> None:
    assert published.published_text(cell(registry, **options)) == ""
