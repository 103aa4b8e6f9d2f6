"""The ``coordkit`` command."""

from __future__ import annotations

import sys
from collections.abc import Sequence

_DEMO = """\
Play coordkit's main job on live processes and real servers, and check every step:

  1  several processes increment one balance under a lock; the sum is exact
  2  a holder sleeps past its ttl; its late write is refused by its token
  3  a leader process is killed; a follower takes over with a higher token
  4  ten thousand keys over three shards, then four: about a quarter move
  5  reads over the replicas of a shard, by three pickers

Servers are those named by the options; else private ones, started as child
processes if redis-server and ZooKeeper are installed, else in containers.
All is removed at the end, also after Ctrl-C. On named servers only the demo's
own namespace is written and deleted. Scene 4 uses named servers if --redis-url
has four; scene 5 always starts a primary and replicas of its own.
"""

_STATUS = """\
exit status:
  0    every check of every scene held
  1    a check did not hold, or a scene could not be played to its end
  2    the command line is wrong
  3    a server is missing, does not answer, or cannot be written to; the
       message says what helps
  130  Ctrl-C (143: SIGTERM, 129: SIGHUP), after everything was removed
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status, or raise SystemExit as argparse does."""
    try:
        return _main(arguments)
    except KeyboardInterrupt:  # while modules were imported: there is nothing to remove yet, and nothing to tell
        return 130


def _main(arguments: Sequence[str] | None) -> int:
    import argparse  # here, like the rest, so that the first tenths of a second can be interrupted without a traceback

    import coordkit
    from coordkit import lock_command, reshard_command

    parser = argparse.ArgumentParser(
        prog="coordkit", description="Locks with fencing tokens, leader election, membership and sharded Redis."
    )
    parser.add_argument("--version", action="version", version=f"coordkit {coordkit.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="play every part of coordkit on real servers, and check it",
        description=_DEMO,
        epilog=_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument("--json", action="store_true", help="print one JSON object on stdout; the story goes to stderr")
    demo.add_argument("--redis-url", metavar="URL", help="a Redis to use, or several: redis://host:port/db,...")
    demo.add_argument("--zookeeper", metavar="HOSTS", help="a ZooKeeper to use: host:port,host:port/chroot")
    demo.add_argument(
        "--scene",
        type=int,
        nargs="+",
        action="extend",
        choices=range(1, 6),
        metavar="N",
        help="play only these (1 to 5)",
    )
    lock_command.add(commands)
    reshard_command.add(commands)
    # What follows `--` is a command, whatever it looks like.
    words = list(sys.argv[1:] if arguments is None else arguments)
    end = words.index("--") if "--" in words else len(words)
    chosen = parser.parse_args(words[:end])
    if chosen.command is None:
        parser.print_help()
        return 2
    if chosen.command == "lock":
        return lock_command.main(chosen, words[end + 1 :])
    if chosen.command == "reshard":
        return reshard_command.main(chosen)

    from coordkit.demo import command  # `coordkit --version` needs no redis client

    scenes = sorted(set(chosen.scene or range(1, 6)))
    return command.demo(command.Options(chosen.json, chosen.redis_url, chosen.zookeeper, scenes))


if __name__ == "__main__":
    sys.exit(main())
