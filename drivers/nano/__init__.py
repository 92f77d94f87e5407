"""Nano: the small model that turns an intent into a program, trained in this repository.

    corpus/  hand-written phrasings and fillers        corpus.py   reads them
    slots, noise, compose  ->  generate.py             examples without end, seeded
    vocabulary.py                                      tokens
    train.py  ->  weights/                             a Qwen3 that vLLM and transformers load
    dialect.py                                         prompt, grammar, program (pure Python)
    numerals.py, durations.py                          what is counted by code
    predict.py, score.py                               measuring

Only ``dialect`` and what it imports are used at run time by the kernel.
"""
