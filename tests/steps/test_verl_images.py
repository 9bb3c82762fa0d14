"""Prompts with images for verl: their forms and what is refused, and the rows and tokens that verl makes of them."""

import base64
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_jsonl
from vision import image_row, picture

from steps.errors import UserError
from steps.params.chat_columns import VerlColumns
from steps.params.data import DataSource, Preprocessing
from steps.params.settings import DataSettings, Resolved
from steps.prepare_data.check.checking import check_data
from steps.prepare_data.check.rows import read_back
from steps.prepare_data.step import prepare_data
from steps.sources.storage import digest_of
from steps.tasks.rules import image_files
from steps.tasks.rules.image_files import Unusable, image_bytes
from steps.verl.data import write_data

RED, BLUE = picture("red"), picture("blue", (28, 56), "JPEG")
URI = "data:image/png;base64," + base64.b64encode(RED).decode()


TEXTS = [
    image_row(100 + number, None, prompt=[{"role": "user", "content": f"How many is {number}?"}])
    for number in range(30)
]


def written(folder: Path, rows: list[dict]) -> Path:
    """A file with these rows, and enough rows of text for every split."""
    return write_jsonl(folder / "rows.jsonl", rows + TEXTS)


def checked(file: Path, scratch: Path, **columns) -> list[dict]:
    """The canonical rows of a file that have images, in the order of their right answers."""
    scratch.mkdir()
    found = check_data("verl", DataSource(train_file_path=str(file)), VerlColumns(**columns), scratch=scratch)
    rows = [row for part in found.rows.values() for row in read_back(part.table())]
    return sorted((row for row in rows if row["images"]), key=lambda row: row["ground_truth"])


def refused(file: Path, **columns) -> list:
    with pytest.raises(UserError) as error:
        check_data("verl", DataSource(train_file_path=str(file)), VerlColumns(**columns))
    return error.value.problems


def in_parts(*parts) -> list[dict]:
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "Which?"}]}]


FORMS = {
    "a path": image_row(1, ["pictures/red.png"]),
    "one path alone": image_row(1, "pictures/red.png"),
    "a data URI": image_row(1, [URI]),
    "an object with a path": image_row(1, [{"path": "pictures/red.png"}]),
    "an object with base64": image_row(1, [{"bytes": base64.b64encode(RED).decode(), "path": None}]),
    "a part and a column": image_row(1, ["pictures/red.png"], prompt=in_parts({"type": "image"})),
    "a part with its image": image_row(1, None, prompt=in_parts({"type": "image", "image": "pictures/red.png"})),
    "a part of OpenAI": image_row(1, [], prompt=in_parts({"type": "image_url", "image_url": {"url": URI}})),
    "a text as prompt": image_row(1, [URI], prompt="<image>Which?"),
}


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "data/pictures").mkdir(parents=True)
    (tmp_path / "data/pictures/red.png").write_bytes(RED)
    (tmp_path / "outside.png").write_bytes(RED)
    return tmp_path / "data"


@pytest.mark.parametrize("form", FORMS)
def test_every_form_becomes_bytes_with_a_place_in_the_prompt(form, folder, tmp_path):
    [row] = checked(written(folder, [FORMS[form]]), tmp_path / "scratch")
    assert row["images"] == [RED]
    assert row["prompt"][0]["content"].startswith("<image>")
    assert row["prompt"][0]["content"].count("<image>") == 1


def test_parquet_and_csv_have_images_too_under_the_name_that_the_user_gives(folder, tmp_path):
    rows = [image_row(0, None), image_row(1, None), *TEXTS]
    none = [None] * len(TEXTS)
    structs = [[{"bytes": RED, "path": "a.png"}], [{"bytes": BLUE, "path": None}], *none]
    table = pa.Table.from_pylist(rows).drop_columns(["images"])
    pq.write_table(table.append_column("pics", pa.array(structs)), folder / "a.parquet")
    plain = pa.array([[RED], [BLUE], *none], pa.list_(pa.binary()))
    pq.write_table(table.append_column("pics", plain), folder / "b.parquet")
    lines = ["<image>Which?,4,pictures/red.png", '<image>Which one?,5,"[""pictures/red.png""]"']
    lines += [f"How many is {number}?,{number}," for number in range(30)]
    (folder / "c.csv").write_text("\n".join(["q,a,pics", *lines]) + "\n")
    for name in ("a", "b"):
        made = checked(folder / f"{name}.parquet", tmp_path / name, data_image_key="pics")
        assert [row["images"] for row in made] == [[RED], [BLUE]]
    made = checked(folder / "c.csv", tmp_path / "c", data_image_key="pics", question_key="q", answer_key="a",
                   data_source="openai/gsm8k")  # fmt: skip
    assert [row["images"] for row in made] == [[RED], [RED]]


