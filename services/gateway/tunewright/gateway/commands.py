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
        limits = keys.Limits(
            requests_per_minute=arguments.requests_per_minute,
            tokens_per_minute=arguments.tokens_per_minute,
            storage_bytes=arguments.storage_bytes,
        )
        scopes = arguments.scope or [keys.Scope.ADMIN]
        key = keys.create(path, arguments.name, project=arguments.project, scopes=scopes, limits=limits)
        sys.stderr.write(f"API key {arguments.name!r} is in {path} as a hash; this is the only time it is shown:\n")
        sys.stdout.write(f"{key}\n")
    elif arguments.action == "revoke":
        keys.revoke(path, arguments.id)
        sys.stderr.write(f"API key {arguments.id} is revoked\n")
    else:
        for record in keys.load(path):
            made = time.strftime("%Y-%m-%d", time.gmtime(record.created_at))
            scopes = ",".join(record.scopes)
            sys.stdout.write(f"{record.id}  {made}  {record.name}  {record.project}  {scopes}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tunewright.gateway")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("serve", help="serve HTTP (the default); settings come from TUNEWRIGHT_* variables")
    actions = commands.add_parser("keys", help="mind the API keys").add_subparsers(dest="action", required=True)
    create = actions.add_parser("create", help="make a key; it is printed once")
    create.add_argument("--name", required=True, help="whose key it is")
    create.add_argument("--project", default=keys.DEFAULT_PROJECT, help="projects do not see each other's things")
    create.add_argument(
        "--scope",
        action="append",
        choices=[scope.value for scope in keys.Scope],
        help="what it may do, once for each; admin if none is given",
    )
    for name, what in (
        ("requests-per-minute", "requests that it may send in a minute"),
        ("tokens-per-minute", "tokens of prompts and answers in a minute"),
        ("storage-bytes", "bytes of files that it may keep"),
    ):
        create.add_argument(f"--{name}", type=int, default=0, help=f"{what}; 0: no limit")
    actions.add_parser("list", help="list ids, dates, names, projects and scopes")
    revoke = actions.add_parser("revoke", help="make a key worthless")
    revoke.add_argument("id", help="id of the key, as listed")
    return parser
