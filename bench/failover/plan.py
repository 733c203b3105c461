"""What one invocation measures: the command line, and which contenders come of it."""

import argparse
import pathlib

import hosts
import machine
import table
import volumes
from contender import MODES, Contender, Setup
from faults import FAULTS
from matriarch import Matriarch
from patroni import Patroni
from stolon import Stolon

PRODUCTS: dict[str, type[Contender]] = {"matriarch": Matriarch, "patroni": Patroni, "stolon": Stolon}
SETTINGS = tuple(dict.fromkeys(setting for product in PRODUCTS.values() for setting in product.settings))
STORES = ("etcd", "sqlite")
USUAL_FAULTS = ("postmaster", "node", "stop", "partition", "switchover")


def words(known):
    def split(text: str) -> list[str]:
        for word in text.split(","):
            if word not in known:
                raise argparse.ArgumentTypeError(f"unknown: {word}; known are {', '.join(known)}")
        return list(dict.fromkeys(text.split(",")))

    return split


def fault_list() -> str:
    about = {name: " ".join((kind.__doc__ or "").split()) for name, kind in FAULTS.items()}
    lines = [f"  {name:<16}{FAULTS[name].name}{': ' + text if text else ''}" for name, text in about.items()]
    return "faults (--faults all for all of them):\n" + "\n".join(lines)


def arguments(about: str) -> argparse.Namespace:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=about, epilog=fault_list(), formatter_class=shape)
    parser.add_argument("contenders", nargs="*", metavar="CONTENDER", help=f"of {', '.join(PRODUCTS)} (default: all)")
    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "--modes", type=words(MODES), default=["sync", "async"],
        help="sync: each one's quorum or own synchronous mode; on: first of a list; async (default: sync,async)",
    )
    what.add_argument(
        "--settings", type=words(SETTINGS), default=["default", "tight", "tightest"],
        help=f"of {', '.join(SETTINGS)}, for those that have them (default: default,tight,tightest)",
    )
    what.add_argument(
        "--store", dest="stores", type=words(STORES), default=["etcd"],
        help="etcd,sqlite; peers have etcd only (default: etcd)",
    )
    what.add_argument("--etcds", type=int, choices=(1, 3, 5), default=1, help="servers of etcd (default: 1)")
    what.add_argument(
        "--members", type=int, choices=range(2, 8), default=3, metavar="N",
        help="members of each cluster (default: 3)",
    )
    what.add_argument("--faults", help=f"comma list (default: {','.join(USUAL_FAULTS)}; with --table all that it has)")
    what.add_argument("--runs", type=int, help="repetitions of each fault (default: 3, with --table 10)")
    what.add_argument(
        "--table", action="store_true",
        help="what the product is held to, goals beside figures: ours with its defaults, the peers' synchronous modes",
    )
    what.add_argument(
        "--peer-runs", type=int, default=2, metavar="N",
        help="repetitions with a peer, of --table (default: %(default)s; with their defaults one takes a minute)",
    )
    what.add_argument(
        "--pooler", action="store_true",
        help="PgBouncer in front: ours run by `matriarch proxy --pooler`, the peers' before their router",
    )
    what.add_argument(
        "--load", type=int, nargs="?", const=8, default=0, metavar="CLIENTS",
        help="pgbench beside the ledger, on both cores (8 clients when no number is given)",
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--hosts", choices=("auto", "namespaces", "loopback"), default="auto",
        help="a network namespace for each member (root), or 127.0.0.1 for all (default: the first where it can be had)",
    )
    how.add_argument("--outage", type=float, metavar="SECONDS", help="how long the store stays away (default: 60)")
    how.add_argument("--postgres", type=int, metavar="MAJOR", help="PostgreSQL major (default: the oldest one installed)")
    how.add_argument(
        "--matriarch", type=pathlib.Path, metavar="FILE", default=machine.ROOT / "target/release/matriarch",
        help="the program (default: target/release/matriarch)",
    )
    how.add_argument(
        "--ledger", type=pathlib.Path, metavar="FILE", default=machine.ROOT / "target/release/ledger",
        help="the ledger program (default: target/release/ledger)",
    )
    how.add_argument(
        "--etcd", type=pathlib.Path, metavar="FILE", default=pathlib.Path("/usr/bin/etcd"),
        help="etcd's program (default: %(default)s)",
    )
    out = parser.add_argument_group("output")
    out.add_argument(
        "--json", type=pathlib.Path, metavar="FILE",
        help="every run, written anew after each: an interrupted run leaves its figures",
    )
    out.add_argument(
        "--chart", type=pathlib.Path, nargs="+", metavar="FILE",
        help="measure nothing: draw RESULTS.json … into OUT.svg (the last name)",
    )
    out.add_argument(
        "--show", type=pathlib.Path, metavar="FILE", help="measure nothing: print the table of an earlier --table --json FILE"
    )
    out.add_argument("--keep", action="store_true", help="keep the folders with logs and data")
    options = parser.parse_args()
    if options.chart:
        if len(options.chart) < 2 or options.chart[-1].suffix != ".svg":
            parser.error("--chart RESULTS.json [MORE.json …] OUT.svg")
        return options
    if options.show:
        return options
    if options.table:
        options.modes, options.stores = ["sync"], ["etcd"]
    options.contenders = options.contenders or list(PRODUCTS)
    options.runs = options.runs or (10 if options.table else 3)
    usual = dict.fromkeys(row.fault for row in table.ROWS) if options.table else USUAL_FAULTS
    options.faults = ",".join(FAULTS) if options.faults == "all" else options.faults or ",".join(usual)
    try:
        options.contenders, options.faults = words(PRODUCTS)(",".join(options.contenders)), words(FAULTS)(options.faults)
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))
    # Used from within other namespaces, which lose the current directory.
    options.ledger, options.matriarch = options.ledger.resolve(), options.matriarch.resolve()
    if options.outage is not None:
        for name in ("store", "store-frozen"):
            FAULTS[name].lasts = options.outage
    for program, package in ((options.ledger, "matriarch-testkit"), (options.matriarch, "matriarch")):
        if not program.exists():
            parser.error(f"{program} is missing; cargo build --release -p {package}")
    why = hosts.missing()
    if options.hosts == "namespaces" and why:
        parser.error(why)
    options.hosts = "loopback" if options.hosts == "loopback" or why else "namespaces"
    return options