def test_several_images_keep_the_order_of_their_places(folder, tmp_path):
    prompt = [{"role": "system", "content": "See <image>."},
              *in_parts({"type": "image", "image": URI}, {"type": "image"})]  # fmt: skip
    uris = [f"data:;base64,{base64.b64encode(picture(colour)).decode()}" for colour in ("green", "black")]
    [row] = checked(written(folder, [image_row(1, uris, prompt=prompt)]), tmp_path / "scratch")
    assert row["images"] == [picture("green"), RED, picture("black")]
    assert [one["content"] for one in row["prompt"]] == ["See <image>.", "<image><image>Which?"]


WRONG = {
    "outside": ("../outside.png", "DATA-E1540"),
    "absolute": ("/etc/hostname", "DATA-E1540"),
    "a link out": ("link.png", "DATA-E1540"),
    "an address": ("http://example.com/red.png", "DATA-E1540"),
    "a file address": ("file:///etc/hostname", "DATA-E1540"),
    "an object store": ("s3://bucket/red.png", "DATA-E1540"),
    "absent": ("pictures/none.png", "DATA-E1540"),
    "a folder": ("pictures", "DATA-E1540"),
    "a pipe": ("pipe", "DATA-E1540"),
    "U+0000": ("a\0b.png", "DATA-E1540"),
    "cut": ({"bytes": base64.b64encode(picture(size=(300, 300), mode="RGB")[:-60]).decode()}, "DATA-E1539"),
    "a cut JPEG": ({"bytes": base64.b64encode(picture(size=(300, 300), kind="JPEG")[:-600]).decode()}, "DATA-E1539"),
    "a GIF": ({"bytes": base64.b64encode(picture(kind="GIF")).decode()}, "DATA-E1539"),
    "no image": ({"bytes": base64.b64encode(b"hello").decode()}, "DATA-E1539"),
    "no base64": ("data:image/png;base64,???", "DATA-E1550"),
    "stretched": ({"bytes": base64.b64encode(picture(size=(2, 401))).decode()}, "DATA-E1548"),
    "a number": (7, "DATA-E1549"),
    "an empty object": ({"path": None}, "DATA-E1549"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_image_that_cannot_be_used_is_refused_with_its_row(name, folder):
    os.symlink("../outside.png", folder / "link.png")
    os.mkfifo(folder / "pipe")
    source, code = WRONG[name]
    rows = [image_row(0, ["pictures/red.png"]), image_row(1, [source])]
    [problem] = refused(written(folder, rows))
    assert (problem.code, "rows.jsonl:2" in problem.where, "images[0]" in problem.where) == (code, True, True)


def test_bounds_of_bytes_and_pixels(monkeypatch):
    monkeypatch.setattr(image_files, "MOST_PIXELS", 1000)
    with pytest.raises(Unusable, match="56 × 28 pixels"):
        image_bytes(RED, "images[0]", None)
    monkeypatch.setattr(image_files, "LARGEST", 50)
    for source in (RED, URI):
        with pytest.raises(Unusable, match="bytes"):
            image_bytes(source, "images[0]", None)


@pytest.mark.parametrize(
    ("row", "code"),
    [
        (image_row(1, [URI, URI]), "DATA-E1537"),
        (image_row(1, []), "DATA-E1537"),
        (image_row(1, [URI], prompt="Which?"), "DATA-E1537"),
        (image_row(1, [URI], prompt="<image> and <video>?"), "DATA-E1538"),
        (image_row(1, [URI], videos=["a.mp4"]), "DATA-E1536"),
    ],
)
def test_places_and_images_are_as_many(row, code, folder):
    [problem] = refused(written(folder, [row]))
    assert problem.code == code


def test_a_model_of_text_takes_no_images(folder):
    [problem] = refused(written(folder, [image_row(1, [URI])]), data_image_key="")
    assert (problem.code, "text only" in problem.expected) == ("DATA-E1536", True)


def test_rows_with_other_images_are_other_rows(folder, tmp_path):
    """Equal questions about other images neither repeat each other nor are held out together."""
    uris = [f"data:;base64,{base64.b64encode(picture(size=(30 + n, 40))).decode()}" for n in range(40)]
    rows = [image_row(1, [uri], extra_info=None, prompt="<image>How many?") for uri in uris]
    (tmp_path / "scratch").mkdir()
    source = DataSource(train_file_path=str(write_jsonl(folder / "rows.jsonl", rows)))
    found = check_data("verl", source, VerlColumns(), scratch=tmp_path / "scratch")
    assert sum(found.counts.values()) == 40
    assert all(found.counts.values())
    assert not {"DATA-W0701", "DATA-W0703", "DATA-W0702"} & {one["code"] for one in found.warnings}


def settings(folder: Path, rows: list[dict], **changes) -> DataSettings:
    parts = {"train": rows[:12], "validation": rows[12:13], "test": rows[13:]}
    files = {name: write_jsonl(folder / f"{name}.jsonl", part) for name, part in parts.items()}
    sources = {name: Resolved(uri=str(file), digest=digest_of(name, str(file))) for name, file in files.items()}
    usual = {"max_prompt_length": 256, "max_completion_length": 16, **changes}
    return DataSettings(task="verl", method="grpo", kind="image_text_lm", **sources, **usual)


def some_rows() -> list[dict]:
    """18 rows: the second and the fifteenth without an image, those after them with two, the others with one."""
    sizes = [(56, 56), (100, 333), (17, 40), (700, 500)]
    uris = [f"data:;base64,{base64.b64encode(picture(size=size)).decode()}" for size in sizes]
    rows = [image_row(number, [uris[number % 4]]) for number in range(18)]
    rows[1] |= {"images": [], "prompt": "How many is one?"}
    rows[2] |= {"images": uris[:2], "prompt": "<image>Or<image>?"}
    rows[14] |= {"images": None, "prompt": "How many is three?"}
    rows[15] |= {"images": uris[1:3], "prompt": "<image>And<image>?"}
    return rows


def of_transformers(model: Path):
    """transformers' processor of this model, but for videos, which needs torchvision."""
    from transformers import AutoTokenizer, Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    class ImagesOnly(Qwen2_5_VLProcessor):
        def __init__(self, image_processor=None, tokenizer=None, chat_template=None):
            self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
            ids = tokenizer.convert_tokens_to_ids([self.image_token, self.video_token])
            self.image_token_id, self.video_token_id = ids
            super(Qwen2_5_VLProcessor, self).__init__(image_processor, tokenizer, chat_template=chat_template)

    tokenizer = AutoTokenizer.from_pretrained(model)
    return ImagesOnly(Qwen2VLImageProcessorPil.from_pretrained(model), tokenizer, tokenizer.chat_template)


def test_tokens_are_those_of_the_models_processor_and_rows_those_of_verl(vision_model, tmp_path):
    """The rows are read as verl.utils.dataset.rl_dataset.RLHFDataset reads them."""
    from io import BytesIO

    from datasets import load_dataset
    from PIL import Image

    from steps.models.images import as_verl_opens

    rows = some_rows()
    (tmp_path / "in").mkdir()
    prepare_data(settings(tmp_path / "in", rows), vision_model, tmp_path / "data", tmp_path / "data.html")
    files = write_data(tmp_path / "data", tmp_path / "verl", True, "pictures")
    read = list(load_dataset("parquet", data_files=str(files.train), cache_dir=str(tmp_path / "cache"))["train"])
    made = pq.read_table(tmp_path / "data/tokens/train.parquet")["prompt_ids"].to_pylist()
    processor = of_transformers(vision_model)
    assert len(read) == len(made) == 12
    for row, ids in zip(read, made, strict=True):
        [message] = row["prompt"]
        pieces = message["content"].split("<image>")
        assert len(pieces) - 1 == len(row["pictures"])
        content = [one for piece in pieces for one in ({"type": "text", "text": piece}, {"type": "image"})][:-1]
        shown = processor.apply_chat_template(
            [{"role": "user", "content": [part for part in content if part.get("text") != ""]}],
            add_generation_prompt=True, tokenize=False,
        )  # fmt: skip
        images = [as_verl_opens(one["bytes"]) for one in row["pictures"]]
        assert all(Image.open(BytesIO(one["bytes"])).format == "PNG" for one in row["pictures"])
        assert processor(text=[shown], images=images or None)["input_ids"][0] == ids
    assert json.loads(read[0]["extra_info"]["finetune_prompt"])[0]["content"] == "<image>How many is 0?"


def test_prompts_are_too_long_by_the_tokens_of_their_images(vision_model, tmp_path):
    rows = some_rows()
    asked = settings(tmp_path, rows, max_prompt_length=48, preprocessing=Preprocessing(length_handling="filter"))
    prepare_data(asked, vision_model, tmp_path / "data", tmp_path / "data.html")
    kept = [row["prompt"][0]["content"] for row in pq.read_table(tmp_path / "data/rows/train.parquet").to_pylist()]
    assert kept[:3] == ["<image>How many is 0?", "How many is one?", "<image>How many is 4?"]
    assert len(kept) < 12


def test_a_token_of_images_in_a_text_is_refused(vision_model, tmp_path):
    rows = some_rows()
    rows[3]["prompt"] = "<image>Which <|image_pad|>?"
    with pytest.raises(UserError, match=r"DATA-E0805 .*2 tokens <\|image_pad\|> for 1 images"):
        prepare_data(settings(tmp_path, rows), vision_model, tmp_path / "data", tmp_path / "data.html")
