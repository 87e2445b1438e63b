"""Algorithm 1 in verl 0.9's V1 trainer, as plug-ins: `docs/verl.md` says how a script that runs today is changed.

    plugin.py        what verl loads by the entry point `verl.plugins`
    options.py       `trainer.v1.appo.*`, and what of verl's own settings would contradict it
    trainer.py       when things happen: verl's synchronous trainer with another `step`
    writer.py        what a method may ask for: branches, scores, random numbers
    queue.py         rollouts and tensors to and from the transfer queue
    agent_loop.py    one rollout, from a prompt or from within another one
    engine.py        turns, by verl's rollout servers
    equipment.py     protocol, tools, environments and rewards of a process
    chat.py          calls as chat templates write them and verl's parsers read them

Left out on purpose: what a method does (`appo.methods`), how a rollout is written (`appo.rollout.loop`), and the loss,
the update, sharding, servers, weights and checkpoints, which are verl's own. TRL is not needed, nor can it be beside
verl.
"""
