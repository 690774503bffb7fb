"""`python -m product1m`, which is how `torchrun` starts a step."""

from product1m.cli.app import app

if __name__ == "__main__":
    app(prog_name="product1m")
