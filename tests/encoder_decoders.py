"""Small encoder-decoder models, their tokenizers made offline, and pairs that can be learned."""

from pathlib import Path

from conftest import write_jsonl

from steps.params.settings import DataSettings, Resolved

WORDS = {"red": "rema", "old": "ola", "fox": "foku", "boat": "bota", "tree": "tiru", "king": "kano"}
SMALL = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
         "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "dropout": 0.0,
         "attention_dropout": 0.0, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0,
         "max_position_embeddings": 64}  # fmt: skip
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def pieces(special: list[str]) -> list[tuple[str, float]]:
    """Give a unigram vocabulary: whole words, and letters for all else."""
    words = [
        f"▁{word}" for word in ("the", "translate", "English", "to", "German:", "summarize:", *WORDS, *WORDS.values())
    ]
    letters = list("▁abcdefghijklmnopqrstuvwxyzEG0123456789:.-")
    return [(token, 0.0) for token in special] + [(word, -2.0) for word in words] + [(one, -9.0) for one in letters]


def build_t5(folder: Path, tied: bool = True) -> None:
    import torch
    from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

    tokenizer = T5Tokenizer(vocab=pieces(["<pad>", "</s>", "<unk>"]), extra_ids=0)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, dropout_rate=0.0,
        decoder_start_token_id=0, tie_word_embeddings=tied,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)


def build_bart(folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet)
    made.train_from_iterator([" ".join(WORDS), " ".join(WORDS.values())] * 4, trainer)
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=False)
    PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BartConfig(vocab_size=made.get_vocab_size(), **SMALL)
    BartForConditionalGeneration(config).save_pretrained(folder)


def build_mbart(folder: Path) -> None:
    import torch
    from transformers import MBartConfig, MBartForConditionalGeneration, MBartTokenizer

    tokenizer = MBartTokenizer(vocab=pieces(SPECIAL))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    MBartForConditionalGeneration(MBartConfig(vocab_size=len(tokenizer), **SMALL)).save_pretrained(folder)


def build_m2m100(folder: Path) -> None:
    """Save a random M2M100 with NLLB's tokenizer; its own needs the package sentencepiece."""
    import json

    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import M2M100Config, M2M100ForConditionalGeneration, NllbTokenizer

    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    made.train_from_iterator([" ".join(WORDS), " ".join(WORDS.values())] * 4,
                             trainers.BpeTrainer(vocab_size=120, special_tokens=SPECIAL))  # fmt: skip
    model = json.loads(made.to_str())["model"]
    tokenizer = NllbTokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = M2M100Config(vocab_size=len(tokenizer), **SMALL)
    M2M100ForConditionalGeneration(config).save_pretrained(folder)


BUILDERS = {"t5": build_t5, "bart": build_bart, "mbart": build_mbart, "m2m_100": build_m2m100}
LANGUAGES = {"t5": ("en", "de"), "bart": ("en", "de"), "mbart": ("en", "de"), "m2m_100": ("eng_Latn", "deu_Latn")}


def pairs(count: int, kind: str = "t5") -> list[dict]:
    """Make texts and their translations word by word."""
    source, target = LANGUAGES[kind]
    words = list(WORDS)
    rows = []
    for number in range(count):
        chosen = [words[number % 6], words[number // 6 % 6], words[number // 36 % 6]]
        rows.append({source: " ".join(chosen), target: " ".join(WORDS[word] for word in chosen)})
    return rows


def data_settings(folder: Path, rows: list[dict], kind: str = "t5", **changes) -> DataSettings:
    """Write rows as train (all but the last 24), validation and test, and give the settings to prepare them."""
    from steps.sources.storage import digest_of

    folder.mkdir(parents=True, exist_ok=True)
    parts = {"train": rows[:-24], "validation": rows[-24:-12], "test": rows[-12:]}
    files = {name: write_jsonl(folder / f"{name}.jsonl", part) for name, part in parts.items()}
    sources = {name: Resolved(uri=str(file), digest=digest_of(name, str(file))) for name, file in files.items()}
    source, target = LANGUAGES[kind]
    given = {
        "task": "translation", "max_length": 32, "max_target_length": 16,
        "columns": {"source_lang": source, "target_lang": target, "text_separator": "",
                    "prompt_prefix": "auto" if kind == "t5" else ""},
        **changes,
    }  # fmt: skip
    return DataSettings(kind="seq2seq_lm", **sources, **given)
