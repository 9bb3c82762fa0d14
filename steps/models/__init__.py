"""The files of a model and its tokenizer, read and written without torch.

    layout.py           files of a model folder: which are used, and which make it unusable
    odd_config.py       values of its small files that no model has; foreign_code.py: code that they ask for
    known_types.py      the architectures that transformers knows
    weights.py          byte ranges of the tensors in a safetensors file
    identity.py         whether two folders hold the same model
    hashed_file.py      a file that is hashed while it is written
    embeddings.py       names of the embedding matrices
    chat_templates.py   the chat templates of a model, and what makes their text the same in every step
    template_syntax.py  whether a template can be read; template_trial.py: whether its rendering ends
    tokenizer_trial.py  whether tokenizer.json can be used: it is tried on a few words
    tokenizer_files.py  tokens and special tokens of a tokenizer, and adding tokens
    generation_settings.py  a model's own generation settings, of which only special tokens are used
    token_range.py      tokens for which a model has no embedding
    new_tokens.py       the plan's decision which tokens a model gets
    token_files.py      renaming tokens in each tokenizer file
    token_renaming.py   which tokens can be renamed; token_proof.py loads the result and compares it with the original
    word_tokenizer.py   the tokenizer for token classification
    seq2seq.py          the tokenizer and language codes of an encoder-decoder model

transformers loads a tokenizer where text must be tokenised; everything else reads JSON files and headers.
"""
