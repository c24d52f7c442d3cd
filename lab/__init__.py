"""How the tiny pair is made: corpus, tokenizer, training, export. Not part of the wheel; run it with `make lab`."""
