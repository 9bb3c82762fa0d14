"""Small base models for classifiers, and rows that a classifier can learn."""

from pathlib import Path

from conftest import build_model, write_jsonl

from steps.params.settings import DataSettings, Resolved

WORDS = {"fruit": "apple pear plum", "metal": "iron zinc tin", "colour": "red blue green"}


def build_bert(folder: Path, backbone_only: bool = False) -> None:
    """Save a random BERT that tells the two texts of a pair apart, with a WordPiece tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM, BertModel, BertTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [word for group in WORDS.values() for word in group.split()]
    vocabulary = {token: number for number, token in enumerate([*special, "the", "and", "a", ".", *words])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    BertTokenizerFast(tokenizer_object=tokenizer, model_max_length=64).save_pretrained(folder)
    config = BertConfig(vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=64, max_position_embeddings=64)  # fmt: skip
    torch.manual_seed(0)
    (BertModel(config) if backbone_only else BertForMaskedLM(config)).save_pretrained(folder)


def build_gpt2_backbone(folder: Path) -> None:
    """Save a random GPT-2 without its head, and so without the prefix of its names; it has no padding token."""
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2Model

    build_model(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=64)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    GPT2Model(config).save_pretrained(folder)


BUILDERS = {
    "llama": build_model,
    "bert": build_bert,
    "bert backbone": lambda folder: build_bert(folder, backbone_only=True),
    "gpt2 backbone": build_gpt2_backbone,
}


def label_rows(count: int, pairs: bool = False, several: bool = False) -> list[dict]:
    """Make rows whose label follows from their words; all different."""
    kinds = sorted(WORDS)
    rows = []
    for number in range(count):
        kind, other = kinds[number % 3], kinds[(number // 3) % 3]
        words, others = WORDS[kind].split(), WORDS[other].split()
        row = {"text": f"the {words[number % 2]} and the {words[2]} {number}", "kind": kind}
        if pairs:
            row |= {"other": f"a {others[number % 3]}", "kind": "same" if kind == other else "different"}
        if several:
            row["kind"] = [] if number % 5 == 4 else sorted({kind, other})
        rows.append(row)
    return rows


def data_settings(folder: Path, rows: list[dict], length: int = 32, **changes) -> DataSettings:
    """Write rows as train (all but the last 24), validation and test, and give the settings to prepare them."""
    from steps.sources.storage import digest_of

    folder.mkdir(parents=True, exist_ok=True)
    parts = {"train": rows[:-24], "validation": rows[-24:-12], "test": rows[-12:]}
    files = {name: write_jsonl(folder / f"{name}.jsonl", part) for name, part in parts.items()}
    sources = {
        name: Resolved(uri=str(file), digest=digest_of(f"{name}_file_path", str(file))) for name, file in files.items()
    }
    columns = {"sentence1_key": "text", "label_key": "kind", **changes.pop("columns", {})}
    return DataSettings(
        task="text_classification",
        kind="sequence_classification",
        columns=columns,
        max_length=length,
        **sources,
        **changes,
    )
