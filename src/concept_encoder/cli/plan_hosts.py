"""`concept-encoder plan hosts check | install | up | down FILE`: the user's machines as one Ray cluster."""

import zipfile
from pathlib import Path

import click

from concept_encoder.errors import UserError, nearest

SUBCOMMANDS = ("check", "install", "up", "down")
_file = click.argument("file", type=click.Path())


class _Hosts(click.Group):
    def resolve_command(self, context: click.Context, args: list[str]) -> tuple:
        if args and args[0] not in SUBCOMMANDS and not args[0].startswith("-"):
            raise UserError(f"plan hosts {args[0]}: no such command; {nearest(args[0], SUBCOMMANDS)}")
        return super().resolve_command(context, args)


@click.group("hosts", cls=_Hosts, invoke_without_command=True)
@click.pass_context
def hosts(context: click.Context) -> None:
    """Your servers as one Ray cluster, over SSH and without root; then plan run --on ray:FILE.

    FILE names them, see docs/servers.md.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@hosts.command("check")
@_file
def check(file: str) -> None:
    """What every host has, and what it lacks. Exit code 1 when one lacks something."""
    from concept_encoder.cli.show import show_table
    from concept_encoder.lab.hosts.cluster import Cluster
    from concept_encoder.lab.hosts.hosts_file import load_hosts

    rows, wrong = [], []
    for host, found, missing in Cluster(load_hosts(file)).check():
        wrong += [f"{host.ssh}: {problem}" for problem in missing]
        if found:
            python, free = ".".join(map(str, found["python"])), f"{found['free'] / 2**30:,.0f} GiB"
            ray = found["versions"][0] if found["versions"] else "not installed"
            gpus = f"{len(found['gpus'])}"
            rows.append([host.ssh, python, found["cpus"], gpus, free, ray, "up" if found["up"] else "down"])
        else:
            rows.append([host.ssh, *[""] * 5, "no answer"])
    show_table(file, ["host", "Python", "CPUs", "GPUs", "free", "Ray", "cluster"], rows)
    for line in wrong:
        click.echo(line)
    if wrong:
        raise click.exceptions.Exit(1)


@hosts.command("install")
@_file
@click.option("--wheel", type=click.Path(), help="Of this project.  [default: built from this checkout]")
def install(file: str, wheel: str | None) -> None:
    """Install this project and Ray into a virtual environment on every host, or bring them up to date there."""
    from concept_encoder.lab.hosts.cluster import Cluster, build_wheel
    from concept_encoder.lab.hosts.hosts_file import load_hosts

    loaded = load_hosts(file)
    if loaded.environment is not None:
        raise UserError("hosts.environment: the hosts have one of their own; leave it out to install into folder/venv")
    if wheel is not None and not Path(wheel).is_file():
        raise UserError(f"--wheel {wheel}: no such file")
    if wheel is not None and not (Path(wheel).match("concept_encoder-*.whl") and zipfile.is_zipfile(wheel)):
        raise UserError(f"--wheel {wheel}: not a wheel of this project; python -m build --wheel makes one")
    cluster = Cluster(loaded)
    built = Path(wheel) if wheel else build_wheel()
    click.echo(f"installing {built.name} on {len(loaded.all)} hosts …", err=True)
    cluster.install(built)
    click.echo(f"installed in {loaded.folder}/venv")


@hosts.command("up")
@_file
def up(file: str) -> None:
    """Bring the hosts up as one cluster; what is missing there is installed first. Again: what is down comes up."""
    from concept_encoder.lab.hosts.cluster import Cluster, build_wheel
    from concept_encoder.lab.hosts.hosts_file import load_hosts

    loaded = load_hosts(file)
    cluster = Cluster(loaded)
    rows = cluster.check()
    reachable = [found for _, found, missing in rows if found and not missing]
    if len(reachable) == len(rows) and not all(found["versions"] for found in reachable):
        click.echo("installing first, which takes minutes …", err=True)
        cluster.install(build_wheel())
    cluster.up(lambda line: click.echo(line, err=True))
    click.echo(f"up; concept-encoder plan run PLAN --on ray:{file}")


@hosts.command("down")
@_file
def down(file: str) -> None:
    """Stop the cluster on every host, also a half-started one. Runs that go on there end; their checkpoints stay."""
    from concept_encoder.lab.hosts.cluster import Cluster
    from concept_encoder.lab.hosts.hosts_file import load_hosts

    Cluster(load_hosts(file)).down(lambda line: click.echo(line, err=True))
