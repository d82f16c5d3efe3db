"""`python -m resect`, as `accelerate launch -m resect` calls it."""

from resect.cli import main

main(prog_name="resect")
