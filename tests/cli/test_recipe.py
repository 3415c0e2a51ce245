"""Recipes: what is wrong with a file is told with its line."""

from pathlib import Path

import pytest

from tunewright.cli.data_files import COMPRESSED_ENDINGS, DATA_ENDINGS, DataFiles, find_data_files
from tunewright.cli.errors import CliError
from tunewright.cli.recipe import load_recipe
from tunewright.dataprep.readers import sources

GOOD = """\
name: bot
base_model: tiny
data:
  - path: raw.jsonl
  - file: file-1
training:
  learning_rate: 2.0e-4
  lora_r: 16
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_a_field_is_found_on_its_line_also_by_the_gateways_spelling(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    recipe = load_recipe(path)
    assert recipe.place("training.lora_r") == f"{path}:8: training.lora_r"
    assert recipe.place("data[1].file") == f"{path}:5: data[1].file"
    assert recipe.place("training.unknown") == f"{path}:6: training.unknown"
    assert recipe.place("deployment") == f"{path}: deployment"


def test_uploaded_files_take_the_place_of_their_paths(tmp_path: Path) -> None:
    (tmp_path / "raw.jsonl").write_text("{}\n")
    recipe = load_recipe(written(tmp_path, GOOD))
    assert recipe.uploads() == [("data.0", DataFiles(tmp_path / "raw.jsonl", [tmp_path / "raw.jsonl"]))]
    assert recipe.with_files({"data.0": ["file-0"]}).values["data"] == [{"file": "file-0"}, {"file": "file-1"}]
    assert recipe.values["data"][0] == {"path": "raw.jsonl"}, "the recipe itself is left as it is"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: a\ntraining: {a: 1\nfoo: ]\n", "recipe.yaml:3:4: "),
        ("name: a\n\tbase_model: b\n", "recipe.yaml:2:1: "),
        ("name: a\nname: b\n", "recipe.yaml:2: name is given twice, first on line 1"),
        ("training:\n  a: 1\n  a: 2\n", "recipe.yaml:3: training.a is given twice, first on line 2"),
        ("- a\n", "recipe.yaml:1: a recipe is expected"),
        ("", "recipe.yaml:1: a recipe is expected"),
    ],
)
def test_what_is_wrong_with_the_yaml_is_told_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(CliError) as caught:
        load_recipe(written(tmp_path, text))
    assert words in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("data: []", "recipe.yaml:2: data: at least one file"),
        ("data: [raw.jsonl]", "recipe.yaml:2: data.0: a mapping is expected"),
        ("data:\n  - path: missing.jsonl", "recipe.yaml:3: data.0.path: "),
        ("data:\n  - path: empty.jsonl", "empty.jsonl is empty"),
        ("data:\n  - path: folder", "recipe.yaml:3: data.0.path: "),
        ("data:\n  - path: folder", "holds no data file: paper.pdf (no data by its name)"),
        (
            "data:\n  - path: https://host/rows/",
            "recipe.yaml:3: data.0.path: files and folders of this machine and s3://bucket/prefix/ are read",
        ),
        ("data:\n  - path: 5", "recipe.yaml:3: data.0.path: the path of a file or a folder is expected"),
    ],
)
def test_a_data_file_that_cannot_be_sent_is_named_with_its_line(tmp_path: Path, data: str, words: str) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "paper.pdf").write_bytes(b"%PDF")
    with pytest.raises(CliError) as caught:
        load_recipe(written(tmp_path, f"name: a\n{data}\n")).uploads()
    assert words in caught.value.message


def test_a_folder_stands_for_every_data_file_below_it_and_what_is_left_out_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    (folder / "b").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for name in ("b/2.jsonl", "1.txt", "b/3.csv.gz", ".hidden/4.txt", "5.pdf"):
        (folder / name).write_text("text")
    (folder / "6.md").touch()
    (tmp_path / "secret.txt").write_text("secret")
    links = {"7.txt": tmp_path / "secret.txt", "8.txt": folder / "gone", "9.txt": folder / "1.txt", "loop": folder}
    for name, target in links.items():
        (folder / name).symlink_to(target)
    found = find_data_files(folder)
    assert [path.relative_to(folder).as_posix() for path in found.files] == [
        "1.txt",
        "9.txt",
        "b/2.jsonl",
        "b/3.csv.gz",
    ]
    assert found.skipped == [
        "5.pdf (no data by its name)",
        "6.md (empty)",
        "7.txt (a link out of the folder)",
        "8.txt (a link to nothing)",
        "loop (a link to a folder)",
    ]
    assert found.words().startswith("corpus: 4 files, 0.0 MB; left out: 5.pdf (no data by its name), 6.md")


def test_files_of_a_folder_are_one_source_and_their_faults_stand_on_its_line(tmp_path: Path) -> None:
    path = written(
        tmp_path, "data:\n  - file: file-1\n  - path: corpus/\n    weight: 2\n    use: tset\n  - path: x.txt\n"
    )
    recipe = load_recipe(path)
    sent = recipe.with_files({"data.1": ["file-2", "file-3"], "data.2": ["file-4"]})
    said = {"name": "corpus", "weight": 2, "use": "tset"}
    assert sent.values["data"] == [
        {"file": "file-1"},
        said | {"file": "file-2"},
        said | {"file": "file-3"},
        {"file": "file-4"},
    ]
    assert recipe.place(sent.field_of_recipe("data[2].use")) == f"{path}:5: data[1].use"
    assert recipe.place(sent.field_of_recipe("data[3].file")) == f"{path}:6: data[2].file"


STAGED = """\
name: bot
training: {lora_r: 8, max_length: 64}
data: [{path: all.jsonl}]
stages:
  - name: cpt
    data:
      - file: file-1
      - path: texts/
    training: {objective: cpt, max_length: 32}
  - name: sft
