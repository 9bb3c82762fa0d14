"""The files of a model and its tokenizer, read and written without torch.

    layout.py           which files of a folder matter, and what makes one unusable
    weights.py          where each tensor lies inside a safetensors file
    hashed_file.py      a file that is hashed while it is written
    embeddings.py       names of the embeddings
    tokenizer_files.py  tokens and special tokens of a tokenizer, and how it gets more
    new_tokens.py       which tokens a model gets that it does not know, as the plan decides
    token_files.py      the edits of each tokenizer file that rename tokens
    token_renaming.py   which tokens can be renamed; token_proof.py loads the result and compares
    word_tokenizer.py   the tokenizer of a model that tags words
    seq2seq.py          the tokenizer of a model with an encoder and a decoder, and its languages

Tokenizers are loaded with transformers where text has to be cut; everything else reads JSON and headers.
"""
