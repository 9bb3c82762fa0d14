"""Signature and provenance of registered versions.

`keys.py` reads keys, `signature.py` signs digests of files and checks a signature (with the library model-signing,
whose own command reads the same files), `statement.py` is the form of the provenance, and `places.py` lists and hashes
the files of a folder, of MLflow's store or of an object store. What a version's provenance says is in
`steps/register_model/provenance.py`, and `finetune verify` in `steps/register_model/verifying.py`.
"""

SIGNATURE = "model.sig"
PROVENANCE = "provenance.json"