"""


def test_files_of_stages_are_sent_too_and_their_faults_stand_on_their_lines(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for name in ("all.jsonl", "texts/1.txt", "texts/2.txt"):
        (tmp_path / name).write_text("x")
    recipe = load_recipe(written(tmp_path, STAGED))
    assert [(field, found.count) for field, found in recipe.uploads()] == [("data.0", 1), ("stages.0.data.1", 2)]
    sent = recipe.with_files({"data.0": ["file-2"], "stages.0.data.1": ["file-3", "file-4"]})
    assert sent.values["data"] == [{"file": "file-2"}]
    texts = [{"name": "texts", "file": f"file-{number}"} for number in (3, 4)]
    assert sent.values["stages"][0]["data"] == [{"file": "file-1"}, *texts]
    assert "data" not in sent.values["stages"][1]
    place = f"{recipe.path}:8: stages[0].data[1].file"
    assert recipe.place(sent.field_of_recipe("stages[0].data[2].file")) == place
    assert recipe.place(sent.field_of_recipe("stages[1].data[0].file")) == f"{recipe.path}:3: data[0].file"
    assert recipe.values["stages"][0]["data"][1] == {"path": "texts/"}, "the recipe itself stays"


def test_each_stage_alone_is_a_recipe_with_its_own_settings_over_the_common_ones(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, STAGED))
    (first, cpt), (second, sft) = recipe.alone()
    assert (first, second) == ("cpt", "sft")
    assert cpt.values["training"] == {"lora_r": 8, "max_length": 32, "objective": "cpt"}
    assert sft.values["training"] == {"lora_r": 8, "max_length": 64}
    assert sft.values["data"] == [{"path": "all.jsonl"}]
    assert cpt.place("training.max_length") == f"{recipe.path}:9: training.max_length"
    assert sft.place("training.max_length") == f"{recipe.path}:2: training.max_length"


@pytest.mark.parametrize("stages", ["[]", "sft", "[sft]"])
def test_stages_that_are_none_are_told_with_their_line(stages: str, tmp_path: Path) -> None:
    with pytest.raises(CliError, match=r":2: stages: a list of stages is expected"):
        load_recipe(written(tmp_path, f"name: a\nstages: {stages}\n")).uploads()


def test_the_command_line_takes_the_files_that_data_preparation_reads() -> None:
    assert (DATA_ENDINGS, COMPRESSED_ENDINGS) == (sources.DATA_ENDINGS, sources.COMPRESSED_ENDINGS)


def test_bytes_that_are_no_utf8_are_named_with_their_place(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"name: caf\xe9\n")
    with pytest.raises(CliError, match="byte 9 is no UTF-8"):
        load_recipe(path)
