"""Puts a broker together from its settings and a launcher, and runs it."""

import logging
import os
from collections import deque
from collections.abc import Callable
from functools import partial

from broker.about import About
from broker.gateways import BACKLOG, Gateways
from broker.logs.process_logs import ProcessLogs
from broker.lookup import Lookup
from broker.loop import Loop, Stop
from broker.measured import read_measured
from broker.models.catalog import Catalog
from broker.models.places import FileSystem, Places
from broker.models.removal import delete_leftovers, remove_model
from broker.performer import MEASURED_FILE, PINS_FILE, Performer
from broker.pins import read_pins
from broker.policy.downloads import Downloads
from broker.policy.events import Event
from broker.policy.flow import Flow
from broker.policy.flow_events import FlowEvent
from broker.policy.policies import Policies
from broker.policy.pool import Pool
from broker.processes.awake import Awake
from broker.processes.launcher import Launcher
from broker.processes.system import System
from broker.reread import Rereading
from broker.runtime import RuntimeDir
from broker.settings import BrokerSettings, load_settings
from broker.sockets import Sockets
from broker.upkeep import Upkeep
from broker.wire.clock import Clock
from broker.workers import Workers

logger = logging.getLogger(__name__)

# Errors to clients are in the sockets' queues at the end: how long they may take to leave.
_LINGER_SECONDS = 0.5


def run_broker(
    settings: BrokerSettings,
    runtime: RuntimeDir,
    launcher: Launcher,
    stop: Stop,
    system: System,
    *,
    has_lost_starter: Callable[[], bool] = lambda: False,
    awake: Awake | None = None,
    clock: Clock | None = None,
    file_system: FileSystem | None = None,
) -> str | None:
    """Serve until `stop` is readable, or its starter is lost; closes the launcher. Why the broker could not go on, None
    if it was meant to end. runtime: locked by this process. system: the machine with the workers. file_system: of the
    models. awake: keeps this machine from sleeping; None: nothing does."""
    clock, awake = clock or Clock(), awake or Awake(None)
    limits, run_id = settings.limits(system.total_bytes, has_metal=system.has_metal), os.urandom(3).hex()
    pool = Pool(limits, run_id, read_measured(settings.state_dir / MEASURED_FILE))
    downloads = Downloads(limits, run_id, str(settings.hub_dir), for_requests=settings.allow_downloads)
    policies = Policies(pool, downloads, Flow())
    catalog = Catalog(settings.models_dir, settings.hub_dir, settings.overrides, file_system)
    lookup = Lookup(catalog, policies.running, downloads=settings.allow_downloads)
    places = Places(settings.models_dir, settings.hub_dir, file_system)
    delete_leftovers(settings.models_dir, settings.hub_dir)
    caches = settings.prompt_caches
    caches.delete_leftovers()
    pins = read_pins(settings.state_dir / PINS_FILE)

    def tell(event: FlowEvent) -> None:
        for action in policies.handle(event, clock.now()):
            performer.perform(action)

    sockets = Sockets()
    try:
        inbox: deque[Event] = deque(lookup.pins([*settings.preloaded, *pins]))
        rereading = Rereading(
            settings,
            load=load_settings,
            limits=lambda current: current.limits(system.total_bytes, has_metal=system.has_metal),
            catalog=catalog,
            put=inbox.append,
        )
        workers = Workers(sockets.bind(runtime.worker_endpoint, backlog=0), launcher.sample)
        logs = ProcessLogs()
        gateways = Gateways(
            sockets.bind(runtime.gateway_endpoint, backlog=BACKLOG),
            put=inbox.append,
            lookup=lookup,
            logs=logs,
            view=policies,
            about=About(lambda: rereading.settings, system),
            reread=rereading.reread,
            tell=tell,
            clock=clock,
        )
        performer = Performer(
            launcher=launcher,
            logs=logs,
            workers=workers,
            gateways=gateways,
            lookup=lookup,
            put=inbox.append,
            remove=partial(remove_model, places),
            view=policies,
            state_dir=settings.state_dir,
            caches=caches,
            preloaded=[lookup.id_of(name) for name in settings.preloaded],
            wires_memory=settings.wired_memory,
            lends_prefill=settings.prefill_in_turns,
        )
        upkeep = Upkeep(runtime, sockets.rebind, has_lost_starter, awake, lambda: policies.is_busy)
        loop = Loop(
            inbox=inbox,
            policy=policies,
            performer=performer,
            workers=workers,
            gateways=gateways,
            launcher=launcher,
            logs=logs,
            system=system,
            stop=stop,
            must_end=upkeep.must_end,
            clock=clock,
            sample_seconds=settings.memory_sample_seconds,
        )
        loop.run()
        return upkeep.failure
    finally:
        awake.close()
        launcher.close()
        sockets.close(_LINGER_SECONDS)
