"""Spaces: what agents remember, kept apart, durable, and found again.

    memory     Memory: the face that the kernel's handlers call
    settings   MemorySettings, Weights
    spaces     Spaces: make, name and open spaces
    layers     Layer and Stack: what a space stands on, and reading through it
    view       View: read, list, history of one space
    space      Space: write, update, delete in one space
    erasure    what a delete leaves, and takes from frozen layers
    folding    Folding: deep stacks made shallow in the background
    reach      Reach: what one search may see
    draft      one atomic change being put together
    living     LivingSpace: the same with pins, archive, merge, forget, undo
    lifecycle  the table of states, and the fates that tell of each change
    keeper     Keeper: changes states, tells who has to know
    activation Uses: how recently and how often each record was used
    forgetting what a record is worth, and tiers; pure
    merge      when two records say the same; pure
    attic      searching what is archived
    tally      the sums of a space, exact after any crash without counting
    records    records as bytes, and the keys they are under
    rid        record ids
    facts      which claims about one thing hold when; claims, settling: in the store
    moment     answers as of event and knowledge time; past: Past, records and facts then
    entities   names in a text
    graph      Grapher: entity graphs fed from the journal; walk: Walk, what is asked of them
    sharing    Sharing: who else may use a space, or a part of it
    audit      Audit: who used what is not his own
    follower   one derived index kept in step with the journal
    indexer    Indexer: all of those, opened and closed
    blobs      Blobs: originals of documents, by their hash
    capsule/   a space as a file, out and in again
    recall/    search (one ranking), question (the query), probe (candidates), fuse (base score),
               signals, talk and voice (conversations), dates, sieve (filters)

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
    async snapshot(space, owner, name="") -> int        async fork(space, owner, name="") -> int
    async attach(space, other, grant=0)                 async detach(space, other)
    view(space) -> View                                 holds(space, rid) -> bool
    async share(space, apid, access, by, only, ttl, parent) -> Grant
    async revoke(space, apid, by, grant)                sharing: Sharing    audit: Audit
    access(apid, space, own_space=0) -> "read" | "write" | None
    shared_with(apid) -> list[int]
    statistics() -> MemoryStatistics
"""
