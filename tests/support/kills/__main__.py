"""`python -m tests.support.kills SCENARIO … [--part 2/8]`: a campaign, or a part of one."""

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.support.kills.campaign import campaign
from tests.support.kills.scenarios import SCENARIOS
from tests.support.servers.s3_server import running_server
from tests.support.worlds.tiny_chain import run_chain


def main() -> int:
    """Run the campaigns; the number of failures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenarios", nargs="+", choices=sorted(SCENARIOS), metavar="SCENARIO")
    parser.add_argument("--part", default="1/1", help="of the attempts, such as 2/8")
    parser.add_argument("--only", default="", help="operations that begin so, such as commit")
    parser.add_argument("--minutes", type=float, default=60, help="longest time of a scenario")
    parser.add_argument("--done", type=Path, help="file of kills tried before, and now")
    parser.add_argument("--world", type=Path, help="folder of the inputs, created if missing")
    parser.add_argument("--replacing", action="store_true", help="where old artifacts are")
    parser.add_argument("--s3", action="store_true", help="with an S3 server, for stores")
    options = parser.parse_args()
    part, parts = (int(number) for number in options.part.split("/"))
    failures = 0
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        world = options.world or scratch / "world"
        if not world.exists():
            run_chain(world)
        (scratch / "s3").mkdir()
        server = stack.enter_context(running_server(scratch / "s3")) if options.s3 else None
        running = stack.enter_context(campaign(world, scratch / "kills", server))
        for name in options.scenarios:
            report = running.run(
                name,
                every=parts,
                seed=part,
                replacing=options.replacing,
                only=options.only,
                minutes=options.minutes,
                done=options.done,
            )
            sys.stdout.write("\n".join([str(report), *report.failures, ""]))
            sys.stdout.flush()
            failures += len(report.failures)
    return failures


if __name__ == "__main__":
    raise SystemExit(main())
