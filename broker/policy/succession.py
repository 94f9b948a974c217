"""Which instance of a model serves: one that has been loaded beside it takes its place, and one that ends leaves it.

reload.py decides when another one is loaded; deaths.py has the ends themselves.
"""

from broker.policy.answers import fail
from broker.policy.facts import Facts
from broker.policy.records import Instance, Model, Phase
from broker.wire.failure import Code, Failure


def take_over(model: Model) -> None:
    """The incoming instance serves from now on; the one before ends what it has begun."""
    assert model.incoming is not None
    assert model.outgoing is None
    before = model.serving
    model.serving, model.incoming, model.outgoing = model.incoming, None, before
    model.spec = model.serving.spec
    if before is not None and before.phase is Phase.READY:  # what was stated holds as long as no process has died
        model.serving.hear(before.keep_alive)


def begin_end(facts: Facts, model: Model, instance: Instance, why: str) -> None:
    """This instance is being ended. If it was loaded to take another one's place, that has failed, and nothing else
    has; if one is loaded to take its place, requests wait for that one as for any load."""
    reload = model.reload
    if reload is not None and reload.by is instance and instance.ready_at is None:
        for wait in reload.waits:
            fail(facts, wait.request_id, Failure(Code.LOAD_FAILED, why))
        model.reload = None
    incoming = model.incoming
    if instance is model.serving and incoming is not None and incoming.phase is Phase.LOADING:
        take_over(model)


def forget(model: Model, instance: Instance) -> None:
    """Its last process has exited."""
    if instance is model.serving:
        model.serving = None
        reload = model.reload
        if reload is not None and reload.holds:
            model.spec = reload.spec  # what is loaded next is what was asked for
        else:
            model.reload = None  # it has gone for another reason, and is as good as new when it is loaded next
    elif instance is model.incoming:
        model.incoming = None
    else:
        model.outgoing = None
