"""The longest row of a model that sets none: the lower limit of its tokenizer and its positions."""

import pytest

from steps.models.layout import ModelLayout

NONE = int(1e30)  # what transformers writes for a tokenizer without a limit
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


def layout(config: dict, tokenizer: object = None) -> ModelLayout:
    return ModelLayout({}, {}, {}, config, {"model_max_length": tokenizer} if tokenizer is not None else {}, ())


@pytest.mark.parametrize(
    ("config", "tokenizer", "longest"),
    [
        ({"max_position_embeddings": 1_010_000}, 1_010_000, 1_010_000),
        ({"max_position_embeddings": 10_485_760}, NONE, 10_485_760),
        ({"max_position_embeddings": 1_010_000}, 512, 512),
        ({"max_position_embeddings": 2048}, 1e30, 2048),
        ({"n_positions": 1024}, None, 1024),
        ({}, 4096, 4096),
        ({}, NONE, 512),
        ({}, None, 512),
        ({"model_type": "t5", "n_positions": 512}, NONE, 512),
        ({"max_position_embeddings": 4096}, "long", 4096),
        ({"max_position_embeddings": 4096}, -1, 4096),
        ({"max_position_embeddings": 32768, "sliding_window": 4096}, NONE, 32768),
        ({"text_config": {"max_position_embeddings": 8192}}, NONE, 8192),
        ({"max_position_embeddings": 32768, "rope_scaling": YARN}, NONE, 131_072),
        ({"max_position_embeddings": 131_072, "rope_scaling": YARN}, NONE, 131_072),
        ({"max_position_embeddings": 131_072, "rope_parameters": YARN}, 131_072, 131_072),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 4}}, 16384, 16384),
        ({"max_position_embeddings": 131_072, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, NONE, 131_072),
        ({"max_position_embeddings": 4096, "rope_parameters": {"full_attention": YARN}}, NONE, 4096),
        ({"max_position_embeddings": 514, "model_type": "xlm-roberta", "pad_token_id": 1}, NONE, 512),
        ({"max_position_embeddings": 514, "model_type": "mpnet", "pad_token_id": 1}, NONE, 512),
    ],
)
def test_a_model_gets_its_own_limit(config, tokenizer, longest):
    assert layout(config, tokenizer).max_length == longest
