"""Spaces: what agents remember, kept apart, durable, and found again.

    memory     Memory: the face that the kernel's handlers call
    settings   MemorySettings, Weights
    spaces     Spaces: make, name and open spaces
    space      Space: write, update, delete, read, history of one space
    draft      one atomic change being put together
    tally      the sums of a space, exact after any crash without counting
    records    records as bytes, and the keys they are under
    rid        record ids
    sharing    Sharing: who else may use a space
    follower   one derived index kept in step with the journal
    indexer    Indexer: all of those, opened and closed
    recall/    search (candidates, catching up), fuse (one ranking), sieve (filters)

``Memory`` trusts its caller: who may do what is checked in the kernel. Numbers are spaces,
``writer`` and ``apid`` are processes, ``name`` is the syscall that is noted in the record.

    Memory(store, indexes, embedder, clock, random, offload, log, settings=None)
    async run(task_status)            in a nursery, for as long as it is used
    async aclose()                    after that
    async create_space(owner, name="") -> int           EEXIST
    resolve(ref) -> int    known(ref) -> int | None     ENOENT
    space_of(rid) -> int                                EINVAL
    async write(space, writer, note, name, limit) -> Written
    async write_many(space, writer, notes, name, limit) -> list[Written]
    read(rid, version) -> Record    read_key(space, key, version) -> Record
    async newest(space, segment, limit, before) -> list[Record]
    async search(spaces, call) -> Hits
    async update(writer, call, name) -> Written
    async delete(writer, rid, expect, name)
    history(rid) -> list[Version]
    async stat(space) -> SpaceInfo
    async share(space, apid, access, by) -> Grant       async revoke(space, apid)
    access(apid, space, own_space=0) -> "read" | "write" | None
    shared_with(apid) -> list[int]
    statistics() -> MemoryStatistics
"""
