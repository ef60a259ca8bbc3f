"""Bytes that no sane peer sends, for everything of ours that reads bytes from outside.

    python -m tests.fuzz --seconds 600 --seed 7      # all targets, ten minutes in all
    python -m tests.fuzz --seconds 3600              # an hour, another seed each time
    python -m tests.fuzz --target frame --reproduce fuzz-failures/frame-0123456789ab.bin

The engine is our own: mutations of captured frames and of our own valid answers, steered by which steps from line
to line an input makes in the package. It needs nothing but Python. libFuzzer, by way of atheris (wheels for Linux
on x86-64 only, 35 MB, hence no dependency), runs the same targets: `python -m tests.fuzz.libfuzzer frame`.
"""