class Variant:
    """A product in one mode, with one of its settings, over one store."""

    def __init__(self, product: str, mode: str, settings: str, store: str, options: argparse.Namespace):
        self.product, self.mode, self.settings, self.store, self.options = product, mode, settings, store, options
        kind = PRODUCTS[product]
        named = [product, *([settings] if len(kind.settings) > 1 else []), mode, *([store] if len(options.stores) > 1 else [])]
        self.name = "-".join(named)

    def build(self, folder: pathlib.Path, bins: pathlib.Path) -> Contender:
        options = self.options
        setup = Setup(
            folder,
            bins,
            self.mode,
            self.settings,
            self.store,
            etcd_servers=options.etcds,
            etcd_program=options.etcd,
            members=options.members,
            pooler=options.pooler,
            place=hosts.Namespaces if options.hosts == "namespaces" else hosts.Local,
            volumes="volume" in options.faults and not volumes.missing(),
            program=options.matriarch,
        )
        return PRODUCTS[self.product](setup)

    def lacks(self, fault: str) -> str | None:
        """Why this fault cannot be had; None when it can."""
        reasons = {
            "namespaces": hosts.missing() or ("members share the loopback address" if self.options.hosts == "loopback" else None),
            "volumes": volumes.missing(),
            "etcd": None if self.store == "etcd" else "a SQLite file can neither be stopped nor cut off",
            "upgrade": None if PRODUCTS[self.product].upgrades else "it has no upgrade of an agent in place",
        }
        return next((reasons[need] for need in sorted(FAULTS[fault].needs) if reasons[need]), None)


def variants(options: argparse.Namespace, skip) -> list[Variant]:
    """Every combination that the contenders have; `skip(what, why)` is told of those that cannot be had."""
    found = []
    for product in options.contenders:
        kind = PRODUCTS[product]
        if why := kind.missing():
            skip(product, why)
            continue
        # Ours has no second settings: asked for anything, it runs with its defaults.
        settings = [one for one in options.settings if one in kind.settings] or list(kind.settings[:1])
        for store in options.stores:
            for setting in settings:
                for mode in options.modes:
                    if store not in kind.stores or mode not in kind.modes:
                        skip(f"{product} {mode} {store}", f"it has {', '.join(kind.modes)} over {', '.join(kind.stores)}")
                    else:
                        found.append(Variant(product, mode, setting, store, options))
    return found
