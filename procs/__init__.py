"""Processes: the table of them, how they start and end, signals, messages.

    process.py    Process, its states and the one table of transitions
    numbers.py    APIDs, never given out twice
    history.py    what is kept of processes on disk
    table.py      ProcessTable: births, look-up, states, waits, ends
    signals.py    deliver, terminate: TERM, bounded wait, KILL
    mailbox.py    Mailboxes: durable, bounded; Selector
    topics.py     Topics: who gets what is published
    links.py      Links: who hears of whose end
    supervisor.py Supervisor: which children start or stop now; no I/O
    tree.py       Tree: supervisors of supervisors
    inittab.py    the file that init runs
    cron.py       Cron: the next moment of a schedule

    launcher.py   Spawner (what the kernel needs) and Launcher (the real one), in the kernel
    parley.py     what launcher and zygote say to each other
    zygote.py     start_zygote, the zygote and its keeper: forks, reaps, leaves no orphan
    child.py      from the fork to the program's first line
    confine.py    what an agent's process cannot reach (mount namespace, Landlock)
    linux.py      prctl and process trees

The kernel's main calls ``start_zygote`` before anything else, gives the result to a
``Launcher``, and runs it, the table and its own parts in one nursery:

    zygote = start_zygote("userland.runtime", data)     one thread, no ZMQ, no LMDB yet
    launcher = Launcher(zygote, "userland.runtime", data)
    await nursery.start(launcher.run)

    table = ProcessTable(store, clock)
    lost = await table.open()                           who was alive when the kernel died
    await nursery.start(table.run)
    init = table.create(None, Born(kind="init", ...))

    process = table.create(caller, Born(kind="python", ...))        state NEW
    store.commit(table.record(process))  beside  launcher.launch(...)
    process.pid, process.kind = child.pid, child.kind; table.started(process)
    status = await child.wait()
    store.commit(table.record(process, exit)); table.exit(process, exit)
"""
