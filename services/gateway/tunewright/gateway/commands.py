"""The command line: `python -m tunewright.gateway` serves, `… keys create|list|revoke` minds the API keys."""

import argparse
import sys
import time
from pathlib import Path

from tunewright.chassis.settings import read_settings
from tunewright.gateway import keys
from tunewright.gateway.settings import GatewaySettings


def main() -> None:
    """Do what the command line says. Raises TunewrightError."""
    arguments = _parser().parse_args()
    settings = read_settings(GatewaySettings)
    if arguments.command == "keys":
        _mind_keys(arguments, settings.api_keys_file)
        return
    # The server brings the workflow engine with it; minding keys needs none of that.
    from tunewright.gateway.server import serve  # noqa: PLC0415

    serve(settings)


def _mind_keys(arguments: argparse.Namespace, path: Path) -> None:
    if arguments.action == "create":
        key = keys.create(path, arguments.name)
        sys.stderr.write(f"API key {arguments.name!r} is in {path} as a hash; this is the only time it is shown:\n")
        sys.stdout.write(f"{key}\n")
    elif arguments.action == "revoke":
        keys.revoke(path, arguments.id)
        sys.stderr.write(f"API key {arguments.id} is revoked\n")
    else:
        for record in keys.load(path):
            made = time.strftime("%Y-%m-%d", time.gmtime(record.created_at))
            sys.stdout.write(f"{record.id}  {made}  {record.name}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tunewright.gateway")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("serve", help="serve HTTP (the default); settings come from TUNEWRIGHT_* variables")
    actions = commands.add_parser("keys", help="mind the API keys").add_subparsers(dest="action", required=True)
    create = actions.add_parser("create", help="make a key; it is printed once")
    create.add_argument("--name", required=True, help="whose key it is")
    actions.add_parser("list", help="list ids, dates and names")
    revoke = actions.add_parser("revoke", help="make a key worthless")
    revoke.add_argument("id", help="id of the key, as listed")
    return parser
