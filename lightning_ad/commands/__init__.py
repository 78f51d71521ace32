"""What a user can type: one file for each word, `lightning-ad train | evaluate | compare | ...`.

All commands follow one pattern, so that `--help` answers at once, without importing torch:

- `main.py` holds the table: a line of help for each word, its arguments and its module.
- `arguments.py` declares the arguments of each word with argparse, and imports nothing heavy.
  `train` and `preview` declare none: their flags are those of Lightning's CLI.
- The module of a word has a function `run(arguments)`, which does the work. `main.py` imports the
  module once the arguments are parsed, so that help and a mistyped word do not wait for torch.

A new command is one new module with its `run`, its arguments, and a line in the table.
"""
